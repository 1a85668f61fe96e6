"""The camera: intrinsics and lens, and the table that undoes its distortion."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float

from pauca.choices import check_choices
from pauca.errors import InputError
from pauca.events.calibration import Calibration, read_calibration
from pauca.events.given import path_of, size_of
from pauca.events.lens import LensModel, distort, undistort

_SHORTEST = 0.1  # of the sensor's side: a focal length of less sees more than all around, as no lens does
_RIM = 0.05  # of the sensor's side: no center lies there, but that of a sensor with twice as many pixels to a side


@dataclass(frozen=True)
class Camera:
    """Intrinsics (pixels) and distortion as OpenCV counts it. Bearings: (x, y, 1), x right, y down, z forward.

    The coefficients are k1 k2 p1 p2 k3 of the lens `radtan` (Brown-Conrady), and of the lens `equidistant` (a fisheye)
    the first four, in their order.
    """

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
    lens: LensModel = "radtan"

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "size", size_of(self.size))
        except InputError as error:
            raise InputError(f"camera: {error}") from None
        check_choices(self)
        for name in ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3"):
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, float(value))
            except (TypeError, ValueError):
                raise InputError(
                    f"camera: {name} {value!r:.60} is no number; fx fy cx cy k1 k2 p1 p2 k3 are given one by one, "
                    "as by Camera(size, *K, *D)"
                ) from None
        numbers = (*self.intrinsics, *self.distortion)
        if not np.all(np.isfinite(numbers)) or min(self.fx, self.fy) <= 0:
            raise InputError(f"camera: fx {self.fx}, fy {self.fy} must be positive, all numbers finite")
        width, height = self.size
        if self.fx < _SHORTEST * width and self.fy < _SHORTEST * height:
            raise InputError(
                f"camera: fx {self.fx:g}, fy {self.fy:g} are no pixels of a sensor of {width} x {height}; are they "
                "normalized? multiply fx and cx by the width, fy and cy by the height"
            )
        across, down = (self.cx + 0.5) / width, (self.cy + 0.5) / height
        if not (_RIM <= across <= 1 - _RIM and _RIM <= down <= 1 - _RIM):
            raise InputError(
                f"camera: its center cx {self.cx:g}, cy {self.cy:g} lies outside of the sensor of {width} x {height} "
                "pixels, or at its rim; give fx, fy, cx, cy in pixels of this sensor, or its true size (--size WIDTH "
                "HEIGHT, in Python size), which may have been guessed; a crop keeps the pixels and the size of the "
                "whole sensor"
            )

    @property
    def intrinsics(self) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy."""
        return self.fx, self.fy, self.cx, self.cy

    @property
    def distortion(self) -> tuple[float, float, float, float, float]:
        """k1, k2, p1, p2, k3; of a fisheye k1, k2, k3, k4, 0."""
        return self.k1, self.k2, self.p1, self.p2, self.k3

    @property
    def without_distortion(self) -> "Camera":
        """The pinhole camera of the same intrinsics, for events whose lens is undone."""
        return Camera(self.size, *self.intrinsics)

    def reduced(self, by: int) -> "Camera":
        """The same view with so many pixels of each axis in one."""
        size = -(-self.size[0] // by), -(-self.size[1] // by)
        focal = self.fx / by, self.fy / by
        center = (self.cx + 0.5) / by - 0.5, (self.cy + 0.5) / by - 0.5
        return Camera(size, *focal, *center, *self.distortion, lens=self.lens)

    @classmethod
    def pinhole(cls, size: tuple[int, int], focal: float | None = None) -> "Camera":
        """A camera without distortion that looks through the middle of its sensor.

        Args:
            size: width and height in pixels.
            focal: focal length in pixels; None for 0.83 of the width, as a DAVIS 240C has (62 degrees across).
        """
        width, height = size_of(size)
        f = 0.83 * width if focal is None else focal
        return cls(size, f, f, (width - 1) / 2, (height - 1) / 2)

    @classmethod
    def from_file(cls, path: str | Path, size: tuple[int, int] | None = None, name: str | None = None) -> "Camera":
        """Read a calibration: UZH `calib.txt`; YAML of ROS camera_info, Kalibr camchain, DSEC's `cam_to_cam` or OpenCV;
        XML of OpenCV or DV; DSEC's `rectify_map.h5`, whose lens is fitted.

        Args:
            path: the file. Beside a map, or in the folders above it, its `cam_to_cam.yaml` must stand.
            size: width and height of the sensor, for files that do not say it (`calib.txt` never does).
            name: which camera, in files with several, such as `cam0`; None takes `cam0`, or the only one; of a map the
                rectified one, `camRect0` (or `camRect3`, where a folder's name says `right`).

        Raises:
            InputError: where the file is none of these, its lens model neither radtan nor equidistant, or no lens
                explains a map to half a pixel.
        """
        path = path_of(path)
        return cls.from_calibration(read_calibration(path, size, name), path)

    @classmethod
    def from_calibration(cls, calibration: Calibration, where: Path) -> "Camera":
        """The camera of a calibration that knows its size.

        Raises:
            InputError: where its lens model is neither radtan nor equidistant, or a number is none that a camera has;
                `where` is the file that said so.
        """
        assert calibration.size is not None
        lens, (k1, k2, p1, p2, k3) = calibration.lens(where)
        fx, fy, cx, cy = calibration.intrinsics
        try:
            return cls(calibration.size, fx, fy, cx, cy, k1, k2, p1, p2, k3, lens)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    def distort(self, x: Float[np.ndarray, "*n"], y: Float[np.ndarray, "*n"]) -> tuple[np.ndarray, np.ndarray]:
        """Bearings (x, y, 1) to the distorted pixels at which the sensor sees them (OpenCV's formula)."""
        u, v = distort(x, y, self.lens, self.distortion)
        return self.fx * u + self.cx, self.fy * v + self.cy

    def undistort(self, u: Float[np.ndarray, "*n"], v: Float[np.ndarray, "*n"]) -> tuple[np.ndarray, np.ndarray]:
        """Distorted pixels to bearings (x, y, 1), by Newton's method to convergence in float64.

        Raises:
            InputError: where the distortion folds over inside the sensor: a pixel that no bearing gives back.
        """
        u, v = np.asarray(u, float), np.asarray(v, float)
        x, y, lost = undistort((u - self.cx) / self.fx, (v - self.cy) / self.fy, self.lens, self.distortion)
        if lost.any():
            i = int(np.argmax(lost))
            raise InputError(
                f"camera: the distortion {self.distortion} has no inverse at pixel "
                f"({np.ravel(u)[i]:.0f}, {np.ravel(v)[i]:.0f}); check the order of the coefficients, the lens model "
                f"({self.lens}) and the size"
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
