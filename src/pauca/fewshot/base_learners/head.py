"""What all base learners share: checks, upcast, masks, and one learnable output scale."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from pauca.errors import InputError
from pauca.fewshot.types import PADDING, present_classes


class Head(nn.Module):
    """A base learner: subclasses say how the support of an episode scores its queries.

    Features come in as the backbone made them, not normalised, in any floating type; heads compute in float32 or
    better, also under autocast. The scores are multiplied by one learnable scale.

    Attributes:
        asks_host: whether the host waits for the device while it solves; then it cannot be part of a CUDA graph.
    """

    asks_host = False

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def scores(
        self, support: Float[Tensor, "e n d"], targets: Float[Tensor, "e n way"], query: Float[Tensor, "e q d"]
    ) -> Float[Tensor, "e q way"]:
        """Score the queries. `targets` is one-hot; padding has a row of zeros, there and in `support`."""
        raise NotImplementedError

    def forward(
        self,
        support: Float[Tensor, "e n d"],
        support_labels: Int64[Tensor, "e n"],
        query: Float[Tensor, "e q d"],
        way: int,
    ) -> Float[Tensor, "e q way"]:
        """Logits of the queries of each episode.

        Args:
            support: features of the labelled images.
            support_labels: their classes, 0 to way - 1, or `PADDING` for slots that count for nothing.
            query: features of the images to classify.
            way: number of classes; those without support get -inf.

        Raises:
            InputError: features that are not finite or labels out of range, naming the episode. Only on the CPU: on a
                GPU the check would stall the stream, so callers that want it there call `check_episodes` themselves.
        """
        if support.device.type == "cpu":
            check_episodes(support, support_labels, query, way)
        with torch.autocast(support.device.type, enabled=False):
            precise = torch.promote_types(support.dtype, torch.float32)
            used = (support_labels != PADDING).unsqueeze(-1)
            targets = (support_labels.unsqueeze(-1) == torch.arange(way, device=support.device)).to(precise)
            scores = self.scores(support.to(precise) * used, targets, query.to(precise))
            absent = ~present_classes(support_labels, way)
            return (self.scale * scores).masked_fill(absent.unsqueeze(1), -torch.inf)


def check_episodes(
    support: Float[Tensor, "e n d"],
    support_labels: Int64[Tensor, "e n"],
    query: Float[Tensor, "e q d"],
    way: int,
) -> None:
    """Refuse features that are not finite and labels outside 0 .. way - 1, naming the first episode with them.

    Raises:
        InputError: which episode, which slots, and what to do.
    """
    for role, features in (("support", support), ("query", query)):
        broken = ~features.isfinite().all(-1)
        if broken.any():
            episode = int(broken.any(1).nonzero()[0])
            slots = broken[episode].nonzero().squeeze(1).tolist()
            raise InputError(
                f"episode {episode}: the features of {role} images {slots[:5]} are not finite (NaN or infinite); look "
                "for broken images with `pauca fewshot data scan`, or for a diverged model"
            )
    outside = (support_labels != PADDING) & ((support_labels < 0) | (support_labels >= way))
    if outside.any():
        episode = int(outside.any(1).nonzero()[0])
        raise InputError(
            f"episode {episode}: support label {int(support_labels[outside][0])} is outside 0 .. {way - 1} for "
            f"{way} classes; number the classes of each episode from 0"
        )
