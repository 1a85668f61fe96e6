"""How smooth a motion is expected to be: acceleration as a random walk, its strength taken from the motion itself."""

import numpy as np
from jaxtyping import Float

_APART_S = 0.04  # seconds between the velocities whose second differences tell the strength


def precision(knots_s: Float[np.ndarray, "knots"], strength: float) -> Float[np.ndarray, "3*knots 3*knots"]:
    """Information of the prior about the velocities at the knots: x, y, z of the first, then of the second.

    The slopes of neighboring intervals h0 and h1 differ by the integral of white jerk, of variance
    strength^2 (h0 + h1)/3.

    Args:
        knots_s: times of the knots in seconds.
        strength: root of the spectral density of the jerk, rad/s^2 per root of a second.
    """
    size = len(knots_s)
    gaps = np.diff(knots_s)
    bends = np.zeros((size, size))
    for j in range(1, size - 1):
        before, after = gaps[j - 1], gaps[j]
        row = np.zeros(size)
        row[j - 1], row[j], row[j + 1] = 1 / before, -1 / before - 1 / after, 1 / after
        bends += np.outer(row, row) / (strength**2 * (before + after) / 3)
    return np.kron(bends, np.eye(3))


def jerk_strength(t_s: Float[np.ndarray, "n"], velocity: Float[np.ndarray, "n 3"]) -> float:
    """Strength of the jerk of a motion, from its second differences over 40 ms; 0 where it is too short."""
    times = np.arange(t_s[0] + _APART_S, t_s[-1] - _APART_S, _APART_S)
    if len(times) < 3:
        return 0.0
    at_times = np.stack([np.interp(times, t_s, component) for component in velocity.T], axis=1)
    bends = np.diff(at_times, 2, axis=0) / _APART_S
    return float(np.sqrt(np.mean(bends**2) / (2 / 3 * _APART_S)))
