"""Whether a gyroscope's rates are in rad/s, by what its camera saw: in degrees a second they are 57.3 times larger."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_DEGREES = float(np.degrees(1.0))
_SURE = 0.6  # correlation of both velocities from which on their ratio is that of a unit
# Parts of the ratio that a unit has: noise of the readings makes it smaller. Of 57 seconds of a hand's motion with
# noisy readings none lies outside, and of as many pairs of different seconds none inside (test_rate_units.py).
_LEAST, _MOST = 0.25, 1.5
_NEAR = 0.8  # share of the velocities that agree best: a few may be wrong
_FEWEST = 6  # velocities


class Agreement(NamedTuple):
    """How a camera's velocity depends on a gyroscope's, by the best rotation and bias."""

    ratio: float  # camera's to gyroscope's
    correlation: float


def agreement(shown: Float[np.ndarray, "n 3"], seen: Float[np.ndarray, "n 3"]) -> Agreement:
    """Least squares of what a gyroscope showed to what the camera saw, without the fifth that agrees least."""
    _, left = _least_squares(shown, seen)
    near = left <= np.quantile(left, _NEAR)
    return _least_squares(shown[near], seen[near])[0]


def _least_squares(shown: np.ndarray, seen: np.ndarray) -> tuple[Agreement, Float[np.ndarray, "n"]]:
    """The agreement, and the difference that is left of each velocity."""
    shown, seen = shown - shown.mean(0), seen - seen.mean(0)
    u, s, v = np.linalg.svd(shown.T @ seen)
    sign = np.sign(np.linalg.det(u @ v))  # a rotation, no mirror
    s[2], u[:, 2] = sign * s[2], sign * u[:, 2]
    both, (shown_2, seen_2) = s.sum(), (max(np.sum(part**2), 1e-30) for part in (shown, seen))
    ratio = both / shown_2
    return Agreement(ratio, both / np.sqrt(shown_2 * seen_2)), np.linalg.norm(seen - ratio * shown @ u @ v, axis=1)


def doubt_of_unit(pairs: Iterable[tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]], remedy: str) -> str:
    """What speaks against rad/s, in words with the remedy; empty where nothing does.

    Args:
        pairs: what the gyroscope showed and the camera saw at the same times, for each offset that may be theirs.
        remedy: how degrees a second are converted.
    """
    ratio, correlation = max(
        (agreement(shown, seen) for shown, seen in pairs if len(seen) >= _FEWEST),
        key=lambda each: each.correlation,
        default=Agreement(1.0, 0.0),
    )
    if correlation < _SURE:
        return ""
    if _LEAST < ratio * _DEGREES < _MOST:
        return (
            "the gyroscope turns 57.3 times as fast as the camera; its rates are in degrees a second: convert them "
            f"({remedy})"
        )
    if _LEAST < ratio / _DEGREES < _MOST:
        return (
            "the gyroscope turns 1/57.3 times as fast as the camera; its rates were converted to radians twice: "
            "multiply them by 57.3"
        )
    return ""
