"""Multi-class support vector machine (Crammer and Singer 2001), differentiable through its optimum.

The dual of one episode, with K the Gram matrix of the support plus `diagonal` on its diagonal, Y the one-hot labels:

    minimize  1/2 sum_k a_k' K a_k - sum_ik Y_ik a_ik    with  a_ik <= C Y_ik,  sum_k a_ik = 0.

Every Newton step here has the form: blocks K + diag(w_k), one a class, tied by the row sums. Eliminating the blocks
leaves one n x n Schur complement, so a step costs (way + 1) n^3, and no (n way) x (n way) matrix is ever formed.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pauca.errors import ConfigError
from pauca.fewshot.base_learners.head import Head, Scorer, example_weights
from pauca.fewshot.base_learners.linear_algebra import implicit_optimum, invert_positive, solve_with_factor

# The active-set method settles in 0 to 5 steps on features of 640 dimensions at any scale and cycles only when the
# support outnumbers the features and the Gram matrix is large.
ACTIVE_SET_STEPS = 8
POLISHING_STEPS = 3
# The interior point takes 5 to 25 steps for Gram diagonals from 0.03 to 30000.
INTERIOR_STEPS = 30
TOLERANCE = 1e-10
BLOCKED = 1e12  # weight on a variable that may not move, relative to the diagonal of K


class SupportVectorMachine(Head):
    """Crammer-Singer SVM; logits = scale X_q X^T a.

    Each example's bound is C times its weight, and what it adds to the diagonal is divided by its weight, so that every
    class counts alike (`example_weights`); for equal shots all weights are 1.

    Solved in float64 whatever the features are: the systems are small, and the implicit gradient is then exact.

    Args:
        penalty: C, the bound on each dual variable; 0.1 as in MetaOptNet.
        diagonal: added to the diagonal of the Gram matrix, which makes the optimum unique; 1 as in MetaOptNet's code.
        scale: starting value of the learnable output scale.
    """

    asks_host = True

    def __init__(self, penalty: float = 0.1, diagonal: float = 1.0, scale: float = 1.0):
        super().__init__(scale)
        if not (0 < penalty < math.inf and 0 < diagonal < math.inf):
            raise ConfigError(f"SVM penalty {penalty} and diagonal {diagonal}: both must be positive")
        self.penalty, self.diagonal = penalty, diagonal

    def fit(self, support: Float[Tensor, "e n d"], targets: Float[Tensor, "e n way"]) -> Scorer:
        wide = support.double()
        weights = example_weights(targets.double())
        gram = wide @ wide.mT + torch.diag_embed(self.diagonal / weights)

        def solve(gram: Tensor) -> tuple[Tensor, Tensor]:
            return solve_dual(DualProblem.of(gram, targets.double(), self.penalty * weights))

        def project(gradient: Tensor, gram: Tensor, dual: Tensor, tied_weights: Tensor) -> Tensor:
            return TiedSystem.of(gram, tied_weights).solve(gradient)[0]

        dual = implicit_optimum(gram, solve, project).to(support.dtype)
        return lambda query: (query @ support.mT) @ dual


@dataclass(frozen=True)
class DualProblem:
    """A batch of duals. Blocked variables (of classes without support) stay 0."""

    gram: Float[Tensor, "e n n"]
    targets: Float[Tensor, "e n way"]
    upper: Float[Tensor, "e n way"]
    blocked: Bool[Tensor, "e n way"]

    @classmethod
    def of(
        cls, gram: Float[Tensor, "e n n"], targets: Float[Tensor, "e n way"], penalties: Float[Tensor, "e n"]
    ) -> "DualProblem":
        padding = targets.sum(-1, keepdim=True) == 0
        blocked = (targets.sum(1, keepdim=True) == 0).expand_as(targets)
        # Padding has no Gram entries, so its optimum is 0; bounds that leave 0 inside keep it well behaved. A
        # blocked variable never comes near its bound.
        bounds = penalties.unsqueeze(-1)
        upper = torch.where(padding | blocked, bounds, bounds * targets)
        return cls(gram, targets, upper, blocked)

    def __getitem__(self, rows: Tensor) -> "DualProblem":
        return DualProblem(self.gram[rows], self.targets[rows], self.upper[rows], self.blocked[rows])

    @property
    def blocking_weight(self) -> Float[Tensor, "e 1 1"]:
        return BLOCKED * self.gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]


@dataclass(frozen=True)
class TiedSystem:
    """Minimize sum_k 1/2 d_k' (K + diag(w_k)) d_k - r_k' d_k under given row sums of d."""

    inverse: Float[Tensor, "e way n n"]
    schur: Float[Tensor, "e n n"]

    @classmethod
    def of(cls, gram: Float[Tensor, "e n n"], weights: Float[Tensor, "e n way"]) -> "TiedSystem":
        inverse = invert_positive(gram.unsqueeze(1) + torch.diag_embed(weights.mT))
        return cls(inverse, torch.linalg.cholesky_ex(inverse.sum(1)).L)

    def solve(
        self, residual: Float[Tensor, "e n way"], row_sums: Float[Tensor, "e n"] | float = 0.0
    ) -> tuple[Float[Tensor, "e n way"], Float[Tensor, "e n"]]:
        """The minimizer and the multipliers of the row sums."""
        free = (self.inverse @ residual.mT.unsqueeze(-1)).squeeze(-1)
        multipliers = solve_with_factor(self.schur, (free.sum(1) - row_sums).unsqueeze(-1))
        tied = free - (self.inverse @ multipliers.unsqueeze(1)).squeeze(-1)
        return tied.mT, multipliers.squeeze(-1)


def solve_dual(problem: DualProblem) -> tuple[Float[Tensor, "e n way"], Float[Tensor, "e n way"]]:
    """Optimal dual variables, and the weights of the tied system whose solution is their derivative.

    The active-set method goes first; episodes on which it cycles go to the interior point. Both ask once a step
    whether they are done: on a GPU the host waits, which costs less than steps in vain.
    """
    dual, weights, settled = _active_set(problem, problem.blocked, ACTIVE_SET_STEPS)
    if not settled.all():
        dual[~settled], weights[~settled] = _interior_point_polished(problem[~settled])
    return dual, weights


def _interior_point_polished(
    problem: DualProblem,
) -> tuple[Float[Tensor, "e n way"], Float[Tensor, "e n way"]]:
    """The interior point's answer, made exact by the active set that it points to, where that set proves right."""
    dual, weights = _interior_point(problem)
    scale = problem.gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    exact, exact_weights, settled = _active_set(problem, (weights > scale) | problem.blocked, POLISHING_STEPS)
    settled = settled[:, None, None]
    return torch.where(settled, exact, dual), torch.where(settled, exact_weights, weights)


