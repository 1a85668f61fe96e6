"""How a simulated camera turns: random or given motion, its orientations, and when its pixels have to be looked at."""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from pauca.errors import InputError
from pauca.events.recording import GroundTruth

GROUND_TRUTH_S = 1e-3
"""Between two samples of the ground truth; in between the angular velocity is linear, by definition."""

WARM_UP_PIXELS = 60.0
"""Farthest path in the image before the first event. Pixels start anywhere between their thresholds; with none of it
the first packet of 2,000 deg/s read 1,761, because half-charged pixels fire late or early. With 12, three first packets
were off by up to 42 deg/s (2,000) and 23 (roll of 720); with 40, by 20 and 3.3; with 100, by 10 and 1.9."""

Movement = Literal["random", "rest", "constant", "ramp", "stop-and-go"]

_SINES = 8  # per axis of a random motion
_STOP = (0.35, 0.65)  # share of the duration at which a stop-and-go begins and ends its stop
_BRAKE_S = 0.02
_APPROACH_RAD_S = math.radians(30.0)  # how fast a camera came that rests or creeps at the start

_Motion = tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n 3"]]


def random_motion(duration_s: float, peak_deg_s: float, bandwidth_hz: float, rng: np.random.Generator) -> _Motion:
    """Smooth random rotation: times (s, 1 kHz) and angular velocities (rad/s), sines below the bandwidth."""
    t_s = _grid(duration_s)
    frequency = bandwidth_hz * rng.uniform(0.1, 1.0, (3, _SINES))
    phase = rng.uniform(0, 2 * math.pi, (3, _SINES))
    weight = rng.standard_normal((3, _SINES))
    angle = 2 * math.pi * frequency * t_s[:, None, None] + phase
    omega = (weight * np.sin(angle)).sum(axis=2)
    return t_s, omega * math.radians(peak_deg_s) / np.linalg.norm(omega, axis=1).max()


def plain_motion(movement: Movement, duration_s: float, peak_deg_s: float, axis: tuple[float, float, float]) -> _Motion:
    """Rotation about one axis: times (s, 1 kHz) and angular velocities (rad/s).

    Args:
        movement: rest, constant, ramp (from rest to the peak) or stop-and-go (at the peak, but for its middle third).
        duration_s: seconds.
        peak_deg_s: angular speed.
        axis: of any length.
    """
    t_s = _grid(duration_s)
    stop, go = _STOP[0] * t_s[-1], _STOP[1] * t_s[-1]
    shape = {
        "rest": np.zeros(len(t_s)),
        "constant": np.ones(len(t_s)),
        "ramp": t_s / t_s[-1],
        "stop-and-go": np.interp(t_s, [stop, stop + _BRAKE_S, go, go + _BRAKE_S], [1, 0, 0, 1]),
    }[movement]
    return t_s, _along(shape * math.radians(peak_deg_s), axis)


def vibration(
    t_s: Float[np.ndarray, "n"], peak_deg_s: float, hz: float, axis: tuple[float, float, float]
) -> Float[np.ndarray, "n 3"]:
    """Angular velocity (rad/s) of a sine about one axis."""
    return _along(math.radians(peak_deg_s) * np.sin(2 * math.pi * hz * (t_s - t_s[0])), axis)


def _grid(duration_s: float) -> Float[np.ndarray, "n"]:
    return np.arange(max(2, math.ceil(duration_s / GROUND_TRUTH_S - 1e-9) + 1)) * GROUND_TRUTH_S


def _along(speed: Float[np.ndarray, "n"], axis: tuple[float, float, float]) -> Float[np.ndarray, "n 3"]:
    return speed[:, None] * np.asarray(axis, float) / np.linalg.norm(axis)


