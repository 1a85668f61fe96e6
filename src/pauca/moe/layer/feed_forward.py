"""One expert that every token visits, as a differentiable function: a dense or shared feed-forward.

What `autograd` does for a bank, without routing: rows are the tokens in their own order, each with weight one, which is
made again in backward and not kept. And FC1 may be several matrices, gate and up apart: each pass joins them, and the
joined copy is not kept either.
"""

from collections.abc import Sequence

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor

from pauca.moe.layer import passes
from pauca.moe.layer.autograd import compute_experts
from pauca.moe.layer.call import ExpertCall
from pauca.moe.layer.derivatives import first_derivative_only
from pauca.moe.layer.passes import Wanted
from pauca.moe.layer.permutation import PADDING, Permutation
from pauca.moe.layer.recipe import ROTATES, Recompute
from pauca.moe.layer.rotation import rotate_input, rotate_weights
from pauca.moe.ops.formats import GROUP_ROWS


def apply_feed_forward(
    x: BFloat16[Tensor, "tokens hidden"],
    fc1: Sequence[Tensor],
    down: Float[Tensor, "hidden width"],
    recipe: str,
    recompute: Recompute = "none",
    prepared_weights: Sequence[Tensor] = (),
    gate: str = "",
    bias: Float[Tensor, " outputs"] | None = None,
) -> BFloat16[Tensor, "tokens hidden"]:
    """Every token's result of the one expert, differentiable in x, all weights and the bias.

    Args:
        fc1: matrices [outputs, hidden] that stand one below the other in FC1: gate and up, or one that holds both.
        down: FC2.
        recipe: as of `apply_experts`, like what follows.
        bias: added to FC1's result, where the gate is `biased`.
    """
    if torch.compiler.is_compiling() or len(x) == 0:
        everyone = torch.zeros(len(x), 1, dtype=torch.int64, device=x.device)
        ones = torch.ones_like(everyone, dtype=torch.float32)
        weights = torch.cat(list(fc1))[None], down[None]
        bias = None if bias is None else bias[None]
        return compute_experts(x, *weights, everyone, ones, recipe, recompute, prepared_weights, gate, bias)
    if ROTATES in recipe:
        x, fc1 = rotate_input(x), [rotate_weights(weight) for weight in fc1]
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, down, bias, *fc1))
    return _FeedForward.apply(x, recipe, recompute, gate, keep, list(prepared_weights), bias, down, *fc1)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, recipe: str, recompute: Recompute, gate: str, keep: bool, prepared: list[Tensor],
        bias: Tensor | None, down: Tensor, *fc1: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.modes, ctx.tokens, ctx.parts = (recipe, recompute, gate), len(x), len(fc1)
        call = _call(ctx, bias, down, fc1, prepared)
        y, kept = passes.forward(call, x)
        if keep:
            ctx.prepared = len(prepared)
            own_input = x if call.formats.own_input else None
            ctx.save_for_backward(own_input, bias, down, *fc1, *prepared, *kept)
        return y

    @staticmethod
    @first_derivative_only
    def backward(ctx, *gradients: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, bias, down, *others = ctx.saved_tensors
        fc1, others = others[: ctx.parts], others[ctx.parts :]
        call = _call(ctx, bias, down, fc1, others[: ctx.prepared])
        needs = ctx.needs_input_grad
        wanted = Wanted(needs[0], any(needs[8:]), needs[7], needs[6])
        found = passes.backward(call, gradients[0].contiguous(), others[ctx.prepared :], x, wanted)
        parts = [None] * ctx.parts if found.gate_up is None else found.gate_up[0].split([len(w) for w in fc1])
        d_bias, d_down = (None if g is None else g[0] for g in (found.gate_up_bias, found.down))
        return found.x, None, None, None, None, None, d_bias, d_down, *parts


def _call(ctx, bias: Tensor | None, down: Tensor, fc1: Sequence[Tensor], prepared: list[Tensor]) -> ExpertCall:
    """What both passes are given besides the tokens."""
    recipe, recompute, gate = ctx.modes
    # Where copies are there, the passes ask for the weights' type alone.
    joined = fc1[0] if prepared or len(fc1) == 1 else torch.cat(list(fc1))
    ones = torch.ones(ctx.tokens, 1, device=down.device)
    permutation = _in_order(ctx.tokens, down.device)
    bias = None if bias is None else bias[None]
    return ExpertCall(joined[None], down[None], ones, permutation, prepared, recipe, recompute, gate, bias)


def _in_order(tokens: int, device: torch.device) -> Permutation:
    """What `sort_by_expert` makes of tokens that all visit one expert."""
    rows = -(-tokens // GROUP_ROWS) * GROUP_ROWS
    row = torch.arange(rows, dtype=torch.int32, device=device)
    row_to_token = row.masked_fill(row >= tokens, PADDING)
    offsets = torch.full((1,), rows, dtype=torch.int32, device=device)
    return Permutation(row_to_token, row_to_token, row[:tokens, None], offsets)
