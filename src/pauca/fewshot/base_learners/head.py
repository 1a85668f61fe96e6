"""What all base learners share: checks, upcast, masks, and one learnable output scale."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from pauca.errors import InputError
from pauca.fewshot.types import PADDING, present_classes

Scorer = Callable[[Tensor], Tensor]  # queries [e, q, d] -> scores [e, q, way]


class Head(nn.Module):
    """A base learner: subclasses say how the support of an episode scores its queries.

    Features come in as the backbone made them, not normalized, in any floating type; heads compute in float32 or
    better, also under autocast. The scores are multiplied by one learnable scale.

    Attributes:
        asks_host: whether the host waits for the device while it solves; then it cannot be part of a CUDA graph.
    """

    asks_host = False

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def fit(self, support: Float[Tensor, "e n d"], targets: Float[Tensor, "e n way"]) -> Scorer:
        """What scores the queries [e, q, d] of each episode as [e, q, way]; subclasses say this, or `scores`.

        `targets` is one-hot; padding has a row of zeros, there and in `support`.
        """
        if type(self).scores is Head.scores:
            raise NotImplementedError(f"{type(self).__name__} says neither fit nor scores")
        return partial(self.scores, support, targets)

    def scores(
        self, support: Float[Tensor, "e n d"], targets: Float[Tensor, "e n way"], query: Float[Tensor, "e q d"]
    ) -> Float[Tensor, "e q way"]:
        """Score the queries of each episode, all at once."""
        return self.fit(support, targets)(query)

    def fitted(self, support: Float[Tensor, "e n d"], support_labels: Int64[Tensor, "e n"], way: int) -> Scorer:
        """The classifier of each episode, from queries [e, q, d] to logits [e, q, way]; it can be asked many times.

        Arguments are those of a call.
        """
        with torch.autocast(support.device.type, enabled=False):
            precise = torch.promote_types(support.dtype, torch.float32)
            used = (support_labels != PADDING).unsqueeze(-1)
            targets = (support_labels.unsqueeze(-1) == torch.arange(way, device=support.device)).to(precise)
            score = self.fit(support.to(precise) * used, targets)
            absent = ~present_classes(support_labels, way)

        def logits(query: Float[Tensor, "e q d"]) -> Float[Tensor, "e q way"]:
            with torch.autocast(query.device.type, enabled=False):
                return (self.scale * score(query.to(precise))).masked_fill(absent.unsqueeze(1), -torch.inf)

        return logits

    def forward(
        self,
        support: Float[Tensor, "e n d"],
        support_labels: Int64[Tensor, "e n"],
        query: Float[Tensor, "e q d"],
        way: int,
    ) -> Float[Tensor, "e q way"]:
        """Logits of the queries of each episode.

        Args:
            support: features of the labeled images.
            support_labels: their classes, 0 to way - 1, or `PADDING` for slots that count for nothing.
            query: features of the images to classify.
            way: number of classes; those without support get -inf.

        Raises:
            InputError: features that are not finite or labels out of range, naming the episode. Only on the CPU: on a
                GPU the check would stall the stream, so callers that want it there call `check_episodes` themselves.
        """
        if support.device.type == "cpu":
            check_episodes(support, support_labels, query, way)
        return self.fitted(support, support_labels, way)(query)


def example_weights(targets: Float[Tensor, "e n way"]) -> Float[Tensor, "e n"]:
    """Weights with which every class counts alike, however many examples it has: n / (way n_class), 1 for padding.

    Of equal shots all are exactly 1. Without them a class with one example beside classes of ten is hardly ever named.
    """
    counts = targets.sum(1)
    of_class = counts.sum(-1, keepdim=True) / ((counts > 0).sum(-1, keepdim=True) * counts.clamp(min=1))
    return torch.where(targets.sum(-1) > 0, (targets * of_class.unsqueeze(1)).sum(-1), 1.0)


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
