"""How a simulated camera turns: random or given motion, its orientations, and when its pixels have to be looked at."""

import math

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from pauca.errors import InputError
from pauca.events.recording import GroundTruth

GROUND_TRUTH_S = 1e-3
"""Between two samples of the ground truth; in between the angular velocity is linear, by definition."""

_SINES = 8  # per axis of a random motion


def random_motion(
    duration_s: float, peak_deg_s: float, bandwidth_hz: float, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n 3"]]:
    """Smooth random rotation: times (s, 1 kHz) and angular velocities (rad/s), sines below the bandwidth."""
    n = max(2, math.ceil(duration_s / GROUND_TRUTH_S - 1e-9) + 1)
    t_s = np.arange(n) * GROUND_TRUTH_S
    frequency = bandwidth_hz * rng.uniform(0.1, 1.0, (3, _SINES))
    phase = rng.uniform(0, 2 * math.pi, (3, _SINES))
    weight = rng.standard_normal((3, _SINES))
    angle = 2 * math.pi * frequency * t_s[:, None, None] + phase
    omega = (weight * np.sin(angle)).sum(axis=2)
    return t_s, omega * math.radians(peak_deg_s) / np.linalg.norm(omega, axis=1).max()


def resample(motion: GroundTruth) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n 3"]]:
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
