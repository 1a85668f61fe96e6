"""Events that arrive: what a live run says is what the whole recording says, and what it loses is counted."""

import json
import socket
import sys
import time
from threading import Thread
from types import ModuleType

import numpy as np
import pytest

from pauca import cli, events
from pauca.errors import ConfigError, InputError
from pauca.events import AlignConfig, Aligner, Events, Recording
from pauca.events.live import LiveConfig, open_source, receive, replay, run, send
from pauca.events.live.hot_pixels import without_hot_pixels
from pauca.events.live.recent import Recent

from ..scenes import CAMERA, rotating_events

CONFIG = AlignConfig(packet_events=3_000, min_events=400, border=20)


@pytest.fixture(scope="module")
def motion() -> Events:
    return rotating_events([1.0, -2.0, 3.0], points=120, per_point=120, duration_us=80_000)


def _windows(motion: Events, size: int = 500) -> list[Events]:
    return [motion[first : first + size] for first in range(0, len(motion), size)]


def _whole_pixels(motion: Events) -> Events:
    x, y = (
        np.rint(axis).clip(0, n - 1).astype(np.uint16)
        for axis, n in zip((motion.x, motion.y), motion.size, strict=True)
    )
    return Events(motion.t_us, x, y, motion.p, motion.size)


def _run(source, deadline_s=60.0, take=None):
    found = []
    report = run(source, Aligner(CAMERA, CONFIG), take or (lambda a, late_s: found.append(a)), LiveConfig(deadline_s))
    return found, report


def test_a_live_run_says_what_the_whole_recording_says(motion):
    whole = list(Aligner(CAMERA, CONFIG).follow(motion))
    found, report = _run(replay([motion[:4_000], motion[4_000:]], 0.002, speed=np.inf))
    assert len(found) >= len(whole) > 4
    for one, other in zip(found, whole[:-2], strict=False):
        assert (one.start_us, one.end_us) == (other.start_us, other.end_us)
        np.testing.assert_array_equal(one.velocity, other.velocity)
    assert report.events == len(motion) == sum(a.n_events for a in found)
    assert report.packets == len(found) == len(report.latencies_s)
    assert "ms (median)" in report.summary()
    assert "dropped" not in report.summary()


def test_in_real_time_answers_come_while_events_do_and_are_the_offline_ones(motion):
    whole, found, given, told = list(Aligner(CAMERA, CONFIG).follow(motion)), [], [], []

    def as_it_happens():
        for window in replay([motion], 0.005, speed=0.2):
            given.append(time.monotonic())
            yield window

    def take(alignment, late_s):
        found.append(alignment)
        told.append(time.monotonic())
        assert late_s >= 0

    _, report = _run(as_it_happens(), take=take)
    assert told[0] < given[-1]
    for one, other in zip(found, whole[:-2], strict=False):
        np.testing.assert_array_equal(one.velocity, other.velocity)
        np.testing.assert_array_equal(one.covariance, other.covariance)
    middle_s, most_s = np.percentile(report.latencies_s, [50, 99])
    assert 0 < middle_s <= most_s < 5.0  # generous: other work shares the processor
    assert middle_s < 1.0
    assert f"latency {middle_s * 1e3:.1f} ms (median), {most_s * 1e3:.1f} ms (99 %)" in report.summary()


def test_what_the_processor_does_not_keep_up_with_is_dropped_and_counted(motion):
    def slowly(alignment, late_s):
        time.sleep(0.2)

    _, report = _run(iter(_windows(motion, 100)), deadline_s=0.05, take=slowly)
    assert report.dropped_events > 0
    assert report.events + report.dropped_events == len(motion)
    assert f"dropped {report.dropped_events:,} events" in report.summary()


def test_events_that_come_too_late_are_left_out_and_counted(motion):
    windows = _windows(motion)
    _, report = _run([*windows[:8], windows[3], *windows[8:]])
    assert report.late_events == len(windows[3])
    assert report.events == len(motion)


