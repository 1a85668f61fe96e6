"""What is written is read back bit for bit; a file is whole or not there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauca.errors import InputError
from pauca.events.camera import Camera
from pauca.events.io import GroundTruth, ReadConfig, Recording, WriteConfig, convert, read, write
from pauca.events.io.writer import ENDINGS
from pauca.events.types import Events

CAMERA = Camera((64, 48), 50.1, 50.2, 31.9, 24.1, -0.3, 0.1, 0.001, -0.002, 0.01)


def _recording(n: int = 100, seed: int = 0, floating: bool = False) -> Recording:
    rng = np.random.default_rng(seed)
    pixel = np.float32 if floating else np.uint16
    events = Events(
        np.sort(rng.integers(-(10**15), -(10**15) + 100 * n, n)),
        (rng.integers(0, 64, n) + 0.25 * floating).astype(pixel),
        (rng.integers(0, 48, n) + 0.25 * floating).astype(pixel),
        rng.integers(0, 2, n).astype(np.uint8),
        (64, 48),
    )
    truth = GroundTruth(np.arange(20) / 1e3, rng.standard_normal((20, 3)), rng.standard_normal((20, 4)))
    return Recording(events, CAMERA, ground_truth=truth)


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".hdf5"])
@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 500), seed=st.integers(0, 99))
def test_round_trip(tmp_path_factory, suffix, n, seed):
    recording = _recording(n, seed)
    back = read(write(tmp_path_factory.mktemp("out") / f"rec{suffix}", recording), strict=True)
    for name in ("t_us", "x", "y", "p"):
        assert np.array_equal(getattr(back.events, name), getattr(recording.events, name))
    assert back.events.size == (64, 48)
    assert back.camera == CAMERA
    assert np.array_equal(back.ground_truth.t_s, recording.ground_truth.t_s)
    assert np.array_equal(back.ground_truth.omega_rad_s, recording.ground_truth.omega_rad_s)
    assert np.array_equal(back.ground_truth.quat_xyzw, recording.ground_truth.quat_xyzw)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_undistorted_pixels(tmp_path, suffix):
    recording = _recording(floating=True)
    back = read(write(tmp_path / f"rec{suffix}", recording))
    assert np.array_equal(back.events.x, recording.events.x)
    assert back.events.undistorted


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_without_camera_and_truth(tmp_path, suffix):
    back = read(write(tmp_path / f"rec{suffix}", Recording(_recording().events)))
    assert back.camera is None
    assert back.ground_truth is None


def test_existing_file_is_kept_unless_forced(tmp_path):
    path = tmp_path / "rec.npz"
    path.write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        write(path, _recording())
    assert path.read_text() == "precious"
    write(path, _recording(), force=True)
    assert len(read(path).events) == 100


def test_other_endings(tmp_path):
    with pytest.raises(InputError, match=r"rec\.mat: recordings are written as \.txt, .* \.raw or \.dat"):
        write(tmp_path / "rec.mat", _recording())
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full_disk)
    with pytest.raises(Exception, match="No space left"):
        write(tmp_path / "rec.npz", _recording())
    assert list(tmp_path.iterdir()) == []


def _times(rng: np.random.Generator, n: int, start: int, gaps: int, longest: int) -> np.ndarray:
    steps = rng.integers(0, 300, n)
    if n > 1:  # a silence lies between events: DAT cannot begin after 35 minutes
        steps[rng.integers(1, n, gaps)] += rng.integers(0, longest, gaps)
    return start + np.cumsum(steps)


FORMATS = {  # start of the times, longest silence
    ".txt": (-(10**9), 10**9),
    ".csv.gz": (10**12, 10**9),
    ".npz": (10**15, 10**9),
    ".h5": (1_700_000_000_123_456, 10**9),
    ".raw": (0, 10**9),  # EVT3: 60 times its clock runs over
    ".dat": (0, 2**31 - 300),
}


@pytest.mark.parametrize("ending", FORMATS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 300), step=st.integers(1, 100), gaps=st.integers(0, 4))
def test_every_format_gives_back_what_was_written(tmp_path_factory, ending, seed, n, step, gaps):
    folder, rng = tmp_path_factory.mktemp("out"), np.random.default_rng(seed)
    start, longest = FORMATS[ending]
    start += int(rng.integers(0, 1 << 26))
    pixels = (rng.integers(0, side, n).astype(np.uint16) for side in (1280, 720))
    events = Events(_times(rng, n, start, gaps, longest), *pixels, rng.integers(0, 2, n).astype(np.uint8), (1280, 720))
    written = write(folder / f"a{ending}", Recording(events))
    assert [path.name for path in folder.iterdir()] == [written.name]
    _assert_same(read(written, size=(1280, 720), strict=True).events, events)
    # The same in small chunks, from the file that was written.
    from pauca.events.io import reader, writer

    original = writer.open_events
    writer.open_events = lambda path, config: reader.open_events(path, config, step)
    try:
        again = convert(written, folder / f"b{ending}", ReadConfig(size=(1280, 720)))
    finally:
        writer.open_events = original
    assert again.report.kept == n
    _assert_same(read(again.path, size=(1280, 720), strict=True).events, events)


def _assert_same(got: Events, expected: Events) -> None:
    for name in ("t_us", "x", "y", "p"):
        assert np.array_equal(getattr(got, name), getattr(expected, name)), name


def test_evt2_is_a_choice(tmp_path):
    events = Events(np.array([5, 2**35, 2**35 + 1]), *np.ones((2, 3), np.uint16), np.ones(3, np.uint8), (240, 180))
    path = write(tmp_path / "a.raw", Recording(events), config=WriteConfig(encoding="evt2"))
    assert b"% evt 2.0" in path.read_bytes()
    _assert_same(read(path).events, events)


def test_times_that_a_format_cannot_hold_begin_anew_and_it_is_said(tmp_path):
    events = Events(10**15 + np.arange(3), *np.ones((2, 3), np.uint16), np.ones(3, np.uint8), (240, 180))
    source = write(tmp_path / "a.npz", Recording(events))
    for ending in (".raw", ".dat"):
        done = convert(source, tmp_path / f"b{ending}")
        assert "us were taken off" in done.summary()
        assert np.diff(read(done.path).events.t_us).tolist() == [1, 1]


def test_a_format_of_whole_pixels_refuses_fractions_and_leaves_nothing(tmp_path):
    source = write(tmp_path / "a.npz", _recording(floating=True))
    for ending in (".raw", ".dat"):
        with pytest.raises(InputError, match=rf"b\{ending}: this format .* these have fractions; write \.npz"):
            convert(source, tmp_path / f"b{ending}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    back = read(convert(source, tmp_path / "c.csv").path, size=(64, 48))
    assert np.array_equal(back.events.x, _recording(floating=True).events.x)


def test_damage_that_shows_at_the_end_leaves_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"{i} 5 5 1\n" for i in range(100)) + "x\n" * 90)
    for ending in ENDINGS:
        with pytest.raises(InputError, match="unusable"):
            convert(tmp_path / "a.txt", tmp_path / f"b{ending}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("compression", ["gzip", "blosc", "none"])
def test_hdf5_as_dsec_reads_it(tmp_path, compression):
    import h5py

    recording = _recording(2000, seed=4)
    path = write(tmp_path / "a.h5", recording, config=WriteConfig(compression=compression))
    with h5py.File(path) as file:
        t, index = file["events/t"][:], file["ms_to_idx"][:]
        assert np.array_equal(t + file["t_offset"][()], recording.events.t_us)
        for ms, first in enumerate(index):
            assert first == len(t) or t[first] >= 1000 * ms
            assert first == 0 or t[first - 1] < 1000 * ms
    _assert_same(read(path).events, recording.events)
