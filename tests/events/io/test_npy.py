"""Structured arrays as other libraries save them."""

import numpy as np
import pytest

from pauca.errors import InputError
from pauca.events import Remedy, open_events, read

METAVISION = np.dtype(
    {"names": ["x", "y", "p", "t"], "formats": ["<u2", "<u2", "<i2", "<i8"], "offsets": [0, 2, 4, 8], "itemsize": 16}
)


def _saved(path, kind=METAVISION, n=2000, t="t", p="p", scale=1):
    rng, array = np.random.default_rng(3), np.zeros(n, kind)
    array[t] = np.sort(rng.integers(0, 10_000, n)) * scale
    array["x"], array["y"], array[p] = rng.integers(640, size=n), rng.integers(480, size=n), rng.integers(2, size=n)
    np.save(path, array)
    return array


def test_fields_of_metavision_and_their_unit_is_said(tmp_path):
    array = _saved(tmp_path / "a.npy")
    recording = read(tmp_path / "a.npy")
    got = recording.events
    assert got.size == (640, 480)
    assert np.array_equal(got.t_us, array["t"])
    for name in ("x", "y", "p"):
        assert np.array_equal(getattr(got, name), array[name])
    assert "times are whole numbers: taken as microseconds" in recording.notes


def test_other_names_seconds_and_signed_polarity(tmp_path):
    kind = [("timestamp", "f8"), ("x", "i4"), ("y", "i4"), ("polarity", "i1")]
    array = _saved(tmp_path / "a.npy", kind, t="timestamp", p="polarity", scale=1e-6)
    array["polarity"] = 2 * array["polarity"] - 1
    np.save(tmp_path / "a.npy", array)
    got = read(tmp_path / "a.npy", size=(640, 480)).events
    assert np.array_equal(got.t_us, np.rint(array["timestamp"] * 1e6))
    assert np.array_equal(got.p, array["polarity"] > 0)


def test_a_cut_file_gives_its_beginning_and_the_byte(tmp_path):
    array = _saved(tmp_path / "a.npy")
    data = (tmp_path / "a.npy").read_bytes()
    start = len(data) - array.nbytes
    (tmp_path / "a.npy").write_bytes(data[: start + 700 * 16 + 9])
    recording = read(tmp_path / "a.npy")
    assert len(recording.events) == 700
    assert recording.report.found == 2000
    assert recording.report.count(Remedy.LOST) == 1300
    assert f"events behind byte {start + 700 * 16:,}" in recording.report.summary()
    assert sum(map(len, open_events(tmp_path / "a.npy", chunk_events=99))) == 700


def test_what_an_array_leaves_open_is_one_line(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(5, [("x", "u2"), ("y", "u2"), ("t", "i8")]))
    with pytest.raises(InputError, match=r"a\.npy: fields x, y, t leave open what p is"):
        read(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(InputError, match=r"b\.npy: damaged, cannot be read as NPY"):
        read(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.array([None, {}], object), allow_pickle=True)
    with pytest.raises(InputError, match="Python objects"):
        read(tmp_path / "c.npy")
