"""Recordings at the ends of what there is: no event, one, one pixel, ten minutes; a right answer or one clear line."""

import json
from pathlib import Path

import numpy as np
import pytest

from pauca import cli, events
from pauca.events import Camera, Events, Recording
from pauca.events.verbs.files import recordings_in

from ..scenes import random_events

CAMERA = Camera((64, 48), 60.0, 60.0, 31.5, 23.5)


def _one_pixel() -> Events:
    t_us = np.sort(np.random.default_rng(0).integers(0, 1_000_000, 5_000))
    return random_events(t_us, np.full(5_000, 30), np.full(5_000, 20))


RECORDINGS = {
    "none": random_events([]),
    "one": random_events([5]),
    "two": random_events([5, 900_000]),
    "one pixel": _one_pixel(),
}
NOTHING = "holds no events"
NO_VELOCITY = "no velocity of the trajectory can be trusted"
ALL_HOT = "all 5,000 events are of 1 hot pixel"
REFUSED = {
    **{("none", verb): NOTHING for verb in ("info", "check", "convert", "align", "knots", "panorama", "video", "live")},
    **{(name, verb): NO_VELOCITY for name in ("one", "two") for verb in ("panorama", "video", "export")},
    **{("one pixel", verb): ALL_HOT for verb in ("align", "knots", "panorama", "video")},
}
VERBS = ("info", "check", "convert", "align", "knots", "panorama", "video", "live", "export", "gyro")


def _words(verb: str, path: Path, out: Path) -> list[str]:
    kept = out.parent / "kept" / "trajectory.npz"
    return {
        "info": ["info", str(path), "--json"],
        "check": ["check", str(path), "--json"],
        "convert": ["convert", str(path), f"{out}.h5"],
        "align": ["align", str(path), "--out", str(out), "--images", "1"],
        "knots": ["align", str(path), "--out", str(out), "--estimator", "trajectory", "--images", "0"],
        "panorama": ["panorama", str(path), "--out", str(out)],
        "video": ["video", str(path), "--out", f"{out}.gif"],
        "live": ["live", "--from", f"file://{path}", "--speed", "1000", "--deadline-ms", "60000"],
        "export": ["export", str(kept), f"{out}.txt"],
        "gyro": ["gyro", str(kept), str(path.with_name("imu.txt"))],
    }[verb]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", RECORDINGS)
