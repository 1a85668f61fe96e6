"""How sure to be: a temperature that the logits are divided by, from examples that were left out."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from pauca.fewshot.answers.held_out import HeldOut
from pauca.fewshot.network import FewShotModel

# The best scale of a base learner changes with the number of examples, in the same way everywhere: in 200 tasks each of
# CIFAR-100 with EfficientNet-Lite0, ridge 15, 9 and 6 with 1, 5 and 20 examples, cosine 17, 30 and 36, prototypes 9, 20
# and 26.
_EXPONENTS = {"ridge": 0.3, "logistic": 0.3, "cosine": -0.25, "prototypes": -0.35}
_USUAL_SHOTS = 5  # that the scales of `Pretrained` are for
# Of features that nobody knows, where no example can be left out. Prototypes are divided by 6 at least: the best ones
# are 2 for EfficientNet-Lite0 and 37 for pixels. The more the cosines between classes vary, the weaker features are:
# their variance is .004 and .11 there. By these factors of it no base learner was worse, in 500 rows of 20 kinds of
# features and 2 to 20 classes with one example each, and by larger ones some were.
_PROTOTYPES_OF_UNKNOWN = 6.0
_BY_SPREAD = {"ridge": 10.0, "logistic": 30.0, "cosine": 100.0, "prototypes": 110.0, "svm": 10.0}
# A model that base classes have calibrated is believed until there are so many examples of each class.
ENOUGH_SHOTS = 5
# Few examples must not move the temperature far, but where it is ten times off they may: the penalty is that of
# Student's t, in nats, on the logarithm. With 5 examples it is nowhere worse than no calibration by more than 0.003
# nats (CIFAR-100, Omniglot and raw pixels); other weights and widths were.
_WEIGHT, _WIDTH = 1.5, 0.3
_FACTORS = torch.exp(torch.linspace(-9, 9, 271, dtype=torch.float64))


def usual_temperature(model: FewShotModel, shots: float, spread: float | None = None) -> float:
    """What base classes say: 1 for a trained model; for a network from elsewhere, by the number of examples.

    Of features that nobody knows, one example is not believed more than the base learner believes it, and less where
    classes are near and far by chance: the best temperature of ridge and one example is 0.5 with EfficientNet-Lite0 and
    5 with pixels.

    Args:
        model: whose base learner makes the logits.
        shots: examples of a class, on average.
        spread: `class_spread`, where nothing else is known because no example can be left out.
    """
    if not model.unit_length:
        return 1.0
    usual = (shots / _USUAL_SHOTS) ** _EXPONENTS.get(model.config.base_learner, 0.0)
    if model.is_known:
        return usual
    by_spread = 0.0 if spread is None else spread * _BY_SPREAD.get(model.config.base_learner, 0.0)
    if model.config.base_learner == "prototypes":  # copies of examples change nothing of it
        return 1.0 if spread is None else max(by_spread, _PROTOTYPES_OF_UNKNOWN)
    return max(usual, by_spread, 1.0)


def class_spread(features: Float[Tensor, "e n d"], of_class: Int64[Tensor, "e n way"]) -> Float[Tensor, "e"]:
    """How much the cosines between the means of two classes vary, taken for less where there are few classes.

    Args:
        features: of the examples.
        of_class: 1 where an example is of a class, 0 elsewhere.
    """
    means = normalize(of_class.mT.to(features.dtype) @ normalize(features, dim=-1), dim=-1)
    present = of_class.any(1)
    pairs = (present[:, :, None] & present[:, None]).triu(1)
    cosines, count = means @ means.mT, pairs.sum((1, 2))
    mean = (cosines * pairs).sum((1, 2)) / count.clamp_min(1)
    squares = ((cosines - mean[:, None, None]).square() * pairs).sum((1, 2))
    return squares / (count + 2)


def fit_temperature(model: FewShotModel, held_out: HeldOut | None, shots: float, spread: float = 0.0) -> float:
    """The temperature under which the labels of the examples that were left out are likely, and that is plausible.

    Args:
        model: whose base learner made the logits.
        held_out: None takes what base classes say.
        shots: examples of a class, on average.
        spread: `class_spread`, which counts where `held_out` is None.
    """
    usual = usual_temperature(model, shots, spread if held_out is None else None)
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
