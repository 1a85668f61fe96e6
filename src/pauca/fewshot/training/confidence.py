"""How sure a base learner is that no training has scaled: the scale of its scores, fitted on episodes."""

import torch
from jaxtyping import Float
from torch import Tensor

from pauca.fewshot.embedding import embed_images
from pauca.fewshot.model import episode_cross_entropy
from pauca.fewshot.network import FewShotModel
from pauca.fewshot.types import Episodes, ImageSet

_EPISODES_AT_ONCE = 128
# On the scale; a tenth apart, because the loss is flat around its minimum.
_FACTORS = 1.1 ** torch.arange(-120.0, 121.0)


@torch.no_grad()
def fit_scale(
    model: FewShotModel, images: ImageSet, episodes: Episodes, device: torch.device | str = "cpu", bf16: bool = False
) -> None:
    """Set the scale of the model's base learner to what makes the queries' labels likeliest.

    A base learner that is not trained knows which class is nearest, and not how sure that is. Accuracy does not change.

    Args:
        model: its base learner has a `scale`, as all named ones have; others are left alone.
        images: classes that the model has not learned.
        episodes: of these images.
        device: where to compute.
        bf16: as for `embed_images`.
    """
    scale = getattr(model.base_learner, "scale", None)
    if not isinstance(scale, Tensor):
        return
    features = embed_images(model, images, device, bf16=bf16)
    losses = torch.zeros(len(_FACTORS), device=features.device)
    for start in range(0, len(episodes), _EPISODES_AT_ONCE):
        part = episodes[start : start + _EPISODES_AT_ONCE].to(features.device)
        logits = model.classify(features[part.support], part.support_labels, features[part.query], part.way)
        losses += len(part) * torch.stack([_loss(factor * logits, part) for factor in _FACTORS.to(logits.device)])
    scale.mul_(_FACTORS.to(scale.device)[losses.argmin()])


def _loss(logits: Float[Tensor, "e q way"], episodes: Episodes) -> Float[Tensor, ""]:
    return episode_cross_entropy(logits, episodes.query_labels, 0.0)
