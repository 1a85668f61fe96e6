"""How good a trajectory is: its error against a gyroscope, motion capture or simulator, by published protocols."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, Slerp

from pauca.choices import check_choices
from pauca.errors import ConfigError, InputError
from pauca.events.given import check_kinds, expect
from pauca.events.rate_units import doubt_of_unit
from pauca.events.recording import GroundTruth, velocities_of
from pauca.events.trajectory import Trajectory

_SIGMAS_68, _SIGMAS_95 = 0.9945, 1.96  # half widths of the intervals of a normal distribution
_OFFSET_STEP_S = 1e-4
_COARSE_STEP_S = 1e-3  # within a millisecond no camera changes its velocity much
_DETERMINED_S = 5e-3  # clocks differ by 2 to 10 ms: what is not known to 5 is not known


@dataclass(frozen=True)
class Protocol:
    """How estimates are compared with the truth; `STATED`, `PACKET_MIDDLE` and `PACKET_END` are ready."""

    time: Literal["stated", "middle", "end"] = "stated"  # when an estimate is valid: as it says, or by its packet
    estimate_offset_s: float = 0.0  # added to the times of the estimates
    truth_offset_s: float = 0.0  # added to the times of the truth
    spline: bool = False  # interpolate the truth by a cubic spline, not linearly
    until_s: float = np.inf  # leave out later estimates
    mean_of_axes: bool = False  # RMS as mean of the three axes' RMS, not over all axes together
    relative_to: Literal["range", "peak"] = "range"  # percent of max - min of all components, or of the largest

    def __post_init__(self) -> None:
        check_kinds(self)
        check_choices(self)


STATED = Protocol()
"""Estimates at the time they state, linear interpolation: for simulated and captured ground truth."""

PACKET_MIDDLE = Protocol(time="middle", truth_offset_s=-0.0024, until_s=60.0)
"""Protocol (a) for the rotation sequences of the UZH data set: packet middle, gyroscope 2.4 ms earlier, RMS over all
packets and axes, in percent of max - min of all gyroscope components, 0 to 60 s."""

PACKET_END = Protocol(
    time="end", estimate_offset_s=-0.0024, spline=True, until_s=59.75, mean_of_axes=True, relative_to="peak"
)
"""Protocol (b), of EventEMin: packet end less 2.4 ms, spline, mean of the axes' RMS, in percent of the largest
absolute gyroscope component, up to 59.75 s."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Errors of a trajectory: estimate minus truth."""

    t_s: Float[np.ndarray, "n"]
    error_deg_s: Float[np.ndarray, "n 3"]
    truth_deg_s: Float[np.ndarray, "n 3"]
    rms_deg_s: float
    median_deg_s: float  # of the absolute error over packets and axes
    rms_axes_deg_s: tuple[float, float, float]
    percent: float | None  # rms_deg_s relative to the truth's range or peak, as the protocol says; None if that is zero
    left_out: int  # packets that the truth does not cover, or that come too late
    not_trusted: int = 0  # packets that are stalled or degenerate, where these are left out
    within_68: float = np.nan  # share of errors, over packets and axes, within the 68 % interval that is stated
    within_95: float = np.nan

    def as_dict(self) -> dict[str, Any]:
        """The figures for machines: plain numbers and lists."""
        single = ("left_out", "not_trusted", "rms_deg_s", "median_deg_s", "percent", "within_68", "within_95")
        figures = {name: getattr(self, name) for name in single}
        return {"packets": len(self.t_s), **figures, "rms_axes_deg_s": list(self.rms_axes_deg_s)}


@dataclass(frozen=True)
class TimeOffset:
    """Seconds to add to the truth's times so that it explains the estimates best, and how well that is known."""

    seconds: float
    lowest_s: float  # offsets from here to `highest_s` explain the estimates as well, within what chance does
    highest_s: float
    within_s: float  # offsets were tried to either side up to this

    @property
    def at_end(self) -> bool:
        """Whether it is the last one tried: the true one may lie beyond."""
        return abs(self.seconds) > self.within_s - 2 * _OFFSET_STEP_S

    @property
    def determined(self) -> bool:
        """Whether the estimates tell it to 5 ms. A short recording, or one without changes of velocity, does not."""
        reaches_end = max(-self.lowest_s, self.highest_s) > self.within_s - 2 * _OFFSET_STEP_S
        return not self.at_end and not reaches_end and self.highest_s - self.lowest_s < 2 * _DETERMINED_S

    def as_dict(self) -> dict[str, Any]:
        """What is known of the offset, for machines."""
        return {"offset_determined": self.determined, "offset_range_s": [self.lowest_s, self.highest_s]}

    def in_words(self) -> str:
        """What is known of the offset, to follow its value."""
        if self.at_end:
            return (
                f", the END of what was tried: the true offset may lie beyond +-{1e3 * self.within_s:g} ms; "
                "try a larger --fit-within-s"
            )
        known = f"{1e3 * self.lowest_s:+.1f} to {1e3 * self.highest_s:+.1f} ms explain the estimates as well"
        return f" ({known})" if self.determined else f", which is NOT DETERMINED by these estimates: {known}"


