"""A bank of SwiGLU experts as one differentiable function.

What backward needs (`kept`) passes from forward (`passes`) as a list of byte tensors. Eagerly the two are an
`autograd.Function`. Under `torch.compile` each is one opaque operation instead, which costs some 0.3 ms of the host's
time that a compiled graph hides.
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import BFloat16, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from pauca.errors import InputError
from pauca.moe.layer.kept import kept_formats, kept_shapes
from pauca.moe.layer.passes import Bank, Gradients, Wanted
from pauca.moe.layer.permutation import Permutation, sort_by_expert
from pauca.moe.layer.recipe import Recipe, Recompute


def apply_experts(
    x: BFloat16[Tensor, "tokens hidden"],
    gate_up: Float[Tensor, "experts twice_width hidden"],
    down: Float[Tensor, "experts hidden width"],
    expert_ids: Int[Tensor, "tokens top_k"],
    probabilities: Float[Tensor, "tokens top_k"],
    recipe: str,
    recompute: Recompute = "none",
    prepared_weights: Sequence[Tensor] = (),
) -> BFloat16[Tensor, "tokens hidden"]:
    """The weighted sum of each token's experts, differentiable in x, both weights and the probabilities.

    Args:
        gate_up: FC1, its gate half before its up half, in BF16 or FP32 (then rounded to BF16 for each use).
        down: FC2, likewise.
        probabilities: FP32 weights of the chosen experts.
        recipe: `Recipe.to_json()`; as text, it is a constant to `torch.compile`.
        recompute: what backward computes again.
        prepared_weights: `prepare_weights(gate_up, down)`, for several passes with the same weights; without it, each
            pass quantises them for itself.
    """
    _check_arguments(x, gate_up, down, expert_ids, probabilities)
    if len(x) == 0:  # nothing to compute, but every parameter still gets a gradient, of zeros
        return x + (gate_up[:0].sum() + down[:0].sum() + probabilities.sum()).to(x.dtype)
    plan = sort_by_expert(expert_ids, gate_up.shape[0])
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, gate_up, down, probabilities))
    routing = (probabilities, plan.row_to_copy, plan.row_to_token, plan.copy_to_row, plan.offsets)
    arguments = (x, gate_up, down, *routing, list(prepared_weights), recipe, recompute, keep)
    if torch.compiler.is_compiling():
        return _experts_forward(*arguments)[0]
    return _Experts.apply(*arguments)


def _check_arguments(x: Tensor, gate_up: Tensor, down: Tensor, expert_ids: Tensor, probabilities: Tensor) -> None:
    if x.ndim != 2 or x.dtype != torch.bfloat16:
        raise InputError(f"x must be bfloat16 [tokens, hidden], got {x.dtype} {tuple(x.shape)}")
    if gate_up.ndim != 3 or down.ndim != 3:
        raise InputError(f"weights must be matrices per expert, got {tuple(gate_up.shape)} and {tuple(down.shape)}")
    experts, hidden, width = down.shape
    if x.shape[1] != hidden or gate_up.shape != (experts, 2 * width, hidden):
        raise InputError(
            f"x {tuple(x.shape)}, gate_up {tuple(gate_up.shape)} and down {tuple(down.shape)} do not fit together: "
            "[tokens, hidden], [experts, 2 width, hidden] and [experts, hidden, width] are needed"
        )
    if any(weights.dtype not in (torch.bfloat16, torch.float32) for weights in (gate_up, down)):
        raise InputError(f"weights must be bfloat16 or float32, got {gate_up.dtype} and {down.dtype}")
    if expert_ids.dtype not in (torch.int32, torch.int64) or probabilities.dtype != torch.float32:
        raise InputError(
            f"expert_ids must be int32 or int64 and probabilities float32, got {expert_ids.dtype} and "
            f"{probabilities.dtype}"
        )
    if expert_ids.ndim != 2 or expert_ids.shape != probabilities.shape or len(expert_ids) != len(x):
        raise InputError(
            f"expert_ids and probabilities must both be [tokens, top_k] for {len(x)} tokens, got "
            f"{tuple(expert_ids.shape)} and {tuple(probabilities.shape)}"
        )


# Weights and routing go in; what is kept comes out as bytes.


def _forward_pass(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    probabilities: Tensor,
    row_to_copy: Tensor,
    row_to_token: Tensor,
    copy_to_row: Tensor,
    offsets: Tensor,
    prepared_weights: list[Tensor],
    recipe: str,
    recompute: str,
    keep: bool,
) -> tuple[Tensor, list[Tensor]]:
    plan = Permutation(row_to_copy, row_to_token, copy_to_row, offsets)
    modes = Recipe.from_json(recipe), cast(Recompute, recompute)
    y, kept = Bank(gate_up, down, probabilities, plan, *modes, prepared_weights).forward(x)
    return y, kept if keep else []


_experts_forward = torch.library.custom_op("pauca::experts_forward", _forward_pass, mutates_args=())


@_experts_forward.register_fake
def _(
    x: Tensor, gate_up: Tensor, down: Tensor, probabilities: Tensor, row_to_copy: Tensor, row_to_token: Tensor,
    copy_to_row: Tensor, offsets: Tensor, prepared_weights: list[Tensor], recipe: str, recompute: str, keep: bool,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    sizes = (x.shape[0], row_to_copy.shape[0], *down.shape)
    shapes = kept_shapes(Recipe.from_json(recipe), cast(Recompute, recompute), *sizes) if keep else []
    return torch.empty_like(x), [x.new_empty(shape, dtype=torch.uint8) for shape in shapes]


def _backward_pass(
    wanted: Wanted,
    dy: Tensor,
    kept: list[Tensor],
    x: Tensor | None,
    gate_up: Tensor,
    down: Tensor,
    probabilities: Tensor,
    row_to_copy: Tensor,
    row_to_token: Tensor,
    copy_to_row: Tensor,
    offsets: Tensor,
    prepared_weights: list[Tensor],
    recipe: str,
    recompute: str,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor]:
    plan = Permutation(row_to_copy, row_to_token, copy_to_row, offsets)
    modes = Recipe.from_json(recipe), cast(Recompute, recompute)
    bank = Bank(gate_up, down, probabilities, plan, *modes, prepared_weights)
    gradients = bank.backward(dy.contiguous(), list(kept), x, wanted)
    d_gate_up, d_down = like_weights(gradients, gate_up, down)
    return gradients.x, d_gate_up, d_down, gradients.row_probability[copy_to_row]


def like_weights(gradients: Gradients, gate_up: Tensor, down: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The weights' gradients in the dtype of the weights."""
    d_gate_up, d_down = gradients.gate_up, gradients.down
    return (
        None if d_gate_up is None else d_gate_up.to(gate_up.dtype),
        None if d_down is None else d_down.to(down.dtype),
    )


