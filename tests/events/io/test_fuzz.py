"""Damage of any kind to any format, read chunk by chunk: valid events or one refusal, the same as read at once."""

import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pauca import events
from pauca.errors import InputError
from pauca.events.io import ReadConfig, Recording, open_events, read, write
from pauca.events.types import Events

from ...memory import PEAK
from . import made
from .made import SIZE


def _small(n: int = 3000) -> Recording:
    rng = np.random.default_rng(0)
    t = np.cumsum(rng.integers(0, 60, n))
    return Recording(
        Events.from_arrays(t, rng.integers(0, 240, n), rng.integers(0, 180, n), rng.integers(0, 2, n), SIZE)
    )


@lru_cache
def _whole() -> dict[str, bytes]:
    """One recording in every format."""
    with tempfile.TemporaryDirectory() as name:
        return _written(Path(name))


def _written(folder: Path) -> dict[str, bytes]:
    recording, files = _small(), {}
    for name in ("a.txt", "b.csv", "c.txt.gz", "d.npz", "e.h5", "f.raw", "g.dat"):
        files[name] = write(folder / name, recording).read_bytes()
    evt2 = write(folder / "h.raw", recording, config=events.WriteConfig(encoding="evt2"))
    plain = write(folder / "i.h5", recording, config=events.WriteConfig(compression="none"))
    seen = recording.events
    return files | {
        "h.raw": evt2.read_bytes(),
        "i.h5": plain.read_bytes(),
        "j.es": made.event_stream(seen),
        "k.aedat": made.aedat2(seen),
        "l.aedat": made.aedat3(seen),
        "m.aedat4": made.aedat4(seen, 1),
        "n.aedat4": made.aedat4(seen, 3),
        "o.raw": made.evt21(seen),
        "p.bin": made.nmnist(seen),
        "q.bag": made.bag(seen, folder, "bag"),
        "r.db3": made.bag(seen, folder, "db3"),
        "s.mcap": made.bag(seen, folder, "mcap"),
        "t.npy": made.npy(seen, folder),
    }


NAMES = [
    *("a.txt", "b.csv", "c.txt.gz", "d.npz", "e.h5", "f.raw", "g.dat", "h.raw", "i.h5", "j.es", "k.aedat", "l.aedat"),
    *("m.aedat4", "n.aedat4", "o.raw", "p.bin", "q.bag", "r.db3", "s.mcap", "t.npy"),
]


def test_the_whole_files_hold_the_recording(tmp_path):
    expected = _small().events
    for name in NAMES:
        (tmp_path / name).write_bytes(_whole()[name])
        got = read(tmp_path / name, size=SIZE).events
        for column in ("t_us", "x", "y", "p"):
            assert np.array_equal(getattr(got, column), getattr(expected, column)), name


KINDS = ["cut", "hole", "noise", "doubled", "bits", "header", "same"]


def _damaged(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    if kind == "header":
        for _ in range(int(rng.integers(1, 6))):
            changed[int(rng.integers(0, min(len(data), 500)))] = int(rng.integers(0, 256))
        return bytes(changed)
    if kind == "same":
        start, length = int(rng.integers(0, len(data))), int(rng.integers(1, 5000))
        changed[start : start + length] = bytes([int(rng.choice([0, 255]))]) * len(changed[start : start + length])
        return bytes(changed)
    if kind == "cut":
        return data[: rng.integers(1, len(data))]
    if kind == "hole":
        start = int(rng.integers(0, len(data)))
        return data[:start] + data[start + int(rng.integers(1, 200)) :]
    if kind == "noise":
        start, length = int(rng.integers(0, len(data))), int(rng.integers(1, 300))
        changed[start : start + length] = rng.bytes(len(changed[start : start + length]))
        return bytes(changed)
    if kind == "doubled":
        return data + data[int(rng.integers(0, len(data))) :]
    for _ in range(int(rng.integers(1, 30))):
        changed[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def _outcome(work):
    """Columns and report, or that the file is refused."""
    try:
        parts, report = work()
    except InputError:
        return "refused"  # perhaps for another reason: reading at once knows the whole file's when the first one shows
    for part in parts:  # valid, whatever the file held
        Events(part.t_us, part.x, part.y, part.p, part.size)
    columns = [np.concatenate([getattr(part, name) for part in parts]).tolist() for name in ("t_us", "x", "y", "p")]
    assert columns[0] == sorted(columns[0])
    assert report.kept == len(columns[0]) <= report.found
    return columns, report.as_dict()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=20_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    chunk=st.integers(1, 4000),
    size=st.sampled_from([None, SIZE]),
)
def test_damage_is_repaired_or_refused_alike_in_chunks(tmp_path, name, seed, kind, chunk, size):
    path = tmp_path / name
    path.write_bytes(_damaged(_whole()[name], kind, np.random.default_rng(seed)))

    def at_once():
        recording = read(path, size=size)
        return [recording.events], recording.report

    def in_chunks():
        stream = open_events(path, ReadConfig(size=size), chunk)
        return list(stream), stream.report

    assert _outcome(in_chunks) == _outcome(at_once)


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name",
    ["davis346_emlb_demo-01.aedat4", "ros1_evt3_640x480.bag", "ros2_libcaer_640x480.db3", "tonic_sample_nmnist.bin"],
)
def test_damage_to_real_files(pauca_data, tmp_path, name):
    rng = np.random.default_rng(1)
    data = (pauca_data / "events" / "formats" / name).read_bytes()
    for kind in ("cut", "noise", "bits"):
        path = tmp_path / name
        path.write_bytes(_damaged(data, kind, rng))

        def at_once(path=path):
            recording = read(path)
            return [recording.events], recording.report

        def in_chunks(path=path):
            stream = open_events(path, chunk_events=50_000)
            return list(stream), stream.report

        assert _outcome(in_chunks) == _outcome(at_once)


def test_a_small_file_cannot_claim_much_memory(tmp_path):
    """Headers that promise billions of events must not be believed before the events are there."""
    path = tmp_path / "bomb.npz"
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, kind in (("t_us", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "|u1")):
            with archive.open(f"{name}.npy", "w") as member:
                header = {"descr": kind, "fortran_order": False, "shape": (10**11,)}
                np.lib.format.write_array_header_1_0(member, header)
                member.write(bytes(1000))
    code = (
        f"{PEAK}\nfrom pauca import events\nfrom pauca.errors import InputError\nbefore = peak_kib()\n"
        f"try:\n    events.read({str(path)!r})\nexcept InputError as error:\n    print(error)\n"
        "print((peak_kib() - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    refusal, grown_mib = done.stdout.splitlines()
    assert "damaged or cut short" in refusal
    assert int(grown_mib) < 100


def test_no_events_one_event_one_pixel(tmp_path):
    one = Events.from_arrays(*(np.array([value]) for value in (5, 0, 0, 1)), (1, 1))
    for ending in (".txt", ".npz", ".h5", ".raw", ".dat"):
        path = write(tmp_path / f"one{ending}", Recording(one))
        (got,) = list(open_events(path, ReadConfig(size=(1, 1), time_unit="s" if ending == ".txt" else None)))
        assert got.t_us.tolist() == [5]
        none = write(tmp_path / f"none{ending}", Recording(one[:0]))
        with pytest.raises(InputError, match=r"no events|is empty|holds no"):
            list(open_events(Path(none), ReadConfig(size=(1, 1))))
