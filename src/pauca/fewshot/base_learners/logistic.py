"""Multinomial logistic regression, differentiable through its optimum.

In the dual, with K the Gram matrix over the penalty, the fitted logits are K a, and the optimum satisfies
a = W (Y - softmax(K a)), W the weights of the examples; below, targets are W Y and probabilities W softmax(K a).
Newton's step is that of Laplace's approximation for Gaussian process classification (Rasmussen and Williams 2006,
algorithm 3.3): one block a class, tied by one n x n matrix.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pauca.errors import ConfigError
from pauca.fewshot.base_learners.head import Head, Scorer, example_weights
from pauca.fewshot.base_learners.linear_algebra import implicit_optimum, invert_positive, solve_with_factor

NEWTON_STEPS = 30  # 3 to 20 suffice for Gram diagonals from 0.03 to 30000
STEP_LENGTHS = (1.0, 0.5, 0.25, 0.1, 0.02, 0.004)
TOLERANCE = 1e-10  # on a - (Y - softmax(K a)), whose entries are at most 1


class LogisticRegression(Head):
    """Multinomial logistic regression with an L2 penalty; logits = scale X_q X^T a / penalty.

    Minimizes the summed cross-entropy of the support plus half the penalty times the squared norm of the weights, in
    float64 whatever the features are. Examples are weighted so that every class counts alike (`example_weights`).

    Args:
        penalty: weight of the squared norm.
        bias: regress on a constant feature too (penalized like the others).
        scale: starting value of the learnable output scale.
    """

    asks_host = True

    def __init__(self, penalty: float = 1.0, bias: bool = False, scale: float = 1.0):
        super().__init__(scale)
        if not 0 < penalty < math.inf:
            raise ConfigError(f"logistic penalty {penalty}: must be positive")
        self.penalty, self.bias = penalty, bias

    def fit(self, support: Float[Tensor, "e n d"], targets: Float[Tensor, "e n way"]) -> Scorer:
        offset = 1.0 if self.bias else 0.0  # a constant feature adds 1 to every inner product
        wide = support.double()
        gram = (wide @ wide.mT + offset) / self.penalty
        wide_targets = targets.double()
        wide_targets = wide_targets * example_weights(wide_targets).unsqueeze(-1)

        def project(gradient: Tensor, gram: Tensor, dual: Tensor) -> Tensor:
            return Curvature.of(gram, _probabilities(gram @ dual, wide_targets)).project(gradient)

        dual = implicit_optimum(gram, lambda gram: (solve_dual(gram, wide_targets),), project).to(support.dtype)
        return lambda query: (query @ support.mT + offset) @ dual / self.penalty


@dataclass(frozen=True)
class Curvature:
    """Z = (H^-1 + K)^-1, H the Hessian of the weighted cross-entropy in the logits of each support image.

    With q the weighted probabilities of an image, whose sum is its weight, H = diag(q) - q q^T / sum(q).
    """

    blocks: Float[Tensor, "e way n n"]
    tie: Float[Tensor, "e n n"]

    @classmethod
    def of(cls, gram: Float[Tensor, "e n n"], probabilities: Float[Tensor, "e n way"]) -> "Curvature":
        root = probabilities.mT.sqrt().unsqueeze(-1)  # e way n 1
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        inner = invert_positive(identity + root * gram.unsqueeze(1) * root.mT)
        blocks = root * inner * root.mT
        padding = (probabilities.sum(-1) == 0).to(gram.dtype)
        return cls(blocks, torch.linalg.cholesky_ex(blocks.sum(1) + torch.diag_embed(padding)).L)

    def project(self, value: Float[Tensor, "e n way"]) -> Float[Tensor, "e n way"]:
        """Z value."""
        free = (self.blocks @ value.mT.unsqueeze(-1)).squeeze(-1)
        shared = solve_with_factor(self.tie, free.sum(1).unsqueeze(-1))
        return (free - (self.blocks @ shared.unsqueeze(1)).squeeze(-1)).mT


def solve_dual(gram: Float[Tensor, "e n n"], targets: Float[Tensor, "e n way"]) -> Float[Tensor, "e n way"]:
    """Optimal dual variables by Newton's method with a line search over a few fixed lengths.

    Targets are one-hot rows times the weight of the image, zero for padding.

    Asks once a step whether it is done: on a GPU the host waits, which costs less than steps in vain.
    """
    lengths = torch.tensor(STEP_LENGTHS, dtype=gram.dtype, device=gram.device)
    dual = torch.zeros_like(targets)
    for _ in range(NEWTON_STEPS):
        logits = gram @ dual
        probabilities = _probabilities(logits, targets)
        if (dual - targets + probabilities).abs().max() < TOLERANCE:
            break
        right = _hessian_times(probabilities, logits, targets) + targets - probabilities
        full = right - Curvature.of(gram, probabilities).project(gram @ right)
        trials = dual + lengths[:, None, None, None] * (full - dual)
        worse = _objective(gram, trials, targets) > _objective(gram, dual[None], targets) + TOLERANCE
        # The longest step that does not rise; the shortest if all seem to.
        chosen = worse.cumprod(0).sum(0).clamp(max=len(lengths) - 1)
        dual = trials[chosen, torch.arange(len(dual), device=dual.device)]
    return dual


def _probabilities(logits: Float[Tensor, "e n way"], targets: Float[Tensor, "e n way"]) -> Tensor:
    """Softmax over the classes with support, times the weight of the image; rows of padding are zero."""
    absent = targets.sum(1, keepdim=True) == 0
    return logits.masked_fill(absent, -torch.inf).softmax(-1) * targets.sum(-1, keepdim=True)


def _hessian_times(probabilities: Tensor, value: Tensor, targets: Tensor) -> Float[Tensor, "e n way"]:
    weighted = probabilities * value
    weights = targets.sum(-1, keepdim=True)
    return weighted - probabilities * weighted.sum(-1, keepdim=True) / torch.where(weights > 0, weights, 1.0)


def _objective(
    gram: Float[Tensor, "e n n"], dual: Float[Tensor, "s e n way"], targets: Float[Tensor, "e n way"]
) -> Float[Tensor, "s e"]:
    """Weighted sum of the cross-entropy of the support plus half the squared norm."""
    logits = gram @ dual
    absent = targets.sum(1, keepdim=True) == 0
    used = targets.sum(-1)
    loss = used * logits.masked_fill(absent, -torch.inf).logsumexp(-1) - (logits * targets).sum(-1)
    return loss.sum(-1) + (dual * logits).sum((-2, -1)) / 2
