"""NPZ recordings: arrays by name, with camera and ground truth where they are present. What `write` writes."""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO
from zipfile import ZipExtFile, ZipFile

import numpy as np

from pauca.errors import InputError
from pauca.events.calibration import Calibration
from pauca.events.camera import Camera
from pauca.events.io.source import Block, Source, TimeUnit, check_lengths, holds_plain
from pauca.events.recording import Finding, GroundTruth, Inertial, Remedy

_BLOCK_EVENTS = 1 << 20
_NAMES = {
    "t": ("t_us", "t", "ts", "timestamp", "timestamps", "time"),
    "x": ("x", "xs"),
    "y": ("y", "ys"),
    "p": ("p", "ps", "pol", "polarity"),
}


def open_npz(path: Path, time_unit: TimeUnit | None) -> Source:
    """Open an NPZ recording.

    Args:
        path: holds `t_us` (integer microseconds) or `t` (floating point: seconds; integers: microseconds), `x`, `y`,
            `p`; perhaps `size` (width, height), `K` (fx fy cx cy) and `D` (k1 k2 p1 p2 k3), or `calib` (these nine,
            width, height); perhaps `gt_t` (s), `gt_w` (rad/s) and `gt_q` (quaternion xyzw), the ground truth.
            Where there is no `p`, a second column of `extra` is the polarity (EventEMin's samples).
        time_unit: unit of the times; None as above.

    Raises:
        InputError: where the file is damaged or an array is missing.
    """
    with _reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        present = archive.files
        arrays = {name: archive[name] for name in _EXTRAS if name in present}
        members = {role: next((name for name in known if name in present), None) for role, known in _NAMES.items()}
        if members["p"] is None and "extra" in present:
            members["p"] = "extra"
        with _columns(archive.zip, {role: name for role, name in members.items() if name}) as columns:
            kinds = {role: column.dtype.kind for role, column in columns.items()}
    if missing := [role for role, name in members.items() if name is None]:
        raise InputError(
            f"{path}: no {', '.join(missing)} among its arrays ({', '.join(present) or 'none'}); "
            "expected t (or t_us), x, y, p"
        )
    kind, in_name = kinds["t"], members["t"] == "t_us"
    findings = []
    if kind != "f" and not time_unit and not in_name:
        findings.append(Finding(Remedy.NOTED, "times are whole numbers: taken as microseconds"))
    return Source(
        "npz",
        lambda found: _blocks(path, {role: str(name) for role, name in members.items()}),
        unit=time_unit or ("s" if kind == "f" and not in_name else "us"),
        unit_is_certain=time_unit is not None or in_name,
        plain=holds_plain(kinds),
        size=size_of(arrays, path),
        camera=lambda size: camera_of(arrays, size, path),
        ground_truth=ground_truth_of(arrays, path),
        inertial=inertial_of(arrays, path),
        frame_times_us=frame_times_of(arrays, path),
        findings=findings,
    )


