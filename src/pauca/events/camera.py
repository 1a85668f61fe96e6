"""The pinhole camera with Brown-Conrady distortion, and the table that undoes it."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float

from pauca.errors import InputError


@dataclass(frozen=True)
class Camera:
    """Intrinsics (pixels) and distortion as OpenCV counts it. Bearings: (x, y, 1), x right, y down, z forward."""

    size: tuple[int, int]  # width, height
    fx: float
    fy: float
    cx: float
    cy: float
    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    k3: float = 0.0

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise InputError(f"camera: size {self.size} is no (width, height) in pixels")
        numbers = (*self.intrinsics, *self.distortion)
        if not np.all(np.isfinite(numbers)) or min(self.fx, self.fy) <= 0:
            raise InputError(f"camera: fx {self.fx}, fy {self.fy} must be positive, all numbers finite")

    @property
    def intrinsics(self) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy."""
        return self.fx, self.fy, self.cx, self.cy

    @property
    def distortion(self) -> tuple[float, float, float, float, float]:
        """k1, k2, p1, p2, k3."""
        return self.k1, self.k2, self.p1, self.p2, self.k3

    @classmethod
    def pinhole(cls, size: tuple[int, int], focal: float | None = None) -> "Camera":
        """A camera without distortion that looks through the middle of its sensor.

        Args:
            size: width and height in pixels.
            focal: focal length in pixels; None for 0.83 of the width, as a DAVIS 240C has (62 degrees across).
        """
        width, height = size
        f = 0.83 * width if focal is None else focal
        return cls(size, f, f, (width - 1) / 2, (height - 1) / 2)

    @classmethod
    def from_file(cls, path: str | Path, size: tuple[int, int] | None = None) -> "Camera":
        """Read a calibration: UZH `calib.txt`, or YAML of ROS camera_info, Kalibr camchain or OpenCV.

        Args:
            path: the file.
            size: width and height of the sensor, for files that do not say it (`calib.txt` never does).

        Raises:
            InputError: where the file is none of these, or its lens model is not Brown-Conrady.
        """
        from pauca.events.io.calibration import read_camera  # above this file: `io` builds cameras

        return read_camera(Path(path), size)

    def distort(self, x: Float[np.ndarray, "*n"], y: Float[np.ndarray, "*n"]) -> tuple[np.ndarray, np.ndarray]:
        """Bearings (x, y, 1) to the distorted pixels at which the sensor sees them (OpenCV's formula)."""
        u, v, *_ = _distort(x, y, self.distortion)
        return self.fx * u + self.cx, self.fy * v + self.cy

    def undistort(self, u: Float[np.ndarray, "*n"], v: Float[np.ndarray, "*n"]) -> tuple[np.ndarray, np.ndarray]:
        """Distorted pixels to bearings (x, y, 1), by Newton's method to convergence in float64.

        Raises:
            InputError: where the distortion folds over inside the sensor: a pixel that no bearing gives back.
        """
        u_target, v_target = (
            (np.asarray(u, float) - self.cx) / self.fx,
            (np.asarray(v, float) - self.cy) / self.fy,
        )
        x, y = u_target.copy(), v_target.copy()
        for _ in range(50):
            u_now, v_now, a, b, c, d = _distort(x, y, self.distortion)
            du, dv = u_target - u_now, v_target - v_now
            determinant = a * d - b * c
            determinant = np.where(np.abs(determinant) < 1e-3, 1e-3, determinant)
            x, y = x + (d * du - b * dv) / determinant, y + (a * dv - c * du) / determinant
            if max(np.abs(du).max(initial=0), np.abs(dv).max(initial=0)) < 1e-13:
                break
        u_back, v_back, a, b, c, d = _distort(x, y, self.distortion)
        lost = ~((np.hypot(u_back - u_target, v_back - v_target) < 1e-9) & (a * d - b * c > 0))
        if lost.any():
            i = int(np.argmax(lost))
            raise InputError(
                f"camera: the distortion {self.distortion} has no inverse at pixel "
                f"({np.ravel(u)[i]:.0f}, {np.ravel(v)[i]:.0f}); check the order k1 k2 p1 p2 k3 and the size"
            )
        return x, y


@lru_cache(maxsize=8)
def undistortion_table(camera: Camera) -> Float[np.ndarray, "height width 2"]:
    """Bearing (x, y) of each pixel of the sensor, float32; computed once for each camera."""
    width, height = camera.size
    v, u = np.mgrid[0:height, 0:width].astype(float)
    table = np.stack(camera.undistort(u, v), axis=-1).astype(np.float32)
    table.flags.writeable = False
    return table


def _distort(x: np.ndarray, y: np.ndarray, coefficients: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    """Distorted normalised coordinates, and their Jacobian du/dx, du/dy, dv/dx, dv/dy."""
    k1, k2, p1, p2, k3 = coefficients
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    slope = 2 * (k1 + r2 * (2 * k2 + 3 * r2 * k3))  # d radial / d x = slope * x
    u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    v = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    cross = slope * x * y + 2 * p1 * x + 2 * p2 * y
    du_dx = radial + slope * x * x + 2 * p1 * y + 6 * p2 * x
    dv_dy = radial + slope * y * y + 6 * p1 * y + 2 * p2 * x
    return u, v, du_dx, cross, cross, dv_dy
