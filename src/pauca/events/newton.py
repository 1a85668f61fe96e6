"""Damped Newton for a score that is smooth on the scale of its own uncertainty, but rough below.

Bilinear voting has a kink at every pixel, so second derivatives at a point mean nothing: curvature is learnt from
differences of the exact gradient over steps of about one standard deviation (BFGS on the way, forward differences at
the end). All steps are taken relative to the Fisher matrix, which comes with every evaluation: what is learnt about
the curvature there (`shape`) holds for the next packet as well.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pauca.events.types import Status

_SHRINK = 0.5  # longest step kept after a failed one
_FLATTEST = 0.03  # least curvature that is believed, relative to what the search had learnt
_RESUME = 0.25  # decrement (nats) by the measured curvature from which on the search goes on
_ROUGH = 1.0  # below this decrement (nats) the kinks can hide that a step would help


class Trial(NamedTuple):
    """The score and its derivatives at one point."""

    value: float
    gradient: Float[np.ndarray, "k"]
    fisher: Float[np.ndarray, "k k"]


class Optimum(NamedTuple):
    """Where the search ended: the best point that was evaluated."""

    point: Float[np.ndarray, "k"]
    value: float
    information: Float[np.ndarray, "k k"]  # minus the second derivatives
    shape: Float[np.ndarray, "k k"]  # the information relative to the Fisher matrix, for the next search
    status: Status
    evaluations: int


def maximise(
    evaluate: Callable[[Float[np.ndarray, "k"]], Trial],
    start: Float[np.ndarray, "k"],
    *,
    reach: Float[np.ndarray, "k"],
    shape: Float[np.ndarray, "k k"] | None = None,
    observed: int,
    tolerance: float = 0.04,
    max_evaluations: int = 60,
) -> Optimum:
    """Climb to a maximum of the score.

    Args:
        evaluate: the score and its derivatives at a point.
        start: where to begin.
        reach: largest sensible step of each parameter; a longer step is cut to this ellipsoid.
        shape: what an earlier, similar search returned as `shape`.
        observed: how many of the first parameters get their curvature measured at the end, one evaluation each.
        tolerance: stop when a Newton step promises less than half of this gain (nats): 0.04 is a fifth of a standard
            deviation; a smaller one changes no figure of `benchmarks/events_accuracy.py` and costs a third more.
        max_evaluations: give up (STALLED) after so many, those for the final curvature not counted.
    """
    point, here = start, evaluate(start)
    evaluations = 1
    root = _cholesky(here.fisher)
    if root is None:
        empty = np.zeros_like(here.fisher)
        return Optimum(point, here.value, empty, np.eye(len(start)), Status.DEGENERATE, evaluations)
    information = root @ (np.eye(len(start)) if shape is None else shape) @ root.T
    status = None
    while status is None:
        climbed = _climb(evaluate, point, here, information, reach, tolerance, max_evaluations - evaluations)
        point, here, status = climbed.point, climbed.here, climbed.status
        information = _observed_information(evaluate, point, here, climbed.information, observed)
        evaluations += climbed.evaluations + observed
        # What was learnt on the way can be far too large; then the maximum is further away than it seemed.
        if status is Status.CONVERGED and evaluations < max_evaluations:
            remaining = float(here.gradient @ np.linalg.solve(information, here.gradient))
            status = None if remaining > _RESUME and not climbed.rough else status
    root = _cholesky(here.fisher)
    if root is None:
        shape, status = np.eye(len(start)), Status.DEGENERATE
    else:
        shape = np.linalg.solve(root, np.linalg.solve(root, information).T)
    return Optimum(point, here.value, information, shape, status, evaluations)


class _Climbed(NamedTuple):
    point: np.ndarray
    here: Trial
    information: np.ndarray
    status: Status
    rough: bool  # the kinks hide any further rise
    evaluations: int


def _climb(
    evaluate: Callable[[np.ndarray], Trial],
    point: np.ndarray,
    here: Trial,
    information: np.ndarray,
    reach: np.ndarray,
    tolerance: float,
    budget: int,
) -> _Climbed:
    """Newton steps until they promise too little, nothing helps, or the budget is used up."""
    evaluations = 0
    while evaluations < budget:
        step = np.linalg.solve(information, here.gradient)
        decrement = float(here.gradient @ step)
        if decrement < tolerance:
            return _Climbed(point, here, information, Status.CONVERGED, False, evaluations)
        step /= max(1.0, float(np.linalg.norm(step / reach)))
        tried = _search_along(evaluate, point, step, here, information, budget - evaluations)
        evaluations += tried.evaluations
        information = tried.information
        if tried.trial is None:
            status = Status.CONVERGED if decrement < _ROUGH else Status.STALLED
            return _Climbed(point, here, information, status, True, evaluations)
        point, here = point + tried.step, tried.trial
    return _Climbed(point, here, information, Status.STALLED, False, evaluations)


class _Tried(NamedTuple):
    step: np.ndarray
    trial: Trial | None  # None where no step helped
    information: np.ndarray
    evaluations: int


def _search_along(
    evaluate: Callable[[np.ndarray], Trial],
    point: np.ndarray,
    step: np.ndarray,
    here: Trial,
    information: np.ndarray,
    budget: int,
) -> _Tried:
    """Backtrack along the step until the score rises; learn curvature from every trial."""
    for count in range(1, min(8, budget) + 1):
        there = evaluate(point + step)
        information = _updated(information, step, here.gradient - there.gradient)
        promised = float(here.gradient @ step)
        gain = there.value - here.value
        if gain > 1e-4 * promised:
            return _Tried(step, there, information, count)
        # Maximum of the parabola through the value and slope here and the value there.
        step = step * np.clip(promised / (2 * (promised - gain)), 0.1, _SHRINK)
    return _Tried(step, None, information, min(8, budget))


def _updated(information: np.ndarray, step: np.ndarray, fall: np.ndarray) -> np.ndarray:
    """BFGS: the nearest information that explains the fall of the gradient over this step; unchanged if none does."""
    curvature = float(step @ fall)
    expected = information @ step
    if curvature <= 1e-3 * float(step @ expected):
        return information
    return information - np.outer(expected, expected) / (step @ expected) + np.outer(fall, fall) / curvature


def _observed_information(
    evaluate: Callable[[np.ndarray], Trial],
    point: np.ndarray,
    here: Trial,
    guess: np.ndarray,
    observed: int,
) -> np.ndarray:
    """Minus the second derivatives by the first `observed` parameters, from the gradient's change over one standard
    deviation in each direction; the rest, and what kinks turned negative, as guessed."""
    root = np.linalg.cholesky(guess)
    directions = np.linalg.inv(root)  # rows: conjugate steps of one standard deviation, the i-th in parameters 0..i
    whitened = np.eye(len(guess))  # the information in units of the guess
    for i, direction in enumerate(directions[:observed]):
        whitened[i] = directions @ (here.gradient - evaluate(point + direction).gradient)
    whitened[observed:, :observed] = whitened[:observed, observed:].T
    size, axes = np.linalg.eigh((whitened + whitened.T) / 2)
    return root @ (axes * np.maximum(size, _FLATTEST)) @ axes.T @ root.T


def _cholesky(matrix: np.ndarray) -> np.ndarray | None:
    """Lower factor; None where the matrix is singular or not finite, whatever the units of its parameters."""
    if not np.all(np.isfinite(matrix)) or not np.all(np.diag(matrix) > 0):
        return None
    scale = np.sqrt(np.diag(matrix))
    try:
        root = np.linalg.cholesky(matrix / np.outer(scale, scale))
    except np.linalg.LinAlgError:
        return None
    return scale[:, None] * root if np.min(np.diag(root)) > 1e-4 else None
