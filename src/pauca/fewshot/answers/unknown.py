"""Images of no class that was learned: how far an image is from the classes.

The distance is the cosine distance to the nearest class mean. Against the largest probability it tells strangers apart
better everywhere that it was measured (`benchmarks/fewshot_unknown.py`): a classifier may be sure of an image that is
far from all of its classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from pauca.fewshot.answers.groups import pairs, shares, voted


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
        votes: bool = False,
    ) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"]]:
        """Of each example that has others of its class, as if it were a further image; and what each counts.

        An example is left out with its group; None makes a group of each. The members of a group count 1 together;
        with `votes` their mean takes their place.

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
        distances, members = 1 - cosines.amax(1), places.unique(return_inverse=True)[1]
        if votes:
            distances = voted(distances, members)
            return distances, torch.ones_like(distances)
        return distances, shares(members).to(features.dtype)

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
