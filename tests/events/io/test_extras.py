"""What stands beside the events in NPZ and HDF5 (camera, ground truth, inertia), of any type and shape."""

import re

import h5py
import numpy as np
import pytest

from pauca.errors import InputError
from pauca.events.io import read

T = np.arange(0, 50_000, 50)
COLUMNS = {"t_us": T, "x": T % 240, "y": T % 180, "p": T % 2}
INERTIAL = {"imu_t_us": T, "imu_gyro": np.zeros((len(T), 3)), "imu_accel": np.zeros((len(T), 3))}
TRUTH = {"gt_t": T * 1e-6, "gt_w": np.zeros((len(T), 3)), "gt_q": np.tile([0.0, 0.0, 0.0, 1.0], (len(T), 1))}
CAMERA = {"size": np.array([240, 180]), "K": np.array([200.0, 200.0, 120.0, 90.0]), "D": np.zeros(5)}
GOOD = INERTIAL | TRUTH | CAMERA | {"frame_t_us": T, "lens": np.array(b"radtan")}
ODD = {
    "a text": np.array(b"soon"),
    "texts": np.full((len(T), 3), b"no"),
    "a nan": np.array(np.nan),
    "infinite": np.array([np.inf, np.inf, np.inf, np.inf]),
    "nothing": np.zeros(0),
    "complex": np.full(4, 1j),
    "fields": np.zeros(4, [("a", "<i4"), ("b", "<f4")]),
    "deep": np.zeros((2, 2, 2)),
}


def _npz(folder, arrays):
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


def _hdf5(folder, arrays):
    with h5py.File(folder / "a.h5", "w") as file:
        for name, values in arrays.items():
            file[f"events/{name}" if name in COLUMNS else name] = values
    return folder / "a.h5"


@pytest.mark.parametrize("write", [_npz, _hdf5])
def test_all_of_it_is_read(tmp_path, write):
    recording = read(write(tmp_path, COLUMNS | GOOD))
    assert recording.camera is not None
    assert recording.ground_truth is not None
    assert recording.inertial is not None
    assert np.array_equal(recording.frame_times_us, T)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("write", [_npz, _hdf5])
def test_another_type_is_told_by_its_name(tmp_path, write, name, odd):
    path = write(tmp_path, COLUMNS | GOOD | {name: ODD[odd]})
    if name in ("K", "D", "lens"):  # another calibration may be given
        recording = read(path)
        assert (recording.camera is None) == ((name, odd) != ("D", "nothing"))  # a lens without coefficients
        assert recording.camera or re.search(f"{name} (is|holds)|model", recording.no_camera)
        return
    with pytest.raises(InputError, match=rf"{path.name}: .*{name.split('_')[0]}|inertial|ground truth|lens"):
        read(path)
