"""Chunk by chunk comes out what reading at once gives: the same events, repairs, reports and refusals."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauca.errors import InputError
from pauca.events.io import ReadConfig, open_events, read
from pauca.events.io.source import Block, Source
from pauca.events.io.stream import EventStream, read_whole

from ...memory import PEAK

PATH = Path("rec.bin")


def _source(columns: dict[str, np.ndarray], step: int, **said) -> Source:
    def blocks(_):
        for start in range(0, max(1, len(columns["t"])), step):
            yield Block(**{name: column[start : start + step] for name, column in columns.items()})

    return Source("test", blocks, plain=False, **said)


def _damaged(rng: np.random.Generator, n: int, kinds: str) -> dict[str, np.ndarray]:
    """Half a million events a second, with some of what goes wrong in files."""
    t = np.cumsum(rng.integers(0, 5, n))
    if "d" in kinds:  # disorder
        late = rng.integers(0, n, max(1, n // 20))
        t[late] -= rng.integers(0, 2000, len(late))
    if "s" in kinds:  # single times that are wrong, also beside each other
        for i in rng.integers(0, n, 4):
            t[i] += int(rng.choice([-(2**33), 2**33]))
    if "j" in kinds:  # the clock was reset
        t[n // 2 :] -= 50_000
    x, y = rng.integers(0, 240, n).astype(float), rng.integers(0, 180, n).astype(float)
    p = rng.choice([-1, 1], n) if "m" in kinds else rng.integers(0, 2, n)
    if "p" in kinds:
        x[rng.integers(0, n, 3)], y[rng.integers(0, n, 2)], p[rng.integers(0, n, 2)] = 2010, np.nan, 7
    if "f" in kinds:
        x += 0.25
    return {"t": t, "x": x, "y": y, "p": p}


def _outcome(read_all):
    """Events and report, or the refusal."""
    try:
        events, report = read_all()
    except InputError as error:
        return str(error)
    return [np.asarray(column).tolist() for column in events], report.as_dict()


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 400),
    step=st.integers(1, 90),
    chunk=st.integers(1, 130),
    kinds=st.lists(st.sampled_from("dsjmpf"), max_size=3).map("".join),
    size=st.sampled_from([None, (240, 180)]),
    sort=st.booleans(),
)
def test_chunks_are_the_whole(seed, n, step, chunk, kinds, size, sort):
    columns = _damaged(np.random.default_rng(seed), n, kinds)

    def whole():
        recording = read_whole(PATH, _source(columns, len(columns["t"])), size, sort)
        events = recording.events
        return (events.t_us, events.x, events.y, events.p), recording.report

    def chunks():
        stream = EventStream(PATH, _source(columns, step), size, sort, chunk_events=chunk)
        parts = list(stream)
        assert all(len(part) == chunk for part in parts[:-1])
        names = ("t_us", "x", "y", "p")
        return [np.concatenate([getattr(part, name) for part in parts]) for name in names], stream.report

    assert _outcome(chunks) == _outcome(whole)


FILES = {
    "davis346_emlb_demo-01.aedat4": {},
    "dvs128_Lapiseira.aedat": {},
    "expelliarmus_evt2_sample.raw": {},
    "expelliarmus_evt3_sample.raw": {},
    "faery_dvs.es": {},
    "ros1_evt3_640x480.bag": {},
    "ros2_libcaer_640x480.db3": {},
    "ros2_test_events_2.mcap": {},
    "tonic_sample_dvxplorer.aedat4": {},
    "tonic_sample_ncars.dat": {},
    "tonic_sample_nmnist.bin": {},
}


@pytest.mark.realdata
@pytest.mark.parametrize("name", FILES)
def test_real_files_in_chunks(pauca_data, name, monkeypatch):
    path = pauca_data / "events" / "formats" / name
    whole = read(path)
    monkeypatch.setattr("pauca.events.io.source.BLOCK_BYTES", 99_991 // 8 * 8)
    stream = open_events(path, chunk_events=10_007)
    parts = list(stream)
    for column in ("t_us", "x", "y", "p"):
        assert np.array_equal(np.concatenate([getattr(part, column) for part in parts]), getattr(whole.events, column))
    assert stream.report == whole.report
    assert stream.size == whole.events.size
    assert (stream.inertial is None) == (whole.inertial is None)
    assert sum(len(part) for part in stream) == len(whole.events)  # a second pass begins anew


def _write_npz(path: Path, compressed: bool) -> None:
    rng = np.random.default_rng(3)
    arrays = {"t_us": np.cumsum(rng.integers(0, 5, 5000)), "x": rng.integers(0, 240, 5000), "size": (240, 180)}
    arrays |= {"y": rng.integers(0, 180, 5000).astype(np.uint8), "p": rng.integers(0, 2, 5000).astype(bool)}
    (np.savez_compressed if compressed else np.savez)(path, **arrays)


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_is_streamed_without_unpacking_it(tmp_path, compressed, monkeypatch):
    monkeypatch.setattr("pauca.events.io.npz._BLOCK_EVENTS", 300)
    path = tmp_path / "a.npz"
    _write_npz(path, compressed)
    parts = list(open_events(path, chunk_events=700))
    assert [len(part) for part in parts] == [700] * 7 + [100]
    with np.load(path) as file:
        assert np.array_equal(np.concatenate([part.y for part in parts]), file["y"])


def test_times_that_turn_out_to_have_fractions(tmp_path, monkeypatch):
    """The first lines promise microseconds; the file is read anew when one has a fraction."""
    monkeypatch.setattr("pauca.events.io.text._BLOCK_BYTES", 40)
    path = tmp_path / "events.txt"
    path.write_text("".join(f"{i / 4:g} {i} 1 1\n" for i in range(0, 40, 4)) + "9.5 3 1 0\n")
    stream = open_events(path, ReadConfig(size=(240, 180)), chunk_events=3)
    assert np.concatenate([part.t_us for part in stream]).tolist() == [*range(0, 10_000_000, 1_000_000), 9_500_000]
    assert stream.report.clean


def test_a_refusal_at_the_end_comes_at_the_end(tmp_path):
    path = tmp_path / "events.txt"
    path.write_text("".join(f"{i} 5 5 1\n" for i in range(100)) + "".join(f"{i} 500 5 1\n" for i in range(100, 160)))
    stream = open_events(path, ReadConfig(size=(240, 180), time_unit="us"), chunk_events=10)
    with pytest.raises(InputError, match="60 of 160 events are unusable"):
        list(stream)
    assert stream.report is None


def test_strict_refuses_at_the_end(tmp_path):
    path = tmp_path / "events.txt"
    path.write_text("".join(f"{i} 5 5 1\n" for i in range(100)) + "100 500 5 1\n")
    with pytest.raises(InputError, match="refused, because strict"):
        list(open_events(path, ReadConfig(size=(240, 180), time_unit="us", strict=True)))


def test_memory_holds_chunks_and_not_the_file(tmp_path):
    """60 million events of EVT2 would take 840 MB at once."""
    import subprocess
    import sys

    path = tmp_path / "long.raw"
    t = np.arange(0, 1 << 16, dtype=np.uint32)
    with path.open("wb") as file:
        file.write(b"% evt 2.0\n% geometry 640x480\n% end\n")
        for high in range(60):
            words = np.empty((1 << 10, 65), np.uint32)
            words[:, 0] = 0x80000000 | np.arange(1 << 10) + (high << 10)
            words[:, 1:] = 1 << 28 | (np.arange(64) << 22) | (t[:1024, None] % 640 << 11) | t[:1024, None] % 480
            words.astype("<u4").tofile(file)
    code = (
        f"{PEAK}\nfrom pauca import events; before = peak_kib()\n"
        f"n = sum(len(chunk) for chunk in events.open_events({str(path)!r}))\n"
        "print(n, (peak_kib() - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, grown_mib = map(int, done.stdout.split())
    assert count == 60 << 16
    assert grown_mib < 150


def test_what_comes_before_a_refusal_is_given_out(tmp_path):
    path = tmp_path / "events.txt"
    path.write_text("".join(f"{i} 5 5 1\n" for i in range(50_000, 50_100)) + "7 5 5 1\n8 5 5 1\n9 5 5 1\n")
    chunks, got = iter(open_events(path, ReadConfig(size=(240, 180), time_unit="us"), chunk_events=30)), []
    with pytest.raises(InputError, match=r"line 101: time steps back by 0\.050092 s"):
        got.extend(chunk for chunk in chunks)
    assert sum(len(chunk) for chunk in got) == 100
