"""Nearest class by angle."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from pauca.fewshot.base_learners.head import Head, Scorer
from pauca.fewshot.base_learners.prototypes import class_means


class Cosine(Head):
    """Cosine between query and the mean of each class's support features of unit length.

    Args:
        scale: starting value of the learnable scale; cosines are at most 1, so it sets how sure the softmax can be.
    """

    def __init__(self, scale: float = 10.0):
        super().__init__(scale)

    def fit(self, support: Float[Tensor, "e n d"], targets: Float[Tensor, "e n way"]) -> Scorer:
        means = normalize(class_means(normalize(support, dim=-1), targets), dim=-1)
        return lambda query: normalize(query, dim=-1) @ means.mT
