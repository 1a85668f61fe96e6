"""True rotations that come with recordings: a gyroscope's text, motion capture poses, a simulator's NPZ."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation, Slerp

from pauca.errors import InputError
from pauca.events.io.motion import read_motion
from pauca.events.io.npz import ground_truth_of
from pauca.events.io.recording import GroundTruth

_CAPTURE_SMOOTHING_S = 0.012  # differences of captured poses are noise below 10 to 15 ms


def read_ground_truth(path: str | Path) -> GroundTruth:
    """The true angular velocity from a file.

    Args:
        path: UZH `imu.txt` (t ax ay az gx gy gz; rad/s), UZH `groundtruth.txt` (t px py pz qx qy qz qw; poses of the
            camera), NPZ with `gt_t` and `gt_w` (rad/s) or with `t` and `quat_xyzw`, or CSV with the columns of a
            trajectory.

    Raises:
        InputError: where the file is none of these, or its times do not increase.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    readers = {".npz": _from_npz, ".csv": read_motion}
    truth = readers.get(path.suffix, _from_text)(path)
    if len(truth.t_s) < 2 or not np.all(np.diff(truth.t_s) > 0) or not np.all(np.isfinite(truth.omega_rad_s)):
        raise InputError(f"{path}: ground truth needs two or more increasing times and finite rates")
    return truth


def rotation_from_poses(
    t_s: Float[np.ndarray, "n"], quat_xyzw: Float[np.ndarray, "n 4"], smoothing_s: float = _CAPTURE_SMOOTHING_S
) -> GroundTruth:
    """Angular velocity in the camera's own frame from its orientations (camera to world), low-passed by a Gaussian."""
    step_s = float(np.median(np.diff(t_s)))
    even_t_s = np.arange(t_s[0], t_s[-1], step_s)
    even = Slerp(t_s, Rotation.from_quat(quat_xyzw))(even_t_s)
    omega = (even[:-1].inv() * even[1:]).as_rotvec() / step_s
    omega = gaussian_filter1d(omega, smoothing_s / step_s, axis=0, mode="nearest")
    return GroundTruth(even_t_s[:-1] + step_s / 2, omega)


def _from_npz(path: Path) -> GroundTruth:
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as NPZ ({error})") from None
    truth = ground_truth_of(arrays, path)
    if truth is None and {"t", "quat_xyzw"} <= arrays.keys():
        truth = rotation_from_poses(arrays["t"].astype(float), arrays["quat_xyzw"].astype(float))
    if truth is None:
        raise InputError(f"{path}: no ground truth; expected gt_t and gt_w, or t and quat_xyzw; found {sorted(arrays)}")
    return truth


def _from_text(path: Path) -> GroundTruth:
    try:
        rows = np.loadtxt(path, ndmin=2, comments="#")
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no table of numbers ({error})") from None
    if rows.shape[1] == 7:
        return GroundTruth(rows[:, 0], rows[:, 4:7])
    if rows.shape[1] == 8:
        return rotation_from_poses(rows[:, 0], rows[:, 4:8])
    raise InputError(f"{path}: {rows.shape[1]} columns; expected 7 (t ax ay az gx gy gz) or 8 (t px py pz qx qy qz qw)")
