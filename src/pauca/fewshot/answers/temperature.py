"""How sure to be: a temperature that the logits are divided by, from examples that were left out."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pauca.fewshot.answers.held_out import HeldOut
from pauca.fewshot.network import FewShotModel

# The best scale of a base learner changes with the number of examples, in the same way everywhere: in 200 tasks each of
# CIFAR-100 with EfficientNet-Lite0, ridge 15, 9 and 6 with 1, 5 and 20 examples, cosine 17, 30 and 36, prototypes 9, 20
# and 26.
_EXPONENTS = {"ridge": 0.3, "logistic": 0.3, "cosine": -0.25, "prototypes": -0.35}
_USUAL_SHOTS = 5  # that the scales of `Pretrained` are for
# Of prototypes on features that nobody knows, where no example can be left out: the best ones are 9 for 24 random
# directions of EfficientNet-Lite0, 6 for Omniglot's pixels and 37 for those of CIFAR-100.
_PROTOTYPES_OF_UNKNOWN = 6.0
# A model that base classes have calibrated is believed until there are so many examples of each class.
ENOUGH_SHOTS = 5
# Few examples must not move the temperature far, but where it is ten times off they may: the penalty is that of
# Student's t, in nats, on the logarithm. With 5 examples it is nowhere worse than no calibration by more than 0.003
# nats (CIFAR-100, Omniglot and raw pixels); other weights and widths were.
_WEIGHT, _WIDTH = 1.5, 0.3
_FACTORS = torch.exp(torch.linspace(-9, 9, 271, dtype=torch.float64))


def usual_temperature(model: FewShotModel, shots: float, alone: bool = False) -> float:
    """What base classes say: 1 for a trained model; for a network from elsewhere, by the number of examples.

    Of features that nobody knows, one example is not believed more than the base learner believes it: the best
    temperature of ridge and one example is 0.5 with EfficientNet-Lite0 and 5 with pixels.

    Args:
        model: whose base learner makes the logits.
        shots: examples of a class, on average.
        alone: whether nothing else is known, because no example can be left out.
    """
    if not model.unit_length:
        return 1.0
    usual = (shots / _USUAL_SHOTS) ** _EXPONENTS.get(model.config.base_learner, 0.0)
    if model.is_known:
        return usual
    if model.config.base_learner == "prototypes":  # copies of examples change nothing of it
        return _PROTOTYPES_OF_UNKNOWN if alone else 1.0
    return max(usual, 1.0)


def fit_temperature(model: FewShotModel, held_out: HeldOut | None, shots: float) -> float:
    """The temperature under which the labels of the examples that were left out are likely, and that is plausible.

    Args:
        model: whose base learner made the logits.
        held_out: None takes what base classes say.
        shots: examples of a class, on average.
    """
    usual = usual_temperature(model, shots, held_out is None)
    is_calibrated = model.trained_on is not None
    if held_out is None or (is_calibrated and held_out.shots < ENOUGH_SHOTS):
        return usual
    # The examples were classified with one less of their class, which asks for another temperature.
    then = usual_temperature(model, max(shots * (1 - 1 / held_out.shots), 1.0))
    told = held_out.logits[None], held_out.labels[None], held_out.weights[None]
    return usual * float(best_factor(*told, torch.tensor([then])))


def best_factor(
    logits: Float[Tensor, "e m way"],
    labels: Int64[Tensor, "e m"],
    weights: Float[Tensor, "e m"],
    then: Float[Tensor, "e"],
) -> Float[Tensor, "e"]:
    """By what each task's usual temperature is multiplied to make the labels of the examples that it left out likely.

    Args:
        logits: of the examples.
        labels: of the examples.
        weights: what each counts.
        then: the usual temperature with one example less of each class.
    """
    factors = _FACTORS.to(logits.device)
    cold = logits.double() / then.to(logits.device)[:, None, None]
    losses = torch.stack([_loss(cold / factor, labels, weights) for factor in factors])  # factors e
    penalty = _WEIGHT * torch.log1p(factors.log().square() / _WIDTH)
    return factors[(losses + penalty[:, None]).argmin(0)]


def _loss(logits: Float[Tensor, "e m way"], labels: Int64[Tensor, "e m"], weights: Float[Tensor, "e m"]) -> Tensor:
    """Summed negative log-likelihood of the labels of each task, in nats."""
    nats = logits.logsumexp(-1) - logits.gather(-1, labels[..., None]).squeeze(-1)
    return torch.where(weights > 0, nats * weights, 0.0).sum(1)