def test_an_error_of_the_source_is_raised_after_the_events_before_it(motion):
    def breaks():
        yield from _windows(motion)[:20]
        raise InputError("the camera is gone")

    taken = []
    with pytest.raises(InputError, match="the camera is gone"):
        _run(breaks(), take=lambda alignment, late_s: taken.append(alignment))
    assert sum(a.n_events for a in taken) == 20 * 500


def test_a_replay_gives_every_window_of_time(motion):
    gap = Events(
        motion.t_us + np.where(np.arange(len(motion)) > 3_000, 50_000, 0), motion.x, motion.y, motion.p, motion.size
    )
    windows = list(replay(iter([gap[:10], gap[10:]]), 0.005, speed=np.inf))
    assert sum(len(window) for window in windows) == len(gap)
    assert sum(len(window) == 0 for window in windows) == 9
    begin_us = int(gap.t_us[0])
    for i, window in enumerate(windows):
        assert np.all((window.t_us >= begin_us + 5000 * i) & (window.t_us <= begin_us + 5000 * (i + 1)))


def test_a_replay_takes_the_time_that_the_recording_took(motion):
    started = time.monotonic()
    list(replay([motion], 0.01, speed=0.4))
    assert time.monotonic() - started >= 0.08 / 0.4 * 0.99


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind(("127.0.0.1", 0))
        return ear.getsockname()[1]


def test_events_travel_as_datagrams(motion):
    port, found = _free_port(), []
    listener = Thread(target=lambda: found.extend(receive("127.0.0.1", port, motion.size, idle_s=5)))
    pixels = _whole_pixels(motion)
    listener.start()
    time.sleep(0.3)
    send(_windows(pixels, 200)[:5], "127.0.0.1", port)
    listener.join(10)
    assert not listener.is_alive()
    assert sum(len(window) for window in found) == 1_000
    np.testing.assert_array_equal(np.concatenate([window.t_us for window in found]), pixels.t_us[:1_000])
    np.testing.assert_array_equal(np.concatenate([window.x for window in found]), pixels.x[:1_000])


def test_a_datagram_of_something_else_is_said():
    port = _free_port()

    def mistaken():
        time.sleep(0.3)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
            mouth.sendto(b"hello", ("127.0.0.1", port))

    Thread(target=mistaken).start()
    with pytest.raises(InputError, match="a datagram of 5 bytes does not hold events of 13 bytes"):
        list(receive("127.0.0.1", port, (64, 48), idle_s=5))


def test_silence_ends_a_stream_of_datagrams():
    assert list(receive("127.0.0.1", _free_port(), (64, 48), idle_s=0.05)) == []


def test_an_address_that_is_taken_is_said():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match="cannot listen there"):
            list(receive("127.0.0.1", ear.getsockname()[1], (64, 48)))


@pytest.mark.parametrize("address", ["udp://127.0.0.1", "udp://x:70000", "tcp://a:1", "file://", "udp://x:0"])
def test_addresses_that_name_nothing(address):
    with pytest.raises(InputError, match="expected file://RECORDING or udp://HOST:PORT"):
        open_source(address)


def test_hot_pixels_are_left_out_from_the_second_after_they_are_found():
    rng = np.random.default_rng(0)
    t_us = np.sort(rng.integers(0, 3_000_000, 6_000))
    x, y = rng.integers(0, 64, t_us.size), rng.integers(0, 48, t_us.size)
    hot = rng.random(t_us.size) < 0.2
    x[hot], y[hot] = 7, 5
    stream = Events.from_arrays(t_us, x, y, np.zeros(t_us.size, int), (64, 48))
    told = []
    cleaned = list(without_hot_pixels(_windows(stream, 100), told))
    assert set(told) == {1}
    for window in cleaned:
        at_hot = ((window.x == 7) & (window.y == 5)).sum()
        if window.t_us[0] > 1_100_000:
            assert at_hot == 0
        elif window.t_us[-1] < 950_000:
            assert at_hot > 5


