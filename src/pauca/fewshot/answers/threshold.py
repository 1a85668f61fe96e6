"""The distance from which on an image is called unknown, and what it promises."""

from dataclasses import dataclass
from math import ceil, inf, log

import numpy as np
from jaxtyping import Float
from scipy.special import betaincinv

from pauca.errors import ConfigError
from pauca.fewshot.answers.examples import Words


class FewExamplesWarning(UserWarning):
    """Too few examples for what was asked; says how many it takes."""


@dataclass(frozen=True)
class Promise:
    """How many images of known classes are lost, and how surely no more."""

    share: float
    """Share of further images of known classes that may be called unknown."""
    confidence: float | None = None
    """None keeps the share on average over tasks; a probability keeps it in this very task, so often."""

    def __post_init__(self) -> None:
        for name, value in (("reject", self.share), ("confidence", self.confidence)):
            if value is not None and not 0 < value < 1:
                raise ConfigError(f"{name} {value}: give a share between 0 and 1, or None")

    def threshold(self, distances: Float[np.ndarray, "n"], weights: Float[np.ndarray, "n"]) -> float:
        """`conformal_threshold` of distances that count so much each."""
        return conformal_threshold(distances, self.share, self.confidence, weights)

    def lacks(self, found: int, words: Words, grouped: bool) -> str | None:
        """What to say where there are too few examples, or groups of them, to reject anything."""
        needed = examples_needed(self.share, self.confidence)
        if found >= needed:
            return None
        so_often = "" if self.confidence is None else f" with confidence {self.confidence:g}"
        few, further = words.counted(grouped), words.further(grouped)
        return (
            f"nothing is rejected: to call no more than {self.share:g} of known {words.images} unknown{so_often} takes "
            f"{needed} {few} in classes of two or more, or {needed} {further} for calibrate (in Python), and there are "
            f"{found}; give more, or set reject to {least_share(found, self.confidence):.2g} or more"
        )


def conformal_threshold(
    distances: Float[np.ndarray, "n"],
    share: float,
    confidence: float | None = None,
    weights: Float[np.ndarray, "n"] | None = None,
) -> float:
    """The distance from which on an image is unknown, by split conformal prediction.

    Args:
        distances: of images of known classes that the classes were not learned from.
        share: of further images of known classes that may be called unknown.
        confidence: None keeps the share on average over tasks. A probability keeps it in this very task, so often: the
            share beyond the r-th largest of n distances has the distribution Beta(r, n + 1 - r).
        weights: what each distance counts, if not 1. Images of one group count 1 together: then the promise is for an
            image of a further group (Lee, Barber and Willett, Distribution-free inference with hierarchical data,
            2023), and kept with confidence no less often than by one image of each group, whose share varies more.

    Returns:
        Infinity, with which nothing is rejected, where there are too few distances (`examples_needed`).
    """
    order = np.argsort(distances, kind="stable")[::-1]
    weights = np.ones(len(distances)) if weights is None else weights[order]
    count = round(float(weights.sum()))
    if confidence is None:
        rank = share * (count + 1)
    else:
        ranks = np.arange(1, count + 1)
        rank = int((betaincinv(ranks, count + 1 - ranks, confidence) <= share).sum())
    if rank < 1:
        return inf
    # Between two distances where the share lies between two: the lower rank alone would reject 2.6 % of 38 for 5.
    beyond = np.cumsum(weights) - weights
    return float(np.interp(rank - 1, beyond, distances[order]))


def examples_needed(share: float, confidence: float | None = None) -> int:
    """How many distances `conformal_threshold` needs to reject anything at all."""
    if confidence is not None:
        return ceil(log(1 - confidence) / log(1 - share) - 1e-9)
    return ceil(1 / share - 1 - 1e-9)


def least_share(count: int, confidence: float | None = None) -> float:
    """The smallest share for which so many distances are enough."""
    if confidence is not None:
        return 1 - (1 - confidence) ** (1 / max(count, 1))
    return 1 / (count + 1)
