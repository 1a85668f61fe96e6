"""HDF5 recordings in the layouts of DSEC, Prophesee, e2vid, MVSEC and M3ED."""

import h5py
import hdf5plugin
import numpy as np
import pytest

from pauca.errors import InputError
from pauca.events.io import Remedy, read

N = 500
RNG = np.random.default_rng(0)
T = np.cumsum(RNG.integers(1, 5, N))
X = RNG.integers(0, 640, N).astype(np.uint16)
Y = RNG.integers(0, 480, N).astype(np.uint16)
P = RNG.integers(0, 2, N).astype(np.uint8)


def _dsec(file, group="events", **changes):
    columns = {"t": T.astype(np.uint32), "x": X, "y": Y, "p": P, **changes}
    for name, column in columns.items():
        file.create_dataset(f"{group}/{name}", data=column, **hdf5plugin.Blosc(cname="zstd"))
    file["ms_to_idx"] = np.searchsorted(T, np.arange(0, T[-1], 1000))


def _file(folder, fill, **options):
    path = folder / "recording.h5"
    with h5py.File(path, "w") as file:
        fill(file, **options)
    return path


def _same(events, offset=0):
    assert np.array_equal(events.t_us, T + offset)
    assert np.array_equal(events.x, X)
    assert np.array_equal(events.y, Y)
    assert np.array_equal(events.p, P)


def test_dsec(tmp_path):
    """blosc, uint32 times and `t_offset`, as DSEC's events.h5 has them."""
    path = _file(tmp_path, _dsec)
    _same(read(path).events)
    with h5py.File(path, "a") as file:
        file["t_offset"] = 49_599_300_523
    recording = read(path)
    _same(recording.events, offset=49_599_300_523)
    assert recording.events.size == (640, 480)
    assert recording.report.format == "HDF5, events"


def test_offset_of_zero(tmp_path):
    path = _file(tmp_path, _dsec)
    with h5py.File(path, "a") as file:
        file["t_offset"] = 0
    _same(read(path).events)


def test_an_unfit_calibration_is_left_out_and_said(tmp_path):
    path = _file(tmp_path, _dsec)
    with h5py.File(path, "a") as file:
        file["K"], file["lens"] = [0.83, 1.1, 0.5, 0.5], b"radtan"
    recording = read(path)
    _same(recording.events)
    assert recording.camera is None
    assert "are they normalized" in recording.no_camera
    assert recording.notes[-1].startswith("dropped the calibration in it: camera: fx 0.83")


def test_prophesee(tmp_path):
    def fill(file):
        table = np.zeros(N, [("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")])
        table["x"], table["y"], table["p"], table["t"] = X, Y, P, T
        file["CD/events"] = table
        file["CD/indexes"] = np.zeros(4, [("id", "<u8"), ("ts", "<i8")])
        file.attrs["geometry"] = "1280x720"

    recording = read(_file(tmp_path, fill))
    _same(recording.events)
    assert recording.events.size == (1280, 720)
    assert recording.report.findings == ()


def test_e2vid(tmp_path):
    def fill(file):
        for name, column in (("ts", 1467939998 + T / 1e6), ("xs", X), ("ys", Y), ("ps", P.astype(bool))):
            file[f"events/{name}"] = column
        file.attrs["sensor_resolution"] = (480, 640)

    recording = read(_file(tmp_path, fill))
    _same(recording.events, offset=1467939998_000_000)
    assert recording.events.size == (640, 480)


def test_mvsec_matrix_and_choice_of_the_camera(tmp_path):
    def fill(file):
        for side in ("left", "right"):
            columns = np.stack([X, Y, 1506117891 + T / 1e6, np.where(P == 1, 1, -1)], axis=1)
            file[f"davis/{side}/events"] = columns.astype(float)

    path = _file(tmp_path, fill)
    with pytest.raises(InputError, match=r"2 groups of events \(davis/left/events, davis/right/events\); say which "):
        read(path)
    recording = read(path, group="davis/left/events")
    _same(recording.events, offset=1506117891_000_000)
    assert "polarity -1/1 read as 0/1" in recording.notes
    with pytest.raises(InputError, match=r"no events in group 'davis/top'; groups of events: davis/left/events"):
        read(path, group="davis/top")


@pytest.mark.parametrize("group", ["prophesee/left", "/"])
def test_other_places(tmp_path, group):
    _same(read(_file(tmp_path, _dsec, group=group)).events)


def test_time_unit(tmp_path):
    assert np.array_equal(read(_file(tmp_path, _dsec), time_unit="ms").events.t_us, T * 1000)


def test_no_events_found(tmp_path):
    def fill(file):
        file["images"] = np.zeros((3, 4, 4))

    with pytest.raises(InputError, match=r"no events found; expected events/t, x, y, p \(DSEC\)"):
        read(_file(tmp_path, fill))


