"""What is written is read back bit for bit; a file is whole or not there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauca.errors import InputError
from pauca.events.camera import Camera
from pauca.events.io import GroundTruth, Recording, read, write
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
    with pytest.raises(InputError, match=r"rec\.csv: recordings are written as \.npz, \.h5 or \.hdf5"):
        write(tmp_path / "rec.csv", _recording())
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full_disk)
    with pytest.raises(Exception, match="No space left"):
        write(tmp_path / "rec.npz", _recording())
    assert list(tmp_path.iterdir()) == []
