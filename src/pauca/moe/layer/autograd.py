"""A layer's SwiGLU experts as one differentiable function.

What backward needs (`kept`) passes from forward (`passes`) as a list of byte tensors. Eagerly the two are an
`autograd.Function`. Under `torch.compile` each is one opaque operation instead, which costs some 0.3 ms of the host's
time that a compiled graph hides.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import BFloat16, Float, Int
from torch import Tensor

from pauca.errors import InputError
from pauca.moe.layer import passes
from pauca.moe.layer.call import ExpertCall, recall, remember
from pauca.moe.layer.derivatives import first_derivative_only
from pauca.moe.layer.kept import kept_shapes
from pauca.moe.layer.passes import Wanted
from pauca.moe.layer.permutation import sort_by_expert
from pauca.moe.layer.recipe import ROTATES, Recompute
from pauca.moe.layer.rotation import rotate_input, rotate_weights
from pauca.moe.ops.gates import Gate


def apply_experts(
    x: BFloat16[Tensor, "tokens hidden"],
    gate_up: Float[Tensor, "experts twice_width hidden"],
    down: Float[Tensor, "experts hidden width"],
    expert_ids: Int[Tensor, "tokens top_k"],
    probabilities: Float[Tensor, "tokens top_k"],
    recipe: str,
    recompute: Recompute = "none",
    prepared_weights: Sequence[Tensor] = (),
    gate: str = "",
    gate_up_bias: Float[Tensor, "experts twice_width"] | None = None,
) -> BFloat16[Tensor, "tokens hidden"]:
    """The weighted sum of each token's experts, differentiable in x, both weights and the probabilities.

    Args:
        gate_up: FC1, its gate half before its up half, in BF16 or FP32 (then rounded to BF16 for each use).
        down: FC2, likewise.
        probabilities: FP32 weights of the chosen experts.
        recipe: `Recipe.to_json()`; as text, it is a constant to `torch.compile`.
        recompute: what backward computes again.
        prepared_weights: `prepare_weights(gate_up, down)`, for several passes with the same weights; without it, each
            pass quantizes them for itself. Of a recipe that rotates, those of the rotated weights.
        gate: `Gate.to_json()`, what happens between the products, if not SwiGLU. On a GPU SwiGLU alone has kernels.
        gate_up_bias: added to FC1's result, where the gate is `biased`.
    """
    _check_arguments(x, gate_up, down, expert_ids, probabilities, gate, gate_up_bias)
    return compute_experts(
        x, gate_up, down, expert_ids, probabilities, recipe, recompute, prepared_weights, gate, gate_up_bias
    )


def compute_experts(
    x: BFloat16[Tensor, "tokens hidden"],
    gate_up: Tensor | Sequence[Tensor],
    down: Float[Tensor, "experts hidden width"],
    expert_ids: Int[Tensor, "tokens top_k"],
    probabilities: Float[Tensor, "tokens top_k"],
    recipe: str,
    recompute: Recompute = "none",
    prepared_weights: Sequence[Tensor] = (),
    gate: str = "",
    gate_up_bias: Tensor | None = None,
) -> BFloat16[Tensor, "tokens hidden"]:
    """`apply_experts` of tensors that were checked on their way in, and of a gate as text.

    `gate_up` may be several matrices of each expert that stand one below the other, as gate and up do where they lie
    apart: each pass joins them, and the joined copy is not kept between the passes.
    """
    fc1 = [gate_up] if isinstance(gate_up, Tensor) else [*gate_up]
    if len(x) == 0:  # nothing to compute, but every parameter still gets a gradient, of zeros
        nothing = sum(weight[:0].sum() for weight in (*fc1, down)) + probabilities.sum()
        return x + (nothing if gate_up_bias is None else nothing + gate_up_bias[:0].sum()).to(x.dtype)
    if ROTATES in recipe:
        x, fc1 = rotate_input(x), [rotate_weights(weight) for weight in fc1]
    permutation = sort_by_expert(expert_ids, down.shape[0])
    joined = torch.cat(fc1, 1) if torch.compiler.is_compiling() and len(fc1) > 1 else fc1[0]
    call = ExpertCall(
        joined, down, probabilities, permutation, list(prepared_weights), recipe, recompute, gate, gate_up_bias
    )
    differentiable = (x, *fc1, down, probabilities, *([] if gate_up_bias is None else [gate_up_bias]))
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in differentiable)
    if torch.compiler.is_compiling():
        return _experts_forward(x, call.tensors(), recipe, recompute, keep, gate)[0]
    return _Experts.apply(x, recipe, recompute, keep, gate, len(fc1), *fc1, *call.tensors()[1:])


def _check_arguments(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    expert_ids: Tensor,
    probabilities: Tensor,
    gate: str = "",
    bias: Tensor | None = None,
) -> None:
    if x.ndim != 2 or x.dtype != torch.bfloat16:
        raise InputError(f"x must be bfloat16 [tokens, hidden], got {x.dtype} {tuple(x.shape)}")
    if gate_up.ndim != 3 or down.ndim != 3:
        raise InputError(f"weights must be matrices per expert, got {tuple(gate_up.shape)} and {tuple(down.shape)}")
    experts, hidden, width = down.shape
    # Text is nothing that a compiler can trace; a graph of another gate is checked where its shapes are inferred.
    form = Gate() if torch.compiler.is_compiling() or not gate else Gate.from_json(gate)
    halves = gate_up.shape[1] // width if torch.compiler.is_compiling() and gate else form.halves
    if x.shape[1] != hidden or gate_up.shape != (experts, halves * width, hidden):
        raise InputError(
            f"x {tuple(x.shape)}, gate_up {tuple(gate_up.shape)} and down {tuple(down.shape)} do not fit together: "
            f"[tokens, hidden], [experts, {'2 ' if halves == 2 else ''}width, hidden] and [experts, hidden, width] are "
            "needed"
        )
    if not torch.compiler.is_compiling() and (None if bias is None else bias.shape) != (
        gate_up.shape[:2] if form.biased else None
    ):
        found = "none" if bias is None else tuple(bias.shape)
        raise InputError(f"gate_up_bias must be {tuple(gate_up.shape[:2]) if form.biased else 'none'}, got {found}")
    if any(weights.dtype not in (torch.bfloat16, torch.float32) for weights in (gate_up, down)):
        raise InputError(f"weights must be bfloat16 or float32, got {gate_up.dtype} and {down.dtype}")
    check_routing(x, expert_ids, probabilities)


def check_routing(x: Tensor, expert_ids: Tensor, probabilities: Tensor) -> None:
    """Refuse a routing that does not belong to the tokens x.

    Raises:
        InputError: other types than int32 or int64 and float32, or other shapes than [tokens, top_k].
    """
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


class _Experts(torch.autograd.Function):
    """Forward and backward of a call in eager code; it travels as `ExpertCall.tensors`, of FC1's weights all parts."""

    @staticmethod
    def forward(
        ctx, x: Tensor, recipe: str, recompute: Recompute, keep: bool, gate: str, parts: int, *tensors: Tensor
    ) -> Tensor:
        first, *others = tensors[:parts]
        call = ExpertCall.of((first, *tensors[parts:]), recipe, recompute, gate)
        y, kept = passes.forward(_joined(call, others), x)
        if keep:
            ctx.others = len(others)
            remember(ctx, call, x, [*others, *kept])
        return y

    @staticmethod
    @first_derivative_only
    def backward(ctx, *gradients: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        needs, (call, x, kept) = ctx.needs_input_grad, recall(ctx)
        others, kept = kept[: ctx.others], kept[ctx.others :]
        down = 7 + ctx.others
        wanted = Wanted(needs[0], any(needs[6:down]), needs[down], call.gate_up_bias is not None and needs[down + 2])
        dx, gate_up, *found = _gradients(gradients[0], _joined(call, others), x, kept, wanted)
        parts = [part.shape[1] for part in (call.gate_up, *others)]
        fc1 = [None] * len(parts) if gate_up is None else gate_up.split(parts, 1)
        return dx, None, None, None, None, None, *fc1, *found, *(None,) * (len(needs) - down - len(found))


def _joined(call: ExpertCall, others: list[Tensor]) -> ExpertCall:
    """The call with all parts of FC1's weights, where it has the first alone; copies of them need no joining."""
    return replace(call, gate_up=torch.cat([call.gate_up, *others], 1)) if others and not call.prepared else call


# The same for a compiled graph, which sees two opaque operations of tensors and constants.


@torch.library.custom_op("pauca::experts_forward", mutates_args=())
def _experts_forward(
    x: Tensor, call: list[Tensor], recipe: str, recompute: str, keep: bool, gate: str
) -> tuple[Tensor, list[Tensor]]:
    """The output and what is kept; `call` is `ExpertCall.tensors`."""
    y, kept = passes.forward(ExpertCall.of(call, recipe, recompute, gate), x)
    return y, kept if keep else []


@_experts_forward.register_fake
def _(x: Tensor, call: list[Tensor], recipe: str, recompute: str, keep: bool, gate: str) -> tuple[Tensor, list[Tensor]]:
    record = ExpertCall.of(call, recipe, recompute, gate)
    sizes = (x.shape[0], record.permutation.row_to_copy.shape[0], *record.down.shape)
    shapes = kept_shapes(record.recipe, record.recompute, *sizes, halves=record.gate.halves) if keep else []
    return torch.empty_like(x), [x.new_empty(shape, dtype=torch.uint8) for shape in shapes]


@torch.library.custom_op("pauca::experts_backward", mutates_args=())
def _experts_backward(
    dy: Tensor, call: list[Tensor], recipe: str, recompute: str, gate: str, x: Tensor | None, kept: list[Tensor]
) -> list[Tensor]:
    """All gradients: a compiled graph asks before it can know which are wanted."""
    record = ExpertCall.of(call, recipe, recompute, gate)
    wanted = Wanted(True, True, True, record.gate_up_bias is not None)
    return cast(list[Tensor], _gradients(dy, record, x, kept, wanted))


@_experts_backward.register_fake
def _(
    dy: Tensor, call: list[Tensor], recipe: str, recompute: str, gate: str, x: Tensor | None, kept: list[Tensor]
) -> list[Tensor]:
    count = 4 if Gate.from_json(gate).biased else 3
    return [torch.empty_like(dy), *(tensor.new_empty(tensor.shape) for tensor in call[:count])]


def _remember_opaque(ctx, inputs: tuple, output: tuple[Tensor, list[Tensor]]) -> None:
    x, call, recipe, recompute, _, gate = inputs
    remember(ctx, ExpertCall.of(call, recipe, recompute, gate), x, output[1])


def _opaque_backward(ctx, dy: Tensor, _: object) -> tuple:
    call, x, kept = recall(ctx)
    tensors = call.tensors()
    dx, *others = _experts_backward(dy, tensors, call.recipe_text, call.recompute, call.gate_text, x, kept)
    return dx, [*others, *[None] * (len(tensors) - len(others))], None, None, None, None


_experts_forward.register_autograd(_opaque_backward, setup_context=_remember_opaque)


def _gradients(
    dy: Tensor, call: ExpertCall, x: Tensor | None, kept: list[Tensor], wanted: Wanted
) -> list[Tensor | None]:
    """The gradients of x, gate_up, down, the probabilities and the bias, if there is one."""
    found = passes.backward(call, dy.contiguous(), kept, x, wanted)
    bias = [] if call.gate_up_bias is None else [found.gate_up_bias]
    return [found.x, found.gate_up, found.down, found.row_probability[call.permutation.copy_to_row], *bias]