def with_warm_up(
    t_s: Float[np.ndarray, "n"], omega: Float[np.ndarray, "n 3"], pixels_per_radian: float
) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m 3"]]:
    """The motion with one sample before its first: the camera comes at its first velocity, or brakes to it.

    Args:
        t_s: times.
        omega: angular velocities at these times, linear in between.
        pixels_per_radian: of the pixels that move most.
    """
    speed = float(np.linalg.norm(omega[0]))
    before = omega[0]
    if speed < _APPROACH_RAD_S / 6:
        moving = np.linalg.norm(omega, axis=1) > 0
        direction = omega[np.argmax(moving)] if moving.any() else np.array([0.0, 1.0, 0.0])
        before = _APPROACH_RAD_S * direction / np.linalg.norm(direction)
    seconds = 2 * WARM_UP_PIXELS / pixels_per_radian / (speed + float(np.linalg.norm(before)))
    return np.concatenate([[t_s[0] - seconds], t_s]), np.concatenate([before[None], omega])


def resample(motion: GroundTruth) -> _Motion:
    """A given motion at 1 kHz.

    Raises:
        InputError: where it is none: times that do not increase, numbers that are not finite.
    """
    t_s, omega = np.asarray(motion.t_s, float), np.asarray(motion.omega_rad_s, float)
    if t_s.ndim != 1 or len(t_s) < 2 or omega.shape != (len(t_s), 3):
        raise InputError(f"motion of shapes t {t_s.shape}, omega {omega.shape}; expected (n,), (n, 3) with n > 1")
    if not (np.isfinite(t_s).all() and np.isfinite(omega).all() and (np.diff(t_s) > 0).all()):
        raise InputError("motion: times must increase, and all numbers be finite")
    n = math.floor((t_s[-1] - t_s[0]) / GROUND_TRUTH_S + 1e-6) + 1
    if n < 2:
        raise InputError(f"motion lasts {t_s[-1] - t_s[0]:g} s; needed is at least {GROUND_TRUTH_S:g} s")
    grid = t_s[0] + np.arange(n) * GROUND_TRUTH_S
    return grid, np.stack([np.interp(grid, t_s, omega[:, axis]) for axis in range(3)], axis=1)


def orientations(t_s: Float[np.ndarray, "n"], omega: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3 3"]:
    """Camera to world at each sample, from the identity; the rotation within an interval is exact to fourth order."""
    step = np.diff(t_s)[:, None]
    turns = Rotation.from_rotvec(_turn(omega[:-1], np.diff(omega, axis=0) / step, step)).as_matrix()
    out = np.empty((len(t_s), 3, 3))
    out[0] = np.eye(3)
    for k, turn in enumerate(turns):
        out[k + 1] = out[k] @ turn
    return out


def _turn(
    omega: Float[np.ndarray, "n 3"], slope: Float[np.ndarray, "n 3"], tau: Float[np.ndarray, "n 1"]
) -> Float[np.ndarray, "n 3"]:
    """Rotation vector after tau seconds of omega + slope * t in the camera's own frame (Magnus, two terms)."""
    return omega * tau + slope * tau**2 / 2 + np.cross(omega, slope) * tau**3 / 12


def look_times(
    t_s: Float[np.ndarray, "n"],
    omega: Float[np.ndarray, "n 3"],
    turned: Float[np.ndarray, "n 3 3"],
    pixels_per_radian: float,
    step_pixels: float,
) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m 3 3"]]:
    """When to look, in microseconds since the start, and how the camera then stands: dense where it turns fast."""
    speed = np.linalg.norm(omega, axis=1)
    h = np.diff(t_s)
    farthest = np.maximum(speed[1:], speed[:-1]) * h * pixels_per_radian
    looks = np.maximum(1, np.ceil(farthest / step_pixels)).astype(int)
    interval = np.repeat(np.arange(len(h)), looks)
    within = np.arange(len(interval)) - np.repeat(np.cumsum(looks) - looks, looks)
    tau = (h[interval] * (within + 1) / looks[interval])[:, None]
    slope = np.diff(omega, axis=0) / h[:, None]
    turns = Rotation.from_rotvec(_turn(omega[interval], slope[interval], tau)).as_matrix()
    times_us = np.concatenate([[0.0], (t_s[interval] - t_s[0] + tau[:, 0]) * 1e6])
    return times_us, np.concatenate([turned[:1], turned[interval] @ turns]).astype(np.float32)
