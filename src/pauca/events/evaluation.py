"""How good a trajectory is: its error against a gyroscope, motion capture or simulator, by published protocols."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline

from pauca.errors import ConfigError, InputError
from pauca.events.recording import GroundTruth
from pauca.events.trajectory import Trajectory


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
    percent: float  # rms_deg_s relative to the truth's range or peak, as the protocol says
    left_out: int  # packets that the truth does not cover, or that come too late


def evaluate(
    trajectory: Trajectory,
    truth: GroundTruth,
    protocol: Protocol = STATED,
    axes: str = "x y z",
) -> Evaluation:
    """Compare a rotational trajectory with the truth, over all its packets: also those marked as degenerate.

    Args:
        trajectory: estimates.
        truth: true angular velocity in rad/s.
        protocol: which times and averages.
        axes: which truth axes are the camera's x, y and z, such as "-y x z" for a turned gyroscope.

    Raises:
        InputError: where the trajectory is no rotation, or no packet falls into the time of the truth.
    """
    if trajectory.motion != "rotation":
        raise InputError(
            "evaluate: the trajectory is a translation; only rotations have an angular velocity to compare"
        )
    t_s = _estimate_times(trajectory, protocol)
    truth_t_s, omega = truth.t_s + protocol.truth_offset_s, truth.omega_rad_s @ axes_matrix(axes).T
    used = (t_s >= truth_t_s[0]) & (t_s <= truth_t_s[-1]) & (t_s <= protocol.until_s)
    if not used.any():
        raise InputError(
            f"evaluate: estimates from {t_s[0]:.3f} to {t_s[-1]:.3f} s, truth from {truth_t_s[0]:.3f} to "
            f"{truth_t_s[-1]:.3f} s: nothing to compare; are both on one clock?"
        )
    at_estimates = _interpolate(truth_t_s, omega, t_s[used], protocol.spline)
    error = np.degrees(trajectory.velocity[used] - at_estimates)
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
        percent=float(100 * rms / whole),
        left_out=int(np.count_nonzero(~used)),
    )


def fit_time_offset(
    trajectory: Trajectory,
    truth: GroundTruth,
    protocol: Protocol = STATED,
    axes: str = "x y z",
    within_s: float = 0.05,
) -> float:
    """Seconds to add to the truth's times so that the protocol's median error is least, to 0.1 ms.

    Cameras, gyroscopes and motion capture seldom share a trigger: 2 to 10 ms between them are common.

    Args:
        trajectory: as for `evaluate`.
        truth: as for `evaluate`.
        protocol: how to compare; its own `truth_offset_s` is replaced.
        axes: as for `evaluate`.
        within_s: largest offset to try, to either side.
    """
    candidates = np.arange(-within_s, within_s + 1e-9, 1e-4)
    medians = [
        evaluate(trajectory, truth, replace(protocol, truth_offset_s=float(offset)), axes).median_deg_s
        for offset in candidates
    ]
    return float(candidates[int(np.argmin(medians))])


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