def test_every_verb_answers_or_says_why_not(name, verb, tmp_path, capsys):
    path = tmp_path / "few.npz"
    events.write(path, Recording(RECORDINGS[name], CAMERA))
    imu = [f"{t:.3f} 0 0 9.81 0.1 0.2 {t:.3f}" for t in np.arange(0, 1, 0.005)]
    path.with_name("imu.txt").write_text("\n".join(imu) + "\n")
    if verb in ("export", "gyro"):
        if name in ("none", "one pixel"):
            return  # nothing was aligned, so there is no trajectory
        assert cli.main(["events", "align", str(path), "--out", str(tmp_path / "kept"), "--images", "0"]) == 0
        capsys.readouterr()
    code = cli.main(["events", *_words(verb, path, tmp_path / "out")])
    out, err = capsys.readouterr()
    refused = REFUSED.get((name, verb), "trusted velocities, and 12 are needed" if verb == "gyro" else None)
    if refused:
        assert code == 2
        assert refused in err
        assert len(err.strip().splitlines()) == 1
        assert not list(tmp_path.glob("out*")), "something was left behind"
        return
    assert code == 0, err
    if verb == "live":
        lines = [json.loads(line) for line in out.splitlines()]
        assert sum(line["events"] for line in lines) == len(RECORDINGS[name])
        assert {line["status"] for line in lines} == {"degenerate"}
    if verb in ("align", "knots"):
        found = events.Trajectory.from_npz(tmp_path / "out" / "trajectory.npz")
        assert found.n_events.sum() == len(RECORDINGS[name])
        assert not found.trusted.any()
    if verb == "info":
        assert json.loads(out)["count"] == len(RECORDINGS[name])
    if verb == "check" and name == "one pixel":
        assert [fault["kind"] for fault in json.loads(out)["faults"]].count("hot pixels") == 1
    if verb == "convert":
        assert len(events.read(tmp_path / "out.h5").events) == len(RECORDINGS[name])


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory):
    """Ten minutes at a desk: rest, with a second of turning in the middle of it and at its end."""
    folder = tmp_path_factory.mktemp("long")
    rng = np.random.default_rng(0)
    turn = events.simulate(
        events.SimulateConfig(movement="constant", peak_deg_s=60.0, duration_s=1.0, noise_hz=0.1), camera=CAMERA
    ).events
    parts, begins_us = [], (300_000_000, 599_000_000)
    edges_us = [0, *(time for begin in begins_us for time in (begin, begin + 1_000_000))]
    for start, end in zip(edges_us[::2], edges_us[1::2], strict=False):
        t_us = np.sort(rng.integers(start, end, int((end - start) * 1e-6 * 1500)))
        parts += [random_events(t_us), Events(turn.t_us + end, turn.x, turn.y, turn.p, turn.size)]
    whole = events.joined(parts)
    events.write(folder / "long.h5", Recording(whole, CAMERA))
    return folder / "long.h5", len(whole)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_ten_minutes(long_recording, verb, tmp_path, capsys):
    path, count = long_recording
    kept = tmp_path / "kept"
    words = _words(verb, path, tmp_path / "out")
    if verb in ("panorama", "video", "export", "gyro"):
        assert cli.main(["events", "align", str(path), "--out", str(kept), "--images", "0", "--quiet"]) == 0
    if verb in ("panorama", "video"):
        words += ["--trajectory", str(kept / "trajectory.npz")] + (["--fps", "1"] if verb == "video" else [])
    if verb == "gyro":
        t_s = np.arange(0, 600, 0.005)
        rate = np.radians(60) * (((t_s >= 300) & (t_s < 301)) | (t_s >= 599))
        np.savetxt(path.with_name("imu.txt"), np.column_stack([t_s, *[0 * t_s] * 4, rate, 0 * t_s]), fmt="%.4f")
    if verb == "live":
        words[words.index("--speed") + 1] = "1000000"
    capsys.readouterr()
    assert cli.main(["events", *words]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    if verb == "info":
        assert json.loads(out)["duration_s"] == pytest.approx(600, abs=0.1)
    if verb in ("align", "knots"):
        found = events.Trajectory.from_npz(tmp_path / "out" / "trajectory.npz")
        assert found.n_events.sum() == pytest.approx(count, rel=0.001)
        turning = (found.t_s > 300.1) & (found.t_s < 300.9) & found.trusted
        assert np.degrees(np.median(found.velocity[turning, 1])) == pytest.approx(60, abs=3)
        resting = (found.t_s > 10) & (found.t_s < 290) & found.trusted
        assert np.degrees(np.abs(found.velocity[resting]).max()) < 1
    if verb == "gyro":
        assert "offset" in out


@pytest.mark.parametrize("verb", ["panorama", "align"])
def test_a_folder_is_not_called_like_a_file(tmp_path, capsys, verb):
    assert cli.main(["events", verb, str(tmp_path / "a.npz"), "--out", str(tmp_path / "view.png")]) == 2
    assert "view.png looks like a file, and results are several" in capsys.readouterr().err
    assert not (tmp_path / "view.png").exists()


def test_labels_beside_recordings_are_none_of_them(tmp_path):
    """Prophesee's data sets have boxes of objects beside each recording, as NPY."""
    event = [("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")]
    np.save(tmp_path / "a_td.npy", np.zeros(5, event))
    np.save(tmp_path / "a_bbox.npy", np.zeros(5, [("ts", "<u8"), *[(name, "<f4") for name in "xywh"]]))
    np.save(tmp_path / "times.npy", np.arange(5))
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")  # may be one: reading says what is wrong
    assert [path.name for path in recordings_in(tmp_path)] == ["a_td.npy", "cut.npy"]
    assert recordings_in(tmp_path / "times.npy") == [tmp_path / "times.npy"]