def evaluate(
    trajectory: Trajectory,
    truth: GroundTruth,
    protocol: Protocol = STATED,
    axes: str = "x y z",
    all_packets: bool = False,
) -> Evaluation:
    """Compare a rotational trajectory with the truth, over the packets that can be trusted.

    Args:
        trajectory: estimates.
        truth: true angular velocity in rad/s.
        protocol: which times and averages.
        axes: which truth axes are the camera's x, y and z, such as "-y x z" for a turned gyroscope.
        all_packets: compare stalled and degenerate packets, too, as the published protocols do.

    Raises:
        InputError: where the trajectory is not a rotation, no packet can be trusted, or none falls into the time of
            the truth.
    """
    trajectory, truth = expect(trajectory, Trajectory), velocities_of(truth)
    if trajectory.motion != "rotation":
        raise InputError(
            "evaluate: the trajectory is a translation; only rotations have an angular velocity to compare"
        )
    t_s = _estimate_times(trajectory, protocol)
    truth_t_s, omega = truth.t_s + protocol.truth_offset_s, truth.omega_rad_s @ axes_matrix(axes).T
    used = (t_s >= truth_t_s[0]) & (t_s <= truth_t_s[-1]) & (t_s <= protocol.until_s)
    trusted = np.ones(len(t_s), bool) if all_packets else trajectory.trusted
    if not trusted.any():
        raise InputError(
            f"evaluate: none of {len(t_s)} packets is converged, so that there is nothing to trust; --all-packets "
            "(all_packets=True) compares them all the same"
        )
    if not used.any():
        raise InputError(
            f"evaluate: estimates from {t_s[0]:.3f} to {t_s[-1]:.3f} s, truth from {truth_t_s[0]:.3f} to "
            f"{truth_t_s[-1]:.3f} s: nothing to compare; are both on one clock?"
        )
    if not (used & trusted).any():
        raise InputError("evaluate: none of the packets within the time of the truth is converged")
    outside, used = int(np.count_nonzero(~used)), used & trusted
    at_estimates = _interpolate(truth_t_s, omega, t_s[used], protocol.spline)
    if told := doubt_of_unit([(at_estimates, trajectory.velocity[used])], "np.radians"):
        raise InputError(f"evaluate: the truth is in another unit: {told}")
    error = np.degrees(trajectory.velocity[used] - at_estimates)
    sigma = np.degrees(np.sqrt(np.diagonal(trajectory.covariance[used], axis1=1, axis2=2)))
    per_axis = np.sqrt(np.mean(error**2, axis=0))
    rms = float(per_axis.mean() if protocol.mean_of_axes else np.sqrt(np.mean(error**2)))
    covered = np.degrees(omega[truth_t_s <= protocol.until_s])
    whole = np.ptp(covered) if protocol.relative_to == "range" else np.abs(covered).max()
    return Evaluation(
        t_s=t_s[used],
        error_deg_s=error,
        truth_deg_s=np.degrees(at_estimates),
        rms_deg_s=rms,
        median_deg_s=float(np.median(np.abs(error))),
        rms_axes_deg_s=(float(per_axis[0]), float(per_axis[1]), float(per_axis[2])),
        percent=float(100 * rms / whole) if whole else None,
        left_out=outside,
        not_trusted=int(np.count_nonzero(~trusted)),
        within_68=float(np.mean(np.abs(error) < _SIGMAS_68 * sigma)),
        within_95=float(np.mean(np.abs(error) < _SIGMAS_95 * sigma)),
    )