def test_the_command_prints_a_line_of_json_for_each_packet(motion, tmp_path, capsys):
    pixels = _whole_pixels(motion)
    events.write(tmp_path / "motion.npz", Recording(pixels, CAMERA))
    assert cli.main(["events", "live", "--from", f"file://{tmp_path}/motion.npz", "--deadline-ms", "60000"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert sum(line["events"] for line in lines) == len(motion)
    assert all(len(line["velocity"]) == len(line["sd"]) == 3 for line in lines)
    first = next(Aligner(CAMERA).follow(pixels))
    assert lines[0]["status"] == first.status
    assert lines[0]["velocity"] == pytest.approx(first.velocity.tolist(), abs=1e-6)
    assert "trusted), latency" in err


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (InputError("no camera any more"), 2)])
def test_counts_are_told_however_a_live_run_ends(motion, tmp_path, monkeypatch, capsys, stop, code):
    events.write(tmp_path / "motion.npz", Recording(_whole_pixels(motion), CAMERA))
    told = []

    def print_line(alignment, latency_s):
        told.append(alignment)
        if len(told) == 3:
            raise stop

    monkeypatch.setattr("pauca.events.verbs.live._print_line", print_line)
    assert cli.main(["events", "live", "--from", f"{tmp_path}/motion.npz", "--deadline-ms", "60000"]) == code
    summary, last = capsys.readouterr().err.splitlines()
    assert " 3 packets (" in summary
    assert last == ("pauca: interrupted" if code == 130 else "pauca: no camera any more")


def test_recent_events_are_those_of_the_packet(motion):
    recent = Recent()
    windows = _windows(motion, 100)
    for window in recent.watch(windows[:20]):
        assert len(window) == 100
    middle = recent.take(int(motion.t_us[550]), int(motion.t_us[1249]))
    assert middle is not None
    np.testing.assert_array_equal(middle.t_us, motion.between(int(motion.t_us[550]), int(motion.t_us[1249]) + 1).t_us)
    assert len(recent._windows) <= 15
    assert recent.take(int(motion.t_us[5_000]), int(motion.t_us[5_100])) is None


def test_the_viewer_shows_what_the_lines_say(motion, tmp_path, capsys):
    chunk = pytest.importorskip("rerun.chunk", reason="rerun-sdk is not installed")
    events.write(tmp_path / "motion.npz", Recording(_whole_pixels(motion), CAMERA))
    words = ["events", "live", "--from", f"file://{tmp_path}/motion.npz", "--deadline-ms", "60000", "--quiet"]
    assert cli.main([*words, "--viewer", str(tmp_path / "live.rrd")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    times, places = [], set()
    for part in chunk.RrdReader(tmp_path / "live.rrd").stream():
        places.add(part.entity_path)
        if part.entity_path == "/status":
            times += part.to_record_batch().column("recording").to_pylist()
    assert {"/velocity", "/status", "/events", "/stabilized"} <= places
    assert [round(time / np.timedelta64(1, "us")) for time in times] == [line["t_us"] for line in lines]
    assert cli.main([*words, "--viewer", "somewhere"]) == 2
    assert "a viewer is open" in capsys.readouterr().err


def test_a_file_of_the_viewer_is_not_written_over(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rerun", ModuleType("rerun"))
    (tmp_path / "a.rrd").write_bytes(b"before")
    assert cli.main(["events", "live", "--from", "file://none.npz", "--viewer", str(tmp_path / "a.rrd")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "a.rrd").read_bytes() == b"before"


def test_bad_wishes_are_said(tmp_path, capsys):
    assert cli.main(["events", "live", "--from", "udp://127.0.0.1:9"]) == 2
    assert "add --size and --camera" in capsys.readouterr().err
    assert cli.main(["events", "live", "--from", str(tmp_path / "none.raw")]) == 2
    assert cli.main(["events", "live", "--from", "a.raw", "--speed", "0"]) == 2
    with pytest.raises(ConfigError, match="deadline_s"):
        LiveConfig(deadline_s=-1.0)
