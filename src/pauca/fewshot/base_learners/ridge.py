"""Ridge regression onto one-hot targets, in the dual: the system is as large as the support, not as the features."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pauca.errors import ConfigError
from pauca.fewshot.base_learners.head import Head, Scorer, example_weights
from pauca.fewshot.base_learners.linear_algebra import solve_positive


class Ridge(Head):
    """a = 2 (X X^T + penalty W^-1)^-1 Y; logits = scale X_q X^T a (the ridge head of MetaOptNet, solved directly).

    W holds the weights of the examples, with which every class counts alike (`example_weights`): 1 for equal shots.

    Args:
        penalty: weight of the squared norm, in the units of squared features; 50 as published.
        learn_penalty: make its logarithm a parameter.
        bias: regress on a constant feature too.
        scale: starting value of the learnable output scale.
    """

    def __init__(self, penalty: float = 50.0, learn_penalty: bool = False, bias: bool = False, scale: float = 1.0):
        super().__init__(scale)
        if not 0 < penalty < math.inf:
            raise ConfigError(f"ridge penalty {penalty}: must be positive")
        self.log_penalty = nn.Parameter(torch.tensor(math.log(penalty)), requires_grad=learn_penalty)
        self.bias = bias

    def fit(self, support: Float[Tensor, "e n d"], targets: Float[Tensor, "e n way"]) -> Scorer:
        offset = 1.0 if self.bias else 0.0  # a constant feature adds 1 to every inner product
        gram = support @ support.mT + offset
        penalties = self.log_penalty.exp() / example_weights(targets)
        dual = solve_positive(gram + torch.diag_embed(penalties), 2 * targets)
        return lambda query: (query @ support.mT + offset) @ dual
