"""Where the knots of a trajectory lie: every few pixels of path, or after some time where the motion is slow."""

import numpy as np
from jaxtyping import Float, Int64

from pauca.events.continuous.config import TrajectoryConfig
from pauca.events.continuous.groups import ROLL

SMOOTH_JERK = 300.0  # rad/s^2 per root of a second: as of a hand that turns a camera; knots of 20 ms are for it
_STEP_US = 1000.0
_STEADY_JERK = 30.0  # below, a motion is steady
_STEADY = 3.0  # times the ordinary distance in time, where a motion has hardly any jerk: slow ones need path to show


def interpolate(
    at_us: Float[np.ndarray, "m"], t_us: Int64[np.ndarray, "n"], velocity: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "m 3"]:
    """Velocity at other times: linear in between, constant beyond the ends."""
    return np.stack([np.interp(at_us, t_us, component) for component in velocity.T], axis=1)


def knot_time(jerk: Float[np.ndarray, "m"], ordinary_s: float, most: float = 1.0) -> Float[np.ndarray, "m"]:
    """Seconds over which a velocity of such a jerk is near enough to linear: what a line misses by grows with
    jerk time^2.5 pixels. `ordinary_s` is for the jerk of a hand; a steady motion may take `most` times that."""
    jerk = np.maximum(jerk, 1e-9)
    shaken, steady = (SMOOTH_JERK / jerk) ** 0.4, _STEADY_JERK / jerk
    return ordinary_s * np.minimum(shaken, np.clip(steady, 1.0, most))


def knot_density(
    velocity: Float[np.ndarray, "m 3"],
    jerk: Float[np.ndarray, "m"],
    pixels_per_rad: float,
    config: TrajectoryConfig,
    most: float = 1.0,
) -> Float[np.ndarray, "m"]:
    """Knots a microsecond that a motion asks for; `most` as of `knot_time`."""
    speed = pixels_per_rad * np.linalg.norm(velocity * (1.0, 1.0, ROLL), axis=1)
    return np.maximum(speed / config.knot_pixels, 1 / knot_time(jerk, config.knot_s, most)) * 1e-6


def place_knots(
    t_us: Int64[np.ndarray, "n"],
    velocity: Float[np.ndarray, "n 3"],
    first_us: int,
    last_us: int,
    pixels_per_rad: float,
    config: TrajectoryConfig,
    jerk: Float[np.ndarray, "n"],
) -> Float[np.ndarray, "knots"]:
    """Times in microseconds, from the first event to the last, at even steps of the expected path.

    Args:
        t_us: times of the expected velocities.
        velocity: rad/s.
        first_us: where the knots begin.
        last_us: where they end, later than `first_us`.
        pixels_per_rad: focal length.
        config: the steps.
        jerk: its strength at each of the times, rad/s^2 per root of a second; knots lie closer where it is high.
    """
    steps = max(1, int(np.ceil((last_us - first_us) / _STEP_US)))
    edges = np.linspace(first_us, last_us, steps + 1)
    at_edges = interpolate(edges, t_us, velocity)
    density = knot_density(at_edges, np.interp(edges, t_us, jerk), pixels_per_rad, config, _STEADY)
    passed = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(edges))])
    intervals = max(1, round(float(passed[-1])))
    return np.interp(np.linspace(0, passed[-1], intervals + 1), passed, edges)
