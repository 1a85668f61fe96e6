"""Nearest class by angle."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from pauca.fewshot.base_learners.head import Head
from pauca.fewshot.base_learners.prototypes import class_means


class Cosine(Head):
    """Cosine between query and the mean of each class's support features of unit length.

    Args:
        scale: starting value of the learnable scale; cosines are at most 1, so it sets how sure the softmax can be.
    """

    def __init__(self, scale: float = 10.0):
        super().__init__(scale)

    def scores(
        self, support: Float[Tensor, "e n d"], targets: Float[Tensor, "e n way"], query: Float[Tensor, "e q d"]
    ) -> Float[Tensor, "e q way"]:
        means = class_means(normalize(support, dim=-1), targets)
        return normalize(query, dim=-1) @ normalize(means, dim=-1).mT
