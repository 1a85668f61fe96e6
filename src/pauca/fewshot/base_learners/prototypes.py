"""Prototypes: each class is the mean of its support features."""

from jaxtyping import Float
from torch import Tensor

from pauca.fewshot.base_learners.head import Head


def class_means(support: Float[Tensor, "e n d"], targets: Float[Tensor, "e n way"]) -> Float[Tensor, "e way d"]:
    """Mean feature of each class; zero for a class without support."""
    return targets.mT @ support / targets.sum(1).clamp(min=1).unsqueeze(-1)


class Prototypes(Head):
    """Negative squared distance to the class mean over the number of features (Snell et al. 2017)."""

    def scores(
        self, support: Float[Tensor, "e n d"], targets: Float[Tensor, "e n way"], query: Float[Tensor, "e q d"]
    ) -> Float[Tensor, "e q way"]:
        means = class_means(support, targets)
        squared = query.square().sum(-1, keepdim=True) + means.square().sum(-1).unsqueeze(1) - 2 * query @ means.mT
        return -squared / support.shape[-1]
