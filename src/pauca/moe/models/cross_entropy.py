"""Cross entropy of a large vocabulary, which never holds all logits at once."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from pauca.moe.models.blocks import product

# FP32 logits at once: 2**26 are 256 MiB, and as much again for their gradient.
LOGITS_AT_ONCE = 2**26

IGNORED = -100
"""A target that does not count, as in torch and transformers."""


def chunked_cross_entropy(
    hidden: Float[Tensor, "tokens hidden"], weight: Float[Tensor, "vocabulary hidden"], targets: Int[Tensor, " tokens"]
) -> Float[Tensor, ""]:
    """Mean cross entropy, in nats, of targets under the logits `hidden @ weight.T`; never holds all logits at once.

    Targets of `IGNORED` do not count; 0 if none counts.
    """
    if torch.is_grad_enabled():
        return _CrossEntropy.apply(hidden, weight, targets)
    weight = weight.to(hidden.dtype)
    chunks = zip(_chunks(hidden, weight), _chunks(targets, weight), strict=True)
    return torch.stack([_loss_and_error(product(x, weight.t()), y)[0] for x, y in chunks]).sum() / _count(targets)


def _count(targets: Int[Tensor, " tokens"]) -> Float[Tensor, ""]:
    return (targets != IGNORED).sum().clamp(min=1).float()


def _chunks(rows: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    return rows.split(max(1, LOGITS_AT_ONCE // len(weight)))


def _loss_and_error(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross entropy, and its gradient in the logits: the probabilities, less one at the target.

    The loss is without targets that are ignored; the gradient's rows of these mean nothing.
    """
    log_probabilities, place = logits.float().log_softmax(-1), targets.clamp(min=0)[:, None]
    at_target = log_probabilities.gather(1, place)
    loss = -torch.where(targets[:, None] == IGNORED, 0, at_target).sum()
    error = log_probabilities.exp_().scatter_(1, place, at_target.exp() - 1)  # in place: these are large
    return loss, error.to(logits.dtype)


class _CrossEntropy(torch.autograd.Function):
    """Takes the gradients while a chunk's logits are there, so that they are neither kept nor computed again."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        master, weight = weight, weight.to(hidden.dtype)
        d_hidden, d_weight = [], torch.zeros_like(weight, dtype=torch.float32)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for x, y in zip(_chunks(hidden, weight), _chunks(targets, weight), strict=True):
            loss, error = _loss_and_error(product(x, weight.t()), y)
            total = total + loss
            # Here rows that are ignored leave, as there are fewer channels than logits.
            counts = (y != IGNORED)[:, None]
            d_hidden.append(torch.where(counts, product(error, weight), 0))
            d_weight += product(error.t(), torch.where(counts, x, 0))
        count = _count(targets)
        ctx.save_for_backward(torch.cat(d_hidden), d_weight, count)
        ctx.master_dtype = master.dtype
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        d_hidden, d_weight, count = ctx.saved_tensors
        scale = gradients[0] / count
        return (d_hidden * scale).to(d_hidden.dtype), (d_weight * scale).to(ctx.master_dtype), None