@torch.library.custom_op("pauca::experts_backward", mutates_args=())
def _experts_backward(
    dy: Tensor, kept: list[Tensor], x: Tensor | None, gate_up: Tensor, down: Tensor, probabilities: Tensor,
    row_to_copy: Tensor, row_to_token: Tensor, copy_to_row: Tensor, offsets: Tensor, prepared_weights: list[Tensor],
    recipe: str, recompute: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """All gradients: a compiled graph asks before it can know which are wanted."""
    routing = (probabilities, row_to_copy, row_to_token, copy_to_row, offsets)
    gradients = _backward_pass(
        Wanted(True, True, True), dy, kept, x, gate_up, down, *routing, prepared_weights, recipe, recompute
    )
    return cast(tuple[Tensor, Tensor, Tensor, Tensor], gradients)


@_experts_backward.register_fake
def _(
    dy: Tensor, kept: list[Tensor], x: Tensor | None, gate_up: Tensor, down: Tensor, probabilities: Tensor,
    row_to_copy: Tensor, row_to_token: Tensor, copy_to_row: Tensor, offsets: Tensor, prepared_weights: list[Tensor],
    recipe: str, recompute: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(dy), torch.empty_like(gate_up), torch.empty_like(down), torch.empty_like(probabilities)


def _remember(ctx, inputs: tuple, output: tuple[Tensor, list[Tensor]]) -> None:
    x, *weights_and_routing, prepared, ctx.recipe, ctx.recompute, _ = inputs
    own_input = kept_formats(Recipe.from_json(ctx.recipe), ctx.recompute).own_input
    ctx.prepared = len(prepared)
    ctx.set_materialize_grads(False)  # or backward would be given zeros as large as all that is kept
    ctx.save_for_backward(x if own_input else None, *weights_and_routing, *prepared, *output[1])


def _recall(ctx) -> tuple:
    """The arguments of the backward pass but for dy, as `_remember` left them."""
    x, *tensors = ctx.saved_tensors
    weights_and_routing, tensors = tensors[:7], tensors[7:]
    prepared, kept = tensors[: ctx.prepared], tensors[ctx.prepared :]
    return kept, x, *weights_and_routing, prepared, ctx.recipe, ctx.recompute


def _opaque_backward(ctx, dy: Tensor, _: object) -> tuple:
    gradients = _experts_backward(dy, *_recall(ctx))
    return *gradients, None, None, None, None, [None] * ctx.prepared, None, None, None


_experts_forward.register_autograd(_opaque_backward, setup_context=_remember)


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments) -> Tensor:
        y, kept = _forward_pass(*arguments)
        _remember(ctx, arguments, (y, kept))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        wanted = Wanted(*ctx.needs_input_grad[:3])
        return *_backward_pass(wanted, gradients[0], *_recall(ctx)), *(None,) * 8