_EXTRAS = (
    *("size", "K", "D", "calib", "lens", "gt_t", "gt_w", "gt_q"),
    *("imu_t_us", "imu_gyro", "imu_accel", "frame_t_us"),
)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an NPZ file that is no recording, by name.

    Raises:
        InputError: it is damaged, or no such file.
    """
    with _reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # numpy parses headers as Python: flipped bits raise anything, even TokenError
        raise InputError(
            f"{path}: damaged or cut short, cannot be read as NPZ ({str(error)[:160]}); copy it again"
        ) from None


class _Column:
    """An array of an archive, from its first row to its last."""

    def __init__(self, member: IO[bytes] | ZipExtFile, name: str) -> None:
        self._member = member
        version = np.lib.format.read_magic(self._member)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, columns_first, self.dtype = read_header(self._member)
        if self.dtype.hasobject:
            raise ValueError(f"{name} holds Python objects")
        self._whole = self._rest(columns_first) if columns_first and len(self.shape) > 1 else None
        self._at = 0

    def _rest(self, columns_first: bool) -> np.ndarray:
        values = np.frombuffer(self._member.read(), self.dtype)
        return values.reshape(self.shape, order="F" if columns_first else "C")

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def read(self, rows: int) -> np.ndarray:
        """The next rows."""
        rows = min(rows, len(self) - self._at)
        self._at += rows
        if self._whole is not None:
            return self._whole[self._at - rows : self._at]
        shape = (rows, *self.shape[1:])
        size = math.prod(shape) * self.dtype.itemsize
        data = self._member.read(size)
        if len(data) != size:
            raise ValueError("an array ends before its time")
        return np.frombuffer(data, self.dtype).reshape(shape)


@contextmanager
def _columns(archive: ZipFile, members: dict[str, str]) -> Iterator[dict[str, _Column]]:
    """The columns of an archive, which stays open while one of them is."""
    with ExitStack() as opened:
        yield {role: _Column(opened.enter_context(archive.open(f"{name}.npy")), name) for role, name in members.items()}


def _blocks(path: Path, members: dict[str, str]) -> Iterator[Block]:
    with _reading(path), ZipFile(path) as archive, _columns(archive, members) as columns:
        check_lengths({role: len(column) for role, column in columns.items()}, path)
        for _ in range(0, max(len(columns["t"]), 1), _BLOCK_EVENTS):
            rows = {role: column.read(_BLOCK_EVENTS) for role, column in columns.items()}
            if members["p"] == "extra" and rows["p"].ndim == 2 and rows["p"].shape[1] > 1:
                rows["p"] = rows["p"][:, 1]
            yield Block(rows["t"], rows["x"], rows["y"], rows["p"])


def size_of(arrays: Mapping[str, np.ndarray], path: Path) -> tuple[int, int] | None:
    """Width and height of the sensor, where they are there."""
    size = _numbers(arrays, "size", (2,), path)
    if size is None:
        with suppress(InputError):  # `camera_of` says so
            size = (_numbers(arrays, "calib", (9, 11), path) or ())[9:]
    return (int(size[0]), int(size[1])) if size else None


def camera_of(arrays: Mapping[str, np.ndarray], size: tuple[int, int], path: Path) -> Camera | None:
    """The camera of a sensor of this size from K, D and lens, or from calib; None where they are not there.

    Raises:
        InputError: they are no camera of it.
    """
    intrinsics = _numbers(arrays, "K", (4, 9), path)
    # Without K, a D is something else, such as depth.
    distortion = None if intrinsics is None else _numbers(arrays, "D", (0, 4, 5), path)
    if intrinsics is None:
        both = _numbers(arrays, "calib", (9, 11), path)
        if both is None:
            return None
        intrinsics, distortion = both[:4], both[4:9]
    elif len(intrinsics) == 9:  # a 3 x 3 matrix
        intrinsics = (intrinsics[0], intrinsics[4], intrinsics[2], intrinsics[5])
    said = np.asarray(arrays.get("lens", "radtan"))
    said = said.item() if said.size == 1 else said
    lens = " ".join((said.decode("latin-1") if isinstance(said, bytes) else str(said)).split())[:40]
    return Camera.from_calibration(Calibration(size, list(intrinsics), list(distortion or ()), lens), path)


def ground_truth_of(arrays: Mapping[str, np.ndarray], path: Path) -> GroundTruth | None:
    """The true rotation from gt_t, gt_w and, where it is there, gt_q."""
    if "gt_t" not in arrays or "gt_w" not in arrays:
        return None
    t_s, omega = (_floats(arrays, name, path) for name in ("gt_t", "gt_w"))
    quaternions = _floats(arrays, "gt_q", path) if "gt_q" in arrays else None
    n = len(t_s) if t_s.ndim == 1 else -1
    if omega.shape != (n, 3) or (quaternions is not None and quaternions.shape != (n, 4)):
        raise InputError(f"{path}: ground truth of shapes gt_t {t_s.shape}, gt_w {omega.shape}; expected (n,), (n, 3)")
    return GroundTruth(t_s, omega, quaternions)


def inertial_of(arrays: Mapping[str, np.ndarray], path: Path) -> Inertial | None:
    """Inertial samples from imu_t_us (us), imu_gyro (rad/s) and imu_accel (m/s^2), as `write` writes them."""
    if not {"imu_t_us", "imu_gyro", "imu_accel"} <= arrays.keys():
        return None
    t_us = np.asarray(arrays["imu_t_us"])
    gyro, acceleration = (_floats(arrays, name, path) for name in ("imu_gyro", "imu_accel"))
    n = len(t_us) if t_us.ndim == 1 else -1
    if t_us.dtype != np.int64 or gyro.shape != (n, 3) or acceleration.shape != (n, 3):
        raise InputError(f"{path}: inertial samples of shapes {t_us.shape}, {gyro.shape}, {acceleration.shape}")
    return Inertial(t_us, gyro, acceleration)


def frame_times_of(arrays: Mapping[str, np.ndarray], path: Path) -> np.ndarray | None:
    """When the camera's frames were taken, from frame_t_us (us)."""
    if "frame_t_us" not in arrays:
        return None
    times = np.asarray(arrays["frame_t_us"])
    if times.ndim != 1 or times.dtype != np.int64:
        raise InputError(f"{path}: frame_t_us is {times.dtype} of shape {times.shape}, expected int64 of shape (n,)")
    return times


def _numbers(
    arrays: Mapping[str, np.ndarray], name: str, counts: tuple[int, ...], path: Path
) -> tuple[float, ...] | None:
    if name not in arrays:
        return None
    numbers = tuple(_floats(arrays, name, path).ravel().tolist())
    if len(numbers) not in counts or not np.isfinite(numbers).all():
        expected = " or ".join(str(count) for count in counts)
        raise InputError(f"{path}: {name} is {arrays[name].tolist()!s:.80}, expected {expected} numbers")
    return numbers


def _floats(arrays: Mapping[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    if arrays[name].dtype.kind not in "biuf":
        raise InputError(f"{path}: {name} holds {arrays[name].dtype}, expected numbers")
    return arrays[name].astype(float)
