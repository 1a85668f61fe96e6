"""Images of no class that was learned: a distance, and the distance from which on an image is called unknown.

The distance is the cosine distance to the nearest class mean. Against the largest probability it tells strangers apart
better everywhere that it was measured (`benchmarks/fewshot_unknown.py`): a classifier may be sure of an image that is
far from all of its classes.
"""

from dataclasses import dataclass
from math import ceil, floor, inf, log

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy import stats
from torch import Tensor
from torch.nn.functional import normalize, one_hot


class FewExamplesWarning(UserWarning):
    """Too few examples for what was asked; says how many it takes."""


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """The means of the classes' features of length one, and how near the examples are to them."""

    sums: Float[Tensor, "way d"]
    counts: Int64[Tensor, "way"]

    @classmethod
    def of(cls, features: Float[Tensor, "n d"], targets: Int64[Tensor, "n"], way: int) -> "ClassMeans":
        members = one_hot(targets, way)
        return cls(members.mT.to(features.dtype) @ normalize(features, dim=1), members.sum(0))

    def distances(self, features: Float[Tensor, "q d"]) -> Float[Tensor, "q"]:
        """Of each image to the nearest class: 1 minus the cosine, from 0 to 2."""
        return 1 - (normalize(features, dim=1) @ normalize(self.sums, dim=1).mT).amax(1)

    def left_out(self, features: Float[Tensor, "n d"], targets: Int64[Tensor, "n"]) -> Float[Tensor, "m"]:
        """Of each example that is not its class's only one, as if it were a further image.

        The mean that it is left out of has one example less, and is so much shorter of what the class has in common:
        with r the mean cosine of two examples of a class, the cosine to the mean of k is proportional to
        (r + (1 - r) / k)^-1/2. The examples' cosines are raised by the ratio of the two; without it 5 to 10 % of known
        images would be rejected where 10 to 20 % were asked for (2 examples a class).
        """
        counts = self.counts[targets]
        kept = counts >= 2
        examples, targets, counts = normalize(features[kept], dim=1), targets[kept], counts[kept].to(features.dtype)
        cosines = examples @ normalize(self.sums, dim=1).mT
        own = (examples * normalize(self.sums[targets] - examples, dim=1)).sum(1)
        alike = self._alike()
        longer = ((alike + (1 - alike) / (counts - 1)) / (alike + (1 - alike) / counts)).sqrt()
        cosines[torch.arange(len(targets), device=targets.device), targets] = own * longer
        return 1 - cosines.amax(1)

    def _alike(self) -> Float[Tensor, ""]:
        """The mean cosine of two examples of one class; not negative."""
        pairs = (self.counts * (self.counts - 1)).sum()
        return ((self.sums.square().sum() - self.counts.sum()) / pairs.clamp(min=1)).clamp(0.01, 1)


def stranger_auroc(features: Float[Tensor, "n d"], targets: Int64[Tensor, "n"], way: int) -> float | None:
    """How well distances tell strangers from known images: the chance that a stranger is farther.

    Each class is a stranger once, to a classifier of the others; those are known by examples that were left out.
    None where fewer than two classes with two examples would be left.
    """
    chances = []
    for stranger in range(way):
        known = targets != stranger
        others = torch.where(targets > stranger, targets - 1, targets)[known]
        if int((torch.bincount(others, minlength=way - 1) >= 2).sum()) < 2:
            return None
        means = ClassMeans.of(features[known], others, way - 1)
        near, far = means.left_out(features[known], others), means.distances(features[~known])
        farther = (far[:, None] > near).double() + (far[:, None] == near).double() / 2
        chances.append(float(farther.mean()))
    return float(np.mean(chances))


def conformal_threshold(distances: Float[np.ndarray, "n"], share: float, confidence: float | None = None) -> float:
    """The distance from which on an image is unknown, by split conformal prediction.

    Args:
        distances: of images of known classes that the classes were not learned from.
        share: of further images of known classes that may be called unknown.
        confidence: None keeps the share on average over tasks. A probability keeps it in this very task, so often: the
            share beyond the r-th largest of n distances has the distribution Beta(r, n + 1 - r).

    Returns:
        Infinity, with which nothing is rejected, where there are too few distances (`examples_needed`).
    """
    count = len(distances)
    ordered = np.sort(distances)[::-1]
    if confidence is not None:
        ranks = np.arange(1, count + 1)
        kept = ranks[stats.beta.ppf(confidence, ranks, count + 1 - ranks) <= share]
        return float(ordered[kept[-1] - 1]) if len(kept) else inf
    rank = share * (count + 1)
    if rank < 1:
        return inf
    # Between two distances where the share lies between two: the lower rank alone would reject 2.6 % of 38 for 5.
    low = min(floor(rank), count)
    return float(np.interp(rank, [low, low + 1], [ordered[low - 1], ordered[min(low, count - 1)]]))


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
