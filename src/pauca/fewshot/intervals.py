"""Confidence intervals of an accuracy: over episodes, and over the classes that the episodes draw from.

Two thousand episodes of 20 test classes hold each of them five hundred times. The spread of the episodes says how well
the accuracy on these 20 classes is known. What it would be on other classes of the same kind is known far less well,
and that is what somebody with classes of their own asks. So there are two intervals, and both are named.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.special import stdtr, stdtrit  # scipy.stats has them, too, with half a second of imports

from pauca.fewshot.types import PADDING

_ROWS = 1024  # of the table of pairs of episodes at a time
# With few pairs that share no class the estimate of the variance is noise. Ten classes, five ways have 1 in 252.
_FEWEST_PAIRS = 100


class Interval(NamedTuple):
    """A mean and half the width of its 95 % confidence interval (Student's t)."""

    mean: float
    half_width: float

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f} ± {100 * self.half_width:.2f}"


def mean_interval(values: Float[np.ndarray, "n"]) -> Interval:
    """The mean of independent values with its 95 % interval; infinite for a single value."""
    n = len(values)
    if n < 2:
        return Interval(float(values.mean()), float("inf"))
    return Interval(float(values.mean()), float(_quantile(n) * values.std(ddof=1) / np.sqrt(n)))


def class_interval(
    values: Float[np.ndarray, "e"], classes: Int64[np.ndarray, "e way"], class_values: Float[np.ndarray, "classes"]
) -> Interval:
    """The mean over episodes with a 95 % interval for which the classes are the sample.

    The mean over episodes is an incomplete U-statistic of the classes. Episodes that share no class are independent, so
    the product of their deviations from the mean is, on average, minus the variance of that mean (Hoeffding 1948): no
    model of how classes act on one another is needed. The estimate varies, for differences of models most; so the
    interval of the mean of `class_values`, as if classes were independent, is taken where it is wider. Student's t with
    as many degrees of freedom as there are classes, less one. `benchmarks/fewshot_intervals.py` measures how often it
    holds the truth: in 90 to 98 % of simulated sets of classes.

    Args:
        values: the accuracy of each episode, or a difference of two.
        classes: what each episode drew, `PADDING` where it has fewer.
        class_values: the same value by class, NaN for a class that was never drawn. It alone gives the interval where
            hardly any two episodes share no class: fewer than about twice as many classes as ways.
    """
    variance = _variance_over_classes(values, classes)
    drawn = class_values[~np.isnan(class_values)]
    if len(drawn) < 2:
        return Interval(float(values.mean()), float("inf"))
    of_classes = float(drawn.var(ddof=1)) / len(drawn)
    of_episodes = float(values.var(ddof=1)) / len(values) if len(values) > 1 else np.inf
    largest = max(variance or 0.0, of_classes, of_episodes)  # it cannot be known better than on these classes
    return Interval(float(values.mean()), float(_quantile(len(drawn)) * np.sqrt(largest)))


def p_value(interval: Interval, count: int) -> float:
    """Two-sided p-value of a mean of zero, from the interval of a mean over `count` episodes or classes."""
    if interval.mean == 0 or not np.isfinite(interval.half_width):
        return 1.0
    if interval.half_width == 0:
        return 0.0
    return float(2 * stdtr(count - 1, -abs(interval.mean) / interval.half_width * _quantile(count)))


def _variance_over_classes(values: Float[np.ndarray, "e"], classes: Int64[np.ndarray, "e way"]) -> float | None:
    """Minus the mean product of the deviations of two episodes that share no class; None if there are too few such."""
    deviations = _deviations(values, (classes != PADDING).sum(1))
    members = _members(classes)
    total, pairs = 0.0, 0
    for start in range(0, len(values), _ROWS):
        apart = (members[start : start + _ROWS] @ members.T) == 0
        total += float(deviations[start : start + _ROWS] @ (apart @ deviations))
        pairs += int(apart.sum())
    return -total / pairs if pairs >= _FEWEST_PAIRS else None


def _deviations(values: Float[np.ndarray, "e"], ways: Int64[np.ndarray, "e"]) -> Float[np.ndarray, "e"]:
    """From the mean of the episodes of equal way, because more classes are harder to tell apart."""
    sums, counts = np.bincount(ways, values), np.bincount(ways)
    return values - (sums / np.maximum(counts, 1))[ways]


def _members(classes: Int64[np.ndarray, "e way"]) -> Float[np.ndarray, "e classes"]:
    """1 where an episode has a class."""
    members = np.zeros((len(classes), int(classes.max()) + 1), np.float32)
    used: Bool[np.ndarray, "e way"] = classes != PADDING
    rows = np.broadcast_to(np.arange(len(classes))[:, None], classes.shape)
    members[rows[used], classes[used]] = 1
    return members


def _quantile(count: int) -> float:
    return float(stdtrit(count - 1, 0.975))