def _active_set(
    problem: DualProblem, held: Bool[Tensor, "e n way"], steps: int
) -> tuple[Float[Tensor, "e n way"], Float[Tensor, "e n way"], Bool[Tensor, "e"]]:
    """Primal-dual active set: from a guess of the bounds that hold, solve the equalities and correct the guess.

    Returns dual variables, weights, and for which episodes the guess stands, which makes them optimal.
    """
    dual, weights, corrected = _optimum_given(problem, held)
    for _ in range(steps):
        settled = (corrected == held).flatten(1).all(1)
        if settled.all():
            break
        held = torch.where(settled[:, None, None], held, corrected)
        dual, weights, corrected = _optimum_given(problem, held)
    return dual, weights, (corrected == held).flatten(1).all(1)


def _optimum_given(
    problem: DualProblem, held: Bool[Tensor, "e n way"]
) -> tuple[Float[Tensor, "e n way"], Float[Tensor, "e n way"], Bool[Tensor, "e n way"]]:
    """The optimum with the held variables at their bounds, its weights, and which variables it says to hold."""
    weights = problem.blocking_weight * held
    start = torch.where(held & ~problem.blocked, problem.upper, 0.0)
    residual = problem.targets - problem.gram @ start
    change, multipliers = TiedSystem.of(problem.gram, weights).solve(residual, -start.sum(-1))
    dual = start + torch.where(held, 0.0, change)
    pressure = problem.targets - problem.gram @ dual - multipliers.unsqueeze(-1)
    corrected = torch.where(held, pressure > 0, dual > problem.upper) | problem.blocked
    whole_rows = corrected.all(-1, keepdim=True)  # would leave no room for the sum of the row
    return dual, weights, (corrected & ~whole_rows) | problem.blocked


def _interior_point(problem: DualProblem) -> tuple[Float[Tensor, "e n way"], Float[Tensor, "e n way"]]:
    """Mehrotra's predictor-corrector method. Episodes that have converged stand still until all have.

    `slack` is the distance to the bounds, `pressure` their multipliers (of which the optimum has one or the other), and
    `multipliers` those of the row sums.
    """
    gram, targets, upper = problem.gram, problem.targets, problem.upper
    present = (~problem.blocked).to(gram.dtype)
    scale = gram.diagonal(dim1=1, dim2=2).mean(1).reciprocal().clamp(max=1.0)[:, None, None]
    mean_target = (targets.sum(-1, keepdim=True) / present.sum(-1, keepdim=True)) * present
    dual = (upper * targets).amax(-1, keepdim=True) * (targets - mean_target)  # strictly inside the bounds
    slack = upper - dual
    pressure = (gram @ dual - targets).abs().flatten(1).amax(1)[:, None, None] * present
    multipliers = torch.zeros_like(dual[..., :1])
    for _ in range(INTERIOR_STEPS):
        residual = (targets - gram @ dual - pressure - multipliers) * present
        gap = _mean(slack * pressure, present)
        moving = (gap > TOLERANCE * scale * upper.amax()) | (residual.abs().amax((1, 2), True) > TOLERANCE)
        if not moving.any():
            break
        system = TiedSystem.of(gram, pressure / slack + problem.blocking_weight * problem.blocked)
        predicted, _ = system.solve(residual + pressure)
        relief = (pressure * predicted / slack - pressure) * present
        short = (slack - _longest_step(slack, -predicted) * predicted) * (
            pressure + _longest_step(pressure, relief) * relief
        )
        centering = gap * (_mean(short, present) / gap).pow(3)
        correction = (predicted * relief + centering) / slack * present
        change, turn = system.solve(residual + pressure - correction)
        relief = (pressure * change / slack - pressure + correction) * present
        step = 0.995 * _longest_step(slack, -change, 1 / 0.995) * moving
        dual, slack = dual + step * change, slack - step * change
        step = 0.995 * _longest_step(pressure, relief, 1 / 0.995) * moving
        pressure, multipliers = pressure + step * relief, multipliers + step * turn.unsqueeze(-1)
    return dual, pressure / slack + problem.blocking_weight * problem.blocked


def _mean(value: Float[Tensor, "e n way"], present: Float[Tensor, "e n way"]) -> Float[Tensor, "e 1 1"]:
    return (value * present).sum((1, 2), keepdim=True) / present.sum((1, 2), keepdim=True)


def _longest_step(
    value: Float[Tensor, "e n way"], change: Float[Tensor, "e n way"], most: float = 1.0
) -> Float[Tensor, "e 1 1"]:
    """The longest step, at most `most`, that keeps every value from becoming negative."""
    return torch.where(change < 0, -value / change, most).amin((1, 2), keepdim=True).clamp(max=most)
