"""A gyroscope beside the camera: when it was read, how it is mounted, and what it shows at rest, from both velocities.

The camera's angular velocity at time t is `axes @ (gyro(t - offset) - bias)`: the clocks differ by an offset, the axes
by a rotation, and a gyroscope that rests shows its bias.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from pauca.errors import InputError
from pauca.events.given import expect
from pauca.events.rate_units import doubt_of_unit
from pauca.events.recording import GroundTruth, Inertial, gyro_of
from pauca.events.trajectory import Trajectory

_FEWEST = 12  # velocities: seven numbers are sought
_COARSE_STEP_S = 0.002
_OUTLIER_SIGMAS = 3.0  # beyond, a velocity has less and less to say
_LEAST_SD = np.radians(0.3)  # a camera's velocity is not known better, whatever it says
_UNKNOWN_DEG = 20.0  # a standard deviation about an axis beyond which it is said that the motion does not tell it
_TWO_SIDED_95 = 1.96
_PARTS = 24  # of the recording, which are compared with each other
_NO_BETTER = 0.9  # of how the camera's velocity varies: a gyroscope that shows nothing at all leaves as much
_MEDIAN_SIZE = 1.538  # of a vector whose three components have a standard deviation of one
_CLOCK_SD_S = 1e-4  # a velocity's time is not known better than to this: it is that of a whole packet


@dataclass(frozen=True, eq=False)
class GyroFit:
    """How a gyroscope belongs to a camera. Standard deviations count how well the two velocities agree."""

    offset_s: float  # seconds to add to the gyroscope's times
    offset_sd_s: float
    axes: Float[np.ndarray, "3 3"]  # gyroscope's coordinates to the camera's
    axes_sd_deg: Float[np.ndarray, "3"]  # about camera x, y, z
    bias_rad_s: Float[np.ndarray, "3"]  # what the gyroscope shows at rest, on its own axes
    bias_sd_rad_s: Float[np.ndarray, "3"]
    residual_deg_s: float  # median size of the difference that is left
    used: int  # velocities of the camera
    at_the_end: bool  # the offset is at the end of the range that was searched, so the true one may lie beyond

    @property
    def untold(self) -> tuple[str, ...]:
        """What the motion does not tell, in words."""
        told = []
        if self.at_the_end:
            told.append("the offset lies at the end of the range that was searched")
        for name, sd in zip("xyz", self.axes_sd_deg.tolist(), strict=True):
            if sd > _UNKNOWN_DEG:
                told.append(f"the mounting about camera {name}: turn the camera about the other axes, too")
        return tuple(told)

    def table(self) -> list[tuple[str, str]]:
        """What was found, in lines for people, with 95 % intervals."""
        half = _TWO_SIDED_95
        x, y, z = Rotation.from_matrix(self.axes).as_rotvec(degrees=True)
        bias, sd = np.degrees(self.bias_rad_s), half * np.degrees(self.bias_sd_rad_s)
        turned = half * self.axes_sd_deg
        return [
            ("offset", f"{1e3 * self.offset_s:.2f} +- {1e3 * half * self.offset_sd_s:.2f} ms, to add to its times"),
            ("axes", "camera = " + "; ".join(" ".join(f"{value:7.4f}" for value in row) for row in self.axes)),
            ("", f"rotation vector {x:.2f} {y:.2f} {z:.2f} deg, +- {turned[0]:.2f} {turned[1]:.2f} {turned[2]:.2f}"),
            ("bias", " ".join(f"{b:.3f} +- {s:.3f}" for b, s in zip(bias, sd, strict=True)) + " deg/s"),
            ("difference", f"{self.residual_deg_s:.2f} deg/s (median of {self.used} velocities)"),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, as for JSON."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
        return plain | {"not_told": list(self.untold)}

    @classmethod
    def from_file(cls, path: str | Path) -> "GyroFit":
        """Read what `pauca events gyro --json` printed.

        Raises:
            InputError: it is something else.
        """
        try:
            told = json.loads(Path(path).read_text(encoding="utf-8"))
            arrays: dict[str, Any] = {name: _read(told, name, shape) for name, shape in _SHAPES.items()}
            numbers: dict[str, Any] = {name: float(told[name]) for name in ("offset_s", "residual_deg_s")}
            numbers["offset_sd_s"] = float(_read(told, "offset_sd_s", ()))
            return cls(**arrays, **numbers, used=int(told["used"]), at_the_end=bool(told["at_the_end"]))
        except (OSError, ValueError, OverflowError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: is no fit of a gyroscope as `pauca events gyro --json` prints it ({error!r})"
            ) from None

    def apply(self, gyro: GroundTruth | Inertial) -> GroundTruth:
        """The gyroscope's velocities as the camera's: on its clock and axes, without the bias."""
        gyro = gyro_of(gyro)
        return GroundTruth(gyro.t_s + self.offset_s, (gyro.omega_rad_s - self.bias_rad_s) @ self.axes.T)


def _read(told: dict[str, Any], name: str, shape: tuple[int, ...]) -> np.ndarray:
    array = np.array(told[name], float)  # of null, NaN
    if "_sd_" in name:  # JSON has no infinity
        array = np.where(np.isnan(array), np.inf, array)
    if array.shape != shape or np.isnan(array).any():
        raise ValueError(f"{array.shape} numbers, expected {shape}: another shape, or a number that is none")
    return array


_SHAPES = {"axes": (3, 3), "axes_sd_deg": (3,), "bias_rad_s": (3,), "bias_sd_rad_s": (3,)}


def fit_gyro(trajectory: Trajectory, gyro: GroundTruth | Inertial, within_s: float = 0.2) -> GyroFit:
    """Find the offset, mounting and bias of a gyroscope from a trajectory of its camera.

    Args:
        trajectory: what `align` found; only velocities that can be trusted count.
        gyro: the gyroscope's times and rates, on its own clock and axes (`read_ground_truth` reads them); or
            the recording's own, `recording.inertial`.
        within_s: largest offset to look for, to either side.

    Raises:
        InputError: a translation, or too few trusted velocities while the gyroscope ran, or no motion to compare, or
            readings that agree with the camera in degrees a second, or not at all, or as far as noise lets tell.
    """
    trajectory, gyro = expect(trajectory, Trajectory), gyro_of(gyro)
    if trajectory.motion != "rotation":
        raise InputError("the trajectory is a translation; a gyroscope measures rotations")
    if not within_s > 0:
        raise InputError(f"within_s {within_s} must be positive")
    fit = _Fit(trajectory, gyro, within_s)
    pairs = ((fit.gyro_at(offset), fit.velocity) for offset in fit.offsets)
    if told := doubt_of_unit(pairs, "--unit deg/s; in Python np.radians"):
        raise InputError(told)
    offset = fit.coarse_offset()
    left, varies = np.degrees([fit.left(offset), fit.varies])
    if left > _NO_BETTER * varies:
        camera, readings = np.degrees([fit.noise, _noise(gyro)])
        if np.hypot(camera, readings) > _NO_BETTER * varies:
            raise InputError(
                "whether the gyroscope turns as the camera cannot be told: the camera's velocity varies by "
                f"{varies:.1f} deg/s, no more than noise does ({camera:.1f} deg/s of the camera, {readings:.1f} of the "
                "gyroscope); turn the camera faster"
            )
        raise InputError(
            f"the gyroscope does not turn as the camera: they differ by {left:.1f} deg/s however it is mounted, and "
            f"the camera's velocity varies by {varies:.1f}; are both of one recording, with clocks that differ by no "
            f"more than {within_s:g} s (within_s, --within-s)?"
        )
    return fit.refined(offset)


def _noise(gyro: GroundTruth) -> float:
    """Median size of the noise of readings, rad/s: by how much one differs from the mean of its neighbors."""
    omega = gyro.omega_rad_s
    apart = omega[1:-1] - (omega[2:] + omega[:-2]) / 2
    return float(np.sqrt(2 / 3) * np.median(np.linalg.norm(apart, axis=1)))


class _Fit:
    """The velocities of both, and the search."""

    def __init__(self, trajectory: Trajectory, gyro: GroundTruth, within_s: float) -> None:
        t_s = trajectory.t_s
        keep = trajectory.trusted & (t_s >= gyro.t_s[0] + within_s) & (t_s <= gyro.t_s[-1] - within_s)
        if trajectory.trusted.sum() < _FEWEST:
            raise InputError(
                f"the trajectory has {trajectory.trusted.sum()} trusted velocities, and {_FEWEST} are needed"
            )
        if keep.sum() < _FEWEST:
            both = f"{gyro.t_s[0]:.3f} to {gyro.t_s[-1]:.3f} s (less {within_s:g} s at each end)"
            raise InputError(
                f"{keep.sum()} trusted velocities lie where the gyroscope was read, {both}, and {_FEWEST} are needed; "
                "are both on one clock?"
            )
        self.t_s, self.velocity = t_s[keep], trajectory.velocity[keep]
        variance = np.array([np.diag(covariance) for covariance in trajectory.covariance[keep]])
        self.sd = np.sqrt(np.maximum(variance, 0) + _LEAST_SD**2)
        self.gyro, self.within_s = gyro, within_s
        if np.ptp(self.velocity, axis=0).max() < 4 * np.median(self.sd):
            raise InputError("the camera hardly turned: there is no motion to compare with the gyroscope's")

    def gyro_at(self, offset_s: float) -> Float[np.ndarray, "n 3"]:
        """What the gyroscope showed at the times of the velocities."""
        times = self.t_s - offset_s
        return np.stack([np.interp(times, self.gyro.t_s, axis) for axis in self.gyro.omega_rad_s.T], axis=1)

    @property
    def varies(self) -> float:
        """By how much the camera's velocity differs from its mean, rad/s, in the median."""
        return float(np.median(np.linalg.norm(self.velocity - self.velocity.mean(0), axis=1)))

    @property
    def noise(self) -> float:
        """Median size of the camera's error by what it states, rad/s."""
        return float(_MEDIAN_SIZE * np.sqrt(np.median(np.mean(self.sd**2, axis=1))))

    def coarse_offset(self) -> float:
        """The offset of a grid at which the best rotation and bias leave the least difference."""
        return min(self.offsets, key=self.left)

    @property
    def offsets(self) -> list[float]:
        """A grid of those to try."""
        steps = int(np.ceil(self.within_s / _COARSE_STEP_S))
        return np.linspace(-self.within_s, self.within_s, 2 * steps + 1).tolist()

    def left(self, offset_s: float) -> float:
        """Median difference, rad/s, by the best rotation and bias."""
        rotation, bias = self._mounting(offset_s, np.ones(len(self.t_s), bool))
        size = self._differences(offset_s, rotation, bias)
        near = size <= np.quantile(size, 0.8)  # a few velocities may be wrong
        return float(np.median(self._differences(offset_s, *self._mounting(offset_s, near))))

    def _mounting(self, offset_s: float, chosen: Bool[np.ndarray, "n"]) -> tuple[Rotation, np.ndarray]:
        """Rotation and bias of least squares (Kabsch's method on the deviations from the means)."""
        shown, seen = self.gyro_at(offset_s)[chosen], self.velocity[chosen]
        u, _, v = np.linalg.svd((shown - shown.mean(0)).T @ (seen - seen.mean(0)))
        sign = np.sign(np.linalg.det(u @ v))
        rotation = Rotation.from_matrix((u @ np.diag([1, 1, sign]) @ v).T)
        return rotation, shown.mean(0) - rotation.inv().apply(seen.mean(0))

    def _differences(self, offset_s: float, rotation: Rotation, bias: np.ndarray) -> Float[np.ndarray, "n"]:
        return np.linalg.norm(self.velocity - rotation.apply(self.gyro_at(offset_s) - bias), axis=1)

    def refined(self, offset_s: float) -> GyroFit:
        """All seven numbers together, weighted by the velocities' covariances, and how well they are known."""
        rotation, bias = self._mounting(offset_s, np.ones(len(self.t_s), bool))

        def unpack(numbers: np.ndarray) -> tuple[float, Rotation, np.ndarray]:
            return offset_s + numbers[0], Rotation.from_rotvec(numbers[1:4]) * rotation, bias + numbers[4:]

        def residuals(numbers: np.ndarray) -> np.ndarray:
            offset, turned, at_rest = unpack(numbers)
            return ((self.velocity - turned.apply(self.gyro_at(offset) - at_rest)) / self.sd).ravel()

        scale = np.array([1e-3, *[1e-2] * 6])
        found = least_squares(residuals, np.zeros(7), x_scale=scale, loss="soft_l1", f_scale=_OUTLIER_SIGMAS)
        offset, turned, at_rest = unpack(found.x)
        sd = np.sqrt(np.diag(_covariance(residuals, found.x, scale)))
        sd[0] = np.hypot(sd[0], _CLOCK_SD_S)
        return GyroFit(
            offset_s=float(offset),
            offset_sd_s=float(sd[0]),
            axes=turned.as_matrix(),
            axes_sd_deg=np.degrees(sd[1:4]),
            bias_rad_s=at_rest,
            bias_sd_rad_s=sd[4:],
            residual_deg_s=float(np.degrees(np.median(self._differences(offset, turned, at_rest)))),
            used=len(self.t_s),
            at_the_end=bool(abs(offset) > self.within_s - _COARSE_STEP_S),
        )