def orientation_error_deg(
    trajectory: Trajectory, t_s: Float[np.ndarray, "m"], quat_xyzw: Float[np.ndarray, "m 4"]
) -> float:
    """RMS angle in degrees between a trajectory's integrated orientation and true ones (camera to world).

    One constant rotation between them, that of the world, is found and taken out.

    Raises:
        InputError: where no packet lies within the time of the poses, or none can be trusted.
    """
    used = (trajectory.t_s >= t_s[0]) & (trajectory.t_s <= t_s[-1])
    if not used.any() or not trajectory.trusted.any():
        raise InputError("none of the packets lies within the time of the poses, or none is converged")
    seen = Rotation.from_quat(trajectory.orientation()[used])
    apart = Slerp(t_s, Rotation.from_quat(quat_xyzw))(trajectory.t_s[used]) * seen.inv()
    return float(np.degrees(np.sqrt(np.mean((apart.mean().inv() * apart).magnitude() ** 2))))


def find_time_offset(
    trajectory: Trajectory,
    truth: GroundTruth,
    protocol: Protocol = STATED,
    axes: str = "x y z",
    within_s: float = 0.05,
    all_packets: bool = False,
) -> TimeOffset:
    """The offset of the truth's clock at which the protocol's median error is least, to 0.1 ms.

    Cameras, gyroscopes and motion capture seldom share a trigger: 2 to 10 ms between them are common.

    Args:
        trajectory: as for `evaluate`.
        truth: as for `evaluate`.
        protocol: how to compare; its own `truth_offset_s` is replaced.
        axes: as for `evaluate`.
        within_s: largest offset to try, to either side.
        all_packets: as for `evaluate`.
    """
    tried: dict[float, Evaluation] = {}

    def best_of(offsets: np.ndarray) -> float:
        for offset in offsets.tolist():
            moved = replace(protocol, truth_offset_s=offset)
            tried[offset] = evaluate(trajectory, truth, moved, axes, all_packets)
        return min(tried, key=lambda offset: tried[offset].median_deg_s)

    steps = max(1, math.ceil(within_s / _COARSE_STEP_S))
    coarse = best_of(np.linspace(-within_s, within_s, 2 * steps + 1))
    fine = coarse + np.arange(-_COARSE_STEP_S, _COARSE_STEP_S, _OFFSET_STEP_S)
    best = best_of(fine[np.abs(fine) <= within_s])
    size, least = np.abs(tried[best].error_deg_s), tried[best].median_deg_s
    # The standard error of a median is 1.25 / sqrt(n) of the spread, here from the median absolute deviation.
    chance = 1.25 * 1.4826 * float(np.median(np.abs(size - least))) / math.sqrt(size.size)
    as_good = [offset for offset, found in tried.items() if found.median_deg_s <= least + 2 * chance]
    return TimeOffset(best, min(as_good), max(as_good), within_s)


def fit_time_offset(
    trajectory: Trajectory,
    truth: GroundTruth,
    protocol: Protocol = STATED,
    axes: str = "x y z",
    within_s: float = 0.05,
) -> float:
    """The seconds of `find_time_offset`, which also says how well they are known."""
    return find_time_offset(trajectory, truth, protocol, axes, within_s).seconds


def axes_matrix(axes: str) -> Float[np.ndarray, "3 3"]:
    """The signed permutation that "x y z", "-y x z" and the like describe.

    Raises:
        ConfigError: where an axis is missing or unknown.
    """
    names = axes.replace(",", " ").split()
    if sorted(name.lstrip("+-") for name in names) != ["x", "y", "z"]:
        raise ConfigError(f"axes '{axes}': expected x, y and z in some order, each with or without a minus: '-y x z'")
    matrix = np.zeros((3, 3))
    for row, name in enumerate(names):
        matrix[row, "xyz".index(name[-1])] = -1.0 if name.startswith("-") else 1.0
    return matrix


def mirrors(axes: str) -> bool:
    """Whether axes are none that a rotation leads to: no mounting of a gyroscope gives them."""
    return float(np.linalg.det(axes_matrix(axes))) < 0


def _estimate_times(trajectory: Trajectory, protocol: Protocol) -> np.ndarray:
    times_us = {
        "stated": trajectory.t_us,
        "middle": (trajectory.start_us + trajectory.end_us) / 2,
        "end": trajectory.end_us,
    }
    return times_us[protocol.time] * 1e-6 + protocol.estimate_offset_s


def _interpolate(t_s: np.ndarray, omega: np.ndarray, at_s: np.ndarray, spline: bool) -> np.ndarray:
    if spline:
        return CubicSpline(t_s, omega)(at_s)
    return np.stack([np.interp(at_s, t_s, component) for component in omega.T], axis=1)
