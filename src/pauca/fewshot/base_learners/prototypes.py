"""Prototypes: each class is the mean of its support features."""

from jaxtyping import Float
from torch import Tensor

from pauca.fewshot.base_learners.head import Head, Scorer


def class_means(support: Float[Tensor, "e n d"], targets: Float[Tensor, "e n way"]) -> Float[Tensor, "e way d"]:
    """Mean feature of each class; zero for a class without support."""
    return targets.mT @ support / targets.sum(1).clamp(min=1).unsqueeze(-1)


class Prototypes(Head):
    """Negative squared distance to the class mean over the number of features (Snell et al. 2017).

    The mean of n images is off by the variance within a class over n, which lengthens its distances; what classes with
    fewer images have more of it than the largest one is taken off. For equal shots that is nothing.

    Args:
        scale: starting value of the learnable scale.
        per_feature: divide by the number of features; not where they have length one, and distances are below four
            however many there are.
    """

    def __init__(self, scale: float = 1.0, per_feature: bool = True):
        super().__init__(scale)
        self.per_feature = per_feature

    def fit(self, support: Float[Tensor, "e n d"], targets: Float[Tensor, "e n way"]) -> Scorer:
        means = class_means(support, targets)
        lengths = (means.square().sum(-1) - _excess(support, targets, means)).unsqueeze(1)

        def score(query: Float[Tensor, "e q d"]) -> Float[Tensor, "e q way"]:
            squared = query.square().sum(-1, keepdim=True) + lengths - 2 * query @ means.mT
            return -squared / (support.shape[-1] if self.per_feature else 1)

        return score


def _excess(
    support: Float[Tensor, "e n d"], targets: Float[Tensor, "e n way"], means: Float[Tensor, "e way d"]
) -> Float[Tensor, "e way"]:
    """By how much the squared distance to each mean is longer than that to the mean of the class with most images."""
    counts = targets.sum(1)
    freedom = (counts - 1).clamp(min=0).sum(-1)
    within = (support - targets @ means).square().sum((-1, -2)) / freedom.clamp(min=1)
    inverse = counts.clamp(min=1).reciprocal()
    return within.unsqueeze(-1) * (inverse - counts.amax(-1, keepdim=True).clamp(min=1).reciprocal())
