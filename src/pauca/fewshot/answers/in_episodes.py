"""The temperature that a classifier would find in each episode of an evaluation, for many episodes at once.

The same as `hold_out` and `fit_temperature` say of each support alone (a test compares them), but the base learner is
fitted to all episodes at once.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pauca.fewshot.answers.held_out import most_parts
from pauca.fewshot.answers.temperature import ENOUGH_SHOTS, best_factor, class_spread, usual_temperature
from pauca.fewshot.network import FewShotModel
from pauca.fewshot.types import PADDING


@torch.no_grad()
def episode_temperatures(
    model: FewShotModel, support: Float[Tensor, "e n d"], labels: Int64[Tensor, "e n"], way: int
) -> Float[Tensor, "e"]:
    """What the logits of each episode are to be divided by, found from its support alone.

    Args:
        model: whose base learner classifies.
        support: features of the examples.
        labels: PADDING where an episode has fewer examples.
        way: the largest number of classes of an episode.
    """
    of_class = torch.nn.functional.one_hot(labels.clamp_min(0), way) * (labels != PADDING)[..., None]  # e n way
    counts = of_class.sum(1)
    shots = counts.sum(1).double() / (counts > 0).sum(1)
    several = counts >= 2
    # The harmonic mean over classes of two or more, as in `hold_out`.
    harmonic = several.sum(1) / several.double().div(counts.clamp_min(1)).sum(1).clamp_min(1e-9)
    can_be_left_out = several.sum(1) >= 2
    if model.trained_on is not None:
        can_be_left_out &= harmonic >= ENOUGH_SHOTS
    alone, told = torch.ones_like(shots), ~can_be_left_out
    alone[told] = _alone(model, shots[told], class_spread(support[told].double(), of_class[told]))
    if not can_be_left_out.any():
        return alone
    logits, left_out = _held_out(model, support, labels, of_class, way)
    then = _usual(model, (shots * (1 - 1 / harmonic)).clamp_min(1.0))
    factors = best_factor(logits, labels.clamp_min(0), left_out.double(), then)
    return torch.where(can_be_left_out, _usual(model, shots) * factors, alone)


def _held_out(
    model: FewShotModel,
    support: Float[Tensor, "e n d"],
    labels: Int64[Tensor, "e n"],
    of_class: Int64[Tensor, "e n way"],
    way: int,
) -> tuple[Float[Tensor, "e n way"], Bool[Tensor, "e n"]]:
    """Logits of each example by the others, one of each class left out at a time; and which could be left out."""
    place = (of_class.cumsum(1) * of_class).sum(2) - 1  # among those of its class
    largest = of_class.sum(1).amax(1).clamp_min(1)
    sizes = zip(largest.tolist(), (labels != PADDING).sum(1).tolist(), strict=True)
    parts = labels.new_tensor([most_parts(*size) for size in sizes])[:, None]  # e 1
    logits = torch.zeros(*labels.shape, way, dtype=support.dtype, device=support.device)
    found = torch.zeros_like(labels, dtype=torch.bool)
    for part in range(int(parts.max())):
        outside = (place % parts != part) & (labels != PADDING)
        others = (of_class * outside[..., None]).sum(1)  # e way
        left_out = ~outside & (labels != PADDING) & (others.gather(1, labels.clamp_min(0)) > 0)
        scores = model.classify(support, torch.where(left_out, PADDING, labels), support, way)
        logits = torch.where(left_out[..., None], scores.to(logits.dtype), logits)
        found |= left_out
    return logits, found


def _usual(model: FewShotModel, shots: Float[Tensor, "e"]) -> Float[Tensor, "e"]:
    kinds, place = shots.unique(return_inverse=True)
    return shots.new_tensor([usual_temperature(model, float(kind)) for kind in kinds])[place]


def _alone(model: FewShotModel, shots: Float[Tensor, "e"], spread: Float[Tensor, "e"]) -> Float[Tensor, "e"]:
    """Where no example can be left out."""
    told = zip(shots.tolist(), spread.tolist(), strict=True)
    return shots.new_tensor([usual_temperature(model, *each) for each in told])
