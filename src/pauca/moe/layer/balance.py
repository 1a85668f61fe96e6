"""Losses on what a router does: experts equally busy, in a batch or in each sequence, and logits that stay small."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def balancing_loss(
    shares: Float[Tensor, "tokens experts"],
    copies: Int[Tensor, " experts"],
    top_k: int,
    mask: Bool[Tensor, " tokens"] | None = None,
) -> Float[Tensor, ""]:
    """experts * sum over them of (share of the copies) * (mean share of the score): Switch Transformer, eq. 4.

    Args:
        shares: the shares of each token's score, which add up to one.
        copies: tokens that chose each expert, those of the mask alone.
        top_k: experts that each token chose.
        mask: True where a token counts.
    """
    tokens, experts = shares.shape
    if mask is None:
        return experts * (copies / max(1, tokens * top_k) * shares.sum(0) / max(1, tokens)).sum()
    count = mask.sum().clamp(min=1)
    # Not a product: what padding holds may be NaN.
    shares = torch.where(mask[:, None], shares, 0)
    return experts * (copies / (count * top_k) * shares.sum(0) / count).sum()


def balancing_loss_of_sequences(
    shares: Float[Tensor, "tokens experts"],
    expert_ids: Int[Tensor, "tokens top_k"],
    sequences: int,
    mask: Bool[Tensor, " tokens"] | None = None,
) -> Float[Tensor, ""]:
    """`balancing_loss` of each sequence by itself, and the mean of these: DeepSeek-V3, arXiv 2412.19437, eq. 17 to 20.

    Args:
        shares: the shares of each token's score, which add up to one.
        expert_ids: what each token chose.
        sequences: how many there are, one after the other, all of one length.
        mask: True where a token counts; sequences without such a token do not count.
    """
    experts, top_k = shares.shape[1], expert_ids.shape[1]
    counts = torch.ones_like(expert_ids[:, 0]) if mask is None else mask.long()
    copies = torch.zeros(sequences, experts, dtype=torch.int64, device=shares.device)
    copies.scatter_add_(1, expert_ids.reshape(sequences, -1), counts.repeat_interleave(top_k).view(sequences, -1))
    tokens = counts.view(sequences, -1).sum(1)
    shares = shares if mask is None else torch.where(mask[:, None], shares, 0)
    mean = shares.unflatten(0, (sequences, -1)).sum(1) / tokens.clamp(min=1)[:, None]
    losses = experts * (copies / (top_k * tokens.clamp(min=1))[:, None] * mean).sum(1)
    return losses.sum() / (tokens > 0).sum().clamp(min=1)


def z_loss(logits: Float[Tensor, "tokens experts"], mask: Bool[Tensor, " tokens"] | None = None) -> Float[Tensor, ""]:
    """Mean over the tokens of the squared log-sum-exp of a router's logits: ST-MoE, arXiv 2202.08906, eq. 5.

    It keeps logits small, whose rounding errors grow with them.
    """
    squares = logits.logsumexp(-1).square()
    if mask is None:
        return squares.sum() / max(1, len(squares))
    return torch.where(mask, squares, 0).sum() / mask.sum().clamp(min=1)