def test_a_named_type_beside_the_events_or_in_the_place_of_a_column(tmp_path):
    path = _file(tmp_path, _dsec)
    with h5py.File(path, "a") as file:
        file["kind"] = np.dtype("<i8")
    _same(read(path).events)
    with h5py.File(path, "a") as file:
        del file["events/t"]
        file["events/t"] = np.dtype([("t", "<i8"), ("x", "<i8"), ("y", "<i8"), ("p", "<i8")])
    with pytest.raises(InputError, match="no events found"):
        read(path)


@pytest.mark.parametrize("offset", [np.inf, np.nan, [1, 2], "soon"])
def test_an_offset_that_is_no_number(tmp_path, offset):
    path = _file(tmp_path, _dsec)
    with h5py.File(path, "a") as file:
        file["t_offset"] = offset
    with pytest.raises(InputError, match=r"recording\.h5"):
        read(path)


def test_missing_keys(tmp_path):
    def fill(file):
        _dsec(file)
        del file["events/p"]

    with pytest.raises(InputError, match="no events found"):
        read(_file(tmp_path, fill))


def test_empty_recording(tmp_path):
    with pytest.raises(InputError, match="holds no events"):
        read(_file(tmp_path, _dsec, **{name: np.zeros(0, np.uint16) for name in "txyp"}))


def test_mixed_lengths(tmp_path):
    with pytest.raises(InputError, match=r"different length \(t 500, x 499,"):
        read(_file(tmp_path, _dsec, x=X[:-1]))


def test_a_truncated_file_whose_columns_grew_together_gives_its_beginning(tmp_path):
    """As a camera's recorder appends them; HDF5 itself refuses such a file whole."""
    path = tmp_path / "recording.h5"
    n, step = len(T) // 100 * 100, 100
    with h5py.File(path, "w") as file:
        columns = {"t": T, "x": X, "y": Y, "p": P}
        for name, column in columns.items():
            file.create_dataset(f"events/{name}", (0,), column.dtype, maxshape=(None,), chunks=(step,))
        for start in range(0, n, step):
            for name, column in columns.items():
                file[f"events/{name}"].resize((start + step,))
                file[f"events/{name}"][start:] = column[start : start + step]
            file.flush()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    recording = read(path)
    kept = len(recording.events)
    assert 0 < kept < n
    assert np.array_equal(recording.events.x, X[:kept])
    assert f"lost {n - kept:,} events after the end of a truncated file" in recording.notes[0]
    assert f"byte {len(whole) * 3 // 4:,}" in recording.notes[0]
    with pytest.raises(InputError, match="strict"):
        read(path, strict=True)


def test_a_truncated_file_with_columns_one_after_the_other_holds_no_whole_event(tmp_path):
    path = _file(tmp_path, _dsec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(InputError, match=r"recording\.h5: (truncated at byte|cannot be read as HDF5).*copy it again"):
        read(path)


def test_damaged_chunk_gives_the_events_before_it(tmp_path, monkeypatch, caplog):
    """Bits flipped inside a compressed chunk of a long file: the prefix is kept, and said to be one."""
    monkeypatch.setattr("pauca.events.io.hdf5._BLOCK", 100)

    def fill(file):
        for name, column in (("t", T), ("x", X), ("y", Y), ("p", P)):
            file.create_dataset(f"events/{name}", data=column, chunks=(100,), compression="gzip")

    path = _file(tmp_path, fill)
    with h5py.File(path) as file:
        chunk = file["events/t"].id.get_chunk_info(3)
    damaged = bytearray(path.read_bytes())
    damaged[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(damaged)
    recording = read(path)
    assert np.array_equal(recording.events.t_us, T[:300])
    assert recording.report.count(Remedy.LOST) == 200
    assert "damage to the file" in caplog.text
    assert recording.report.found == 500
    with pytest.raises(InputError, match="refused, because strict"):
        read(path, strict=True)


def test_a_link_to_a_group_above_ends_nowhere(tmp_path):
    """A flipped bit made one: the walk went on for a minute and a half, and the refusal named 984 groups."""
    path = tmp_path / "loop.h5"
    with h5py.File(path, "w") as file:
        for name, column in (("t", [1, 5, 9]), ("x", [1, 2, 3]), ("y", [3, 2, 1]), ("p", [0, 1, 1])):
            file[f"events/{name}"] = np.array(column, np.uint16)
        file["more/below/above"] = file["/"]
        file["again"] = file["events"]
        file["more/below/again"] = h5py.SoftLink("/more")
    assert read(path, size=(10, 10)).events.t_us.tolist() == [1, 5, 9]


def test_a_refusal_names_some_of_many(tmp_path):
    path = tmp_path / "many.h5"
    with h5py.File(path, "w") as file:
        for number in range(40):
            for name in "txyp":
                file[f"camera{number:02d}/{name}"] = np.arange(3, dtype=np.uint16)
    with pytest.raises(InputError, match=r"holds 40 groups of events \(camera00, .*camera11 and 28 more\); say which"):
        read(path)
    with pytest.raises(InputError, match=r"no events in group 'b'; groups of events: camera00, .* and 28 more$"):
        read(path, group="b")
