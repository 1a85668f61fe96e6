"""Where the camera stands: intervals whose events show no motion."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from pauca.events.continuous.groups import ROLL
from pauca.events.continuous.window import Window, WindowScorer
from pauca.events.newton import score_statistic

_FEWEST_EVENTS = 50  # below, there is nothing to test
_LONGEST_S = 0.1  # intervals at rest are tested together up to this length: slow motion needs longer to show
_HIDDEN_PIXELS = 1.0  # motion that the test does not see

IsStill = Callable[[int, int], bool]


def score_test(scorer: WindowScorer, window: Window) -> float:
    """`score_statistic` by a constant velocity, at rest; 0 where the events say nothing."""
    if len(window.x) < _FEWEST_EVENTS:
        return 0.0
    knots = window.basis.shape[1]
    trial = scorer(window, np.zeros((knots, 3)))
    gradient = trial.gradient.reshape(knots, 3).sum(axis=0)
    fisher = trial.fisher.reshape(knots, 3, knots, 3).sum(axis=(0, 2))
    return score_statistic(gradient, fisher)


def resting_intervals(
    slow: Bool[np.ndarray, "intervals"], knots_us: Float[np.ndarray, "knots"], is_still: IsStill
) -> Bool[np.ndarray, "intervals"]:
    """Which of the slow intervals between knots show no motion, alone and together with neighbors at rest."""
    rest = slow.copy()
    for k in np.flatnonzero(slow):
        rest[k] = is_still(int(k), int(k) + 1)
    for first, last in runs(rest, knots_us):
        if last > first + 1 and not is_still(first, last):
            rest[first:last] = False
    return rest


def rest_information(
    rest: Bool[np.ndarray, "intervals"], knots_us: Float[np.ndarray, "knots"], pixels_per_rad: float
) -> Float[np.ndarray, "knots 3 3"]:
    """What the intervals at rest say about the velocity at their knots: zero, to within the motion that is not seen.

    A knot between rest and motion knows of its own interval at rest alone: there the camera may brake already.
    """
    information = np.zeros((len(knots_us), 3, 3))
    for first, last in runs(rest, knots_us):
        information[first + 1 : last] = _still_within(knots_us[last] - knots_us[first], pixels_per_rad)
        for knot, beyond, gap_us in (
            (first, first - 1, knots_us[first + 1] - knots_us[first]),
            (last, last, knots_us[last] - knots_us[last - 1]),
        ):
            inside = not 0 <= beyond < len(rest) or rest[beyond]
            length_us = knots_us[last] - knots_us[first] if inside else gap_us
            information[knot] = np.maximum(information[knot], _still_within(length_us, pixels_per_rad))
    return information


def _still_within(length_us: float, pixels_per_rad: float) -> Float[np.ndarray, "3 3"]:
    """Information of a velocity of zero over some time."""
    moved = pixels_per_rad * length_us * 1e-6 / _HIDDEN_PIXELS
    return np.diag([1, 1, ROLL**2]) * moved**2


def runs(chosen: Bool[np.ndarray, "intervals"], knots_us: Float[np.ndarray, "knots"]) -> list[tuple[int, int]]:
    """First and one past the last of each run of chosen intervals; long runs are cut."""
    found: list[tuple[int, int]] = []
    for k in np.flatnonzero(chosen).tolist():
        if found and found[-1][1] == k and (knots_us[k + 1] - knots_us[found[-1][0]]) * 1e-6 <= _LONGEST_S:
            found[-1] = (found[-1][0], k + 1)
        else:
            found.append((k, k + 1))
    return found