def _covariance(
    residuals: Callable[[np.ndarray], np.ndarray], at: np.ndarray, scale: np.ndarray
) -> Float[np.ndarray, "7 7"]:
    """Of robust least squares, by how much parts of the recording disagree: neighbors' errors are not independent."""
    steps = 1e-3 * scale
    slopes = np.stack(
        [(residuals(at + step) - residuals(at - step)) / (2 * step.sum()) for step in np.diag(steps)], axis=1
    )
    left = residuals(at)
    weight = 1 / np.sqrt(1 + (left / _OUTLIER_SIGMAS) ** 2)
    bread = np.linalg.pinv(slopes.T @ (weight[:, None] * slopes), rcond=1e-14)
    pulls = (weight * left)[:, None] * slopes
    parts = [part.sum(axis=0) for part in np.array_split(pulls, min(_PARTS, len(left) // 6)) if len(part)]
    meat = sum(np.outer(part, part) for part in parts) * len(parts) / max(len(parts) - len(at), 1)
    independent = bread  # what the stated covariances alone would give: no less than that
    together = bread @ meat @ bread
    # What the motion does not tell at all has no slope, and may be anything.
    variance = np.where(np.diag(independent) > 0, np.maximum(np.diag(independent), np.diag(together)), np.inf)
    scale, there = np.ones(len(at)), np.isfinite(variance) & (np.diag(together) > 0)
    scale[there] = np.sqrt(variance[there] / np.diag(together)[there])
    covariance = together * np.outer(scale, scale)
    np.fill_diagonal(covariance, variance)
    return covariance
