"""Images of no class that was learned: a distance, and the distance from which on an image is called unknown.

The distance is the cosine distance to the nearest class mean. Against the largest probability it tells strangers apart
better everywhere that it was measured (`benchmarks/fewshot_unknown.py`): a classifier may be sure of an image that is
far from all of its classes.
"""

from dataclasses import dataclass
from math import ceil, inf, log

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy import stats
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from pauca.fewshot.answers.groups import pairs, shares


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

    def left_out(
        self,
        features: Float[Tensor, "n d"],
        targets: Int64[Tensor, "n"],
        groups: Int64[Tensor, "n"] | None = None,
    ) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"]]:
        """Of each example that has others of its class, as if it were a further image; and what each counts.

        An example is left out with its group; None makes a group of each. The members of a group count 1 together.

        The mean that it is left out of has one group less, and is so much shorter of what the class has in common:
        with r the mean cosine of two examples of a class in two groups, and r + v that of two in one group (1, of an
        example with itself), the cosine to the mean of k is proportional to (r + v / k)^-1/2. The cosines are raised by
        the ratio of the two; without it 5 to 10 % of known images would be rejected where 10 to 20 % were asked for
        (2 examples a class).
        """
        places, class_of_pair = pairs(targets, groups)
        of_pair = torch.zeros(len(class_of_pair), features.shape[1], dtype=features.dtype, device=features.device)
        of_pair.index_add_(0, places, normalize(features, dim=1))
        sizes = torch.bincount(places, minlength=len(class_of_pair)).to(features.dtype)
        counts = torch.bincount(class_of_pair, minlength=len(self.sums))
        kept = counts[targets] >= 2
        examples, places, targets = normalize(features[kept], dim=1), places[kept], targets[kept]
        counts = counts[targets].to(features.dtype)
        cosines = examples @ normalize(self.sums, dim=1).mT
        own = (examples * normalize(self.sums[targets] - of_pair[places], dim=1)).sum(1)
        alike, within = self._alike(of_pair, sizes)
        longer = ((alike + within / (counts - 1)) / (alike + within / counts)).sqrt()
        cosines[torch.arange(len(targets), device=targets.device), targets] = own * longer
        return 1 - cosines.amax(1), shares(places).to(features.dtype)

    def _alike(
        self, of_pair: Float[Tensor, "p d"], sizes: Float[Tensor, "p"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The mean cosine of two examples of a class in two groups, not negative, and by how much it is more in one."""
        in_one = of_pair.square().sum()
        between = self.counts.square().sum() - sizes.square().sum()
        alike = ((self.sums.square().sum() - in_one) / between.clamp(min=1)).clamp(0.01, 1)
        return alike, ((of_pair / sizes[:, None]).square().sum(1).mean() - alike).clamp(min=0)


def stranger_auroc(
    features: Float[Tensor, "n d"], targets: Int64[Tensor, "n"], way: int, groups: Int64[Tensor, "n"] | None = None
) -> float | None:
    """How well distances tell strangers from known images: the chance that a stranger is farther.

    Each class is a stranger once, to a classifier of the others; those are known by examples that were left out.
    None where fewer than two classes with two groups would be left.
    """
    chances = []
    _, class_of_pair = pairs(targets, groups)
    several = torch.bincount(class_of_pair, minlength=way) >= 2
    for stranger in range(way):
        known = targets != stranger
        others = torch.where(targets > stranger, targets - 1, targets)[known]
        if int(several.sum()) - int(several[stranger]) < 2:
            return None
        means = ClassMeans.of(features[known], others, way - 1)
        near, weights = means.left_out(features[known], others, None if groups is None else groups[known])
        far = means.distances(features[~known])
        farther = (far[:, None] > near).double() + (far[:, None] == near).double() / 2
        chances.append(float((farther.mean(0) * weights).sum() / weights.sum()))
    return float(np.mean(chances))


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
        rank = int((stats.beta.ppf(confidence, ranks, count + 1 - ranks) <= share).sum())
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
