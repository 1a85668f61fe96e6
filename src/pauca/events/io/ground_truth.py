"""True rotations that come with recordings: a gyroscope's text, motion capture poses, a simulator's NPZ."""

import csv
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation, Slerp

from pauca.errors import InputError
from pauca.events.given import path_of
from pauca.events.io.npz import ground_truth_of, read_arrays
from pauca.events.recording import GroundTruth

_CSV_COLUMNS = ("t_s", "wx_rad_s", "wy_rad_s", "wz_rad_s")
_CAPTURE_SMOOTHING_S = 0.012  # differences of captured poses are noise below 10 to 15 ms


def read_ground_truth(path: str | Path) -> GroundTruth:
    """The true angular velocity from a file.

    Args:
        path: UZH `imu.txt` (t ax ay az gx gy gz; rad/s), UZH `groundtruth.txt` (t px py pz qx qy qz qw; poses of the
            camera), NPZ with `gt_t` and `gt_w` (rad/s) or with `t` and `quat_xyzw`, or CSV with columns t_s, wx_rad_s,
            wy_rad_s, wz_rad_s (others are ignored), as `Trajectory.to_csv` writes them.

    Raises:
        InputError: where the file is none of these, or its times do not increase.
    """
    path = path_of(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    readers = {".npz": _from_npz, ".csv": _from_csv}
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
    arrays = read_arrays(path)
    truth = ground_truth_of(arrays, path)
    if truth is None and {"t", "quat_xyzw"} <= arrays.keys():
        truth = _from_poses(path, arrays["t"], arrays["quat_xyzw"])
    if truth is None:
        raise InputError(f"{path}: no ground truth; expected gt_t and gt_w, or t and quat_xyzw; found {sorted(arrays)}")
    return truth


def _from_text(path: Path) -> GroundTruth:
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a file without numbers
            rows = np.loadtxt(path, ndmin=2, comments="#")
    except (ValueError, UnicodeDecodeError):
        raise InputError(f"{path}: no table of numbers ({_first_fault(path)})") from None
    if not rows.size:
        raise InputError(f"{path}: is empty: not one row of numbers")
    if rows.shape[1] == 7:
        return GroundTruth(rows[:, 0], rows[:, 4:7])
    if rows.shape[1] == 8:
        return _from_poses(path, rows[:, 0], rows[:, 4:8])
    raise InputError(f"{path}: {rows.shape[1]} columns; expected 7 (t ax ay az gx gy gz) or 8 (t px py pz qx qy qz qw)")


def _first_fault(path: Path) -> str:
    """What is wrong with a table, in words: numpy's advice is for who calls it."""
    width = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line, text in enumerate(file, 1):
            words = text.partition("#")[0].split()
            for word in words:
                try:
                    float(word)
                except ValueError:
                    return f"line {line}: {word[:40]!r} is no number"
            if words and width and len(words) != width:
                return f"line {line}: {len(words)} columns, and {width} above; is the file cut short?"
            width = len(words) or width
    return "it is no text"


def _from_poses(path: Path, t_s: np.ndarray, quat_xyzw: np.ndarray) -> GroundTruth:
    if len(t_s) < 2 or not np.all(np.diff(t_s) > 0):
        raise InputError(f"{path}: poses need two or more increasing times")
    try:
        return rotation_from_poses(t_s.astype(float), quat_xyzw.astype(float))
    except ValueError as error:  # a quaternion of length zero, or of another number of columns
        raise InputError(f"{path}: no poses of a camera ({str(error)[:120]})") from None


def _from_csv(path: Path) -> GroundTruth:
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from None
    if not rows or not set(_CSV_COLUMNS) <= set(rows[0]):
        raise InputError(f"{path}: no angular velocity; expected a table with columns {','.join(_CSV_COLUMNS)}")
    values = np.array([[_number(row[name], path, line) for name in _CSV_COLUMNS] for line, row in enumerate(rows, 2)])
    return GroundTruth(values[:, 0], values[:, 1:])


def _number(text: str | None, path: Path, line: int) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise InputError(f"{path}: line {line}: {text!r} is no number") from None
