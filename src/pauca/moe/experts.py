"""A bank of SwiGLU experts: forward and backward written by hand, so that what is kept in between is exactly known.

Dispatch -> FC1 -> SwiGLU times the router's weight -> FC2 -> combine. Rows are copies of tokens sorted by expert (see
`permute`). Forward and backward are each one opaque operation of torch's: `torch.compile` leaves them alone, and what
backward needs passes between them as a list of byte tensors, in the formats of `kept_formats`.

No operation here adds floats in an order that may change: gradients are the same bits every time.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import BFloat16, Float, Int
from torch import Tensor

from pauca.moe import ops, products, reference
from pauca.moe.formats import Fp8Tensor, Granularity, MxFp4Tensor, ScaleRule, mxfp4_row_bytes
from pauca.moe.permute import Permutation, row_bound, sort_by_expert
from pauca.moe.recipe import Format, Recipe, Recompute

Quantized = Fp8Tensor | MxFp4Tensor
Stored = Tensor | Quantized


@dataclass(frozen=True)
class KeptFormats:
    """What backward finds, besides weights and routing; None is computed again."""

    input: Format
    gathered: bool  # FC1's input once per row, or once per token
    z: Format | None
    fc2_input: Format | None


def kept_formats(recipe: Recipe, recompute: Recompute) -> KeptFormats:
    """What a recipe keeps under a recompute mode."""
    own: Format = "mxfp4" if recipe.precision == "fp4" else recipe.precision
    return KeptFormats(
        input=own,
        gathered=recipe.precision != "fp4" and recompute == "none",
        z=None if recompute == "experts" else recipe.kept_z,
        fc2_input=own if recipe.keep_fc2_input and recompute == "none" else None,
    )


def kept_bytes(
    recipe: Recipe, recompute: Recompute, *, tokens: int, top_k: int, experts: int, hidden: int, width: int
) -> int:
    """Bytes kept for backward by one bank of experts, as `experts_forward` returns them.

    Not counted: the weights, the routing (about 13 bytes per copy), and in the bf16 recipe that keeps FC1's input once
    per token, that input, which is the layer's own.
    """
    shapes = _kept_shapes(recipe, recompute, tokens, row_bound(tokens * top_k, experts), hidden, width)
    return sum(rows * row_bytes for rows, row_bytes in shapes)


def _kept_shapes(
    recipe: Recipe, recompute: Recompute, tokens: int, rows: int, hidden: int, width: int
) -> list[tuple[int, ...]]:
    kept = kept_formats(recipe, recompute)
    parts = [(kept.z, rows, 2 * width), (kept.fc2_input, rows, width)]
    if kept.gathered or kept.input != "bf16":
        parts.insert(0, (kept.input, rows if kept.gathered else tokens, hidden))
    shapes: list[tuple[int, ...]] = []
    for format_, count, channels in parts:
        if format_ == "bf16":
            shapes.append((count, 2 * channels))
        elif format_ == "fp8":
            shapes += [(count, channels), (count, 1)]
        elif format_ == "mxfp4":
            shapes.append((count, mxfp4_row_bytes(channels)))
    return shapes


def _to_bytes(*stored: Stored | None) -> list[Tensor]:
    tensors = []
    for item in stored:
        if isinstance(item, Fp8Tensor):
            tensors += [item.codes, item.scales[:, None]]
        elif isinstance(item, MxFp4Tensor):
            tensors.append(item.data)
        elif item is not None:
            tensors.append(item.view(torch.uint8))
    return tensors


def _from_bytes(tensors: list[Tensor], format_: Format | None, channels: int) -> Stored | None:
    """Take the next stored matrix off the front of `tensors`."""
    if format_ is None:
        return None
    data = tensors.pop(0)
    if format_ == "fp8":
        return Fp8Tensor(data, tensors.pop(0)[:, 0], Granularity.ROW)
    return MxFp4Tensor(data, channels) if format_ == "mxfp4" else data.view(torch.bfloat16)


def _quantize(x: Tensor, format_: Format, recipe: Recipe) -> Stored:
    """A BF16 matrix in the format it is to be kept in."""
    if format_ == "bf16":
        return x
    if format_ == "fp8":
        return ops.quantize_fp8_rowwise(x)
    rule = ScaleRule(recipe.scale_rule)
    if recipe.stochastic_rounding:
        noise = torch.randint(256, x.shape, dtype=torch.uint8, device=x.device)
        return reference.quantize_mxfp4_stochastic(x, noise, rule)
    return ops.quantize_mxfp4(x, rule)


def apply_experts(
    x: BFloat16[Tensor, "tokens hidden"],
    gate_up: Float[Tensor, "experts twice_width hidden"],
    down: Float[Tensor, "experts hidden width"],
    expert_ids: Int[Tensor, "tokens top_k"],
    probabilities: Float[Tensor, "tokens top_k"],
    recipe: str,
    recompute: Recompute = "none",
) -> BFloat16[Tensor, "tokens hidden"]:
    """The weighted sum of each token's experts, differentiable in x, both weights and the probabilities.

    Args:
        gate_up: FC1, its gate half before its up half, in BF16 or FP32 (then rounded to BF16 for each use).
        down: FC2, likewise.
        probabilities: FP32 weights of the chosen experts.
        recipe: `Recipe.to_json()`; as text, it is a constant to `torch.compile`.
        recompute: what backward computes again.
    """
    if len(x) == 0:  # nothing to compute, but every parameter still gets a gradient, of zeros
        return x + (gate_up[:0].sum() + down[:0].sum() + probabilities.sum()).to(x.dtype)
    plan = sort_by_expert(expert_ids, gate_up.shape[0])
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, gate_up, down, probabilities))
    routing = (probabilities, plan.row_to_copy, plan.row_to_token, plan.copy_to_row, plan.offsets)
    return _experts_forward(x, gate_up, down, *routing, recipe, recompute, keep)[0]


# The two opaque operations. Weights and routing go in; what is kept comes out as bytes.


@torch.library.custom_op("pauca::experts_forward", mutates_args=())
def _experts_forward(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    probabilities: Tensor,
    row_to_copy: Tensor,
    row_to_token: Tensor,
    copy_to_row: Tensor,
    offsets: Tensor,
    recipe: str,
    recompute: str,
    keep: bool,
) -> tuple[Tensor, list[Tensor]]:
    plan = Permutation(row_to_copy, row_to_token, copy_to_row, offsets)
    bank = _Bank(gate_up, down, probabilities, plan, Recipe.from_json(recipe), cast(Recompute, recompute))
    forward = _bf16_forward if bank.recipe.precision == "bf16" else _fp8_forward
    y, kept = forward(bank, x)
    return y, kept if keep else []


@_experts_forward.register_fake
def _(
    x: Tensor, gate_up: Tensor, down: Tensor, probabilities: Tensor, row_to_copy: Tensor, row_to_token: Tensor,
    copy_to_row: Tensor, offsets: Tensor, recipe: str, recompute: str, keep: bool,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    sizes = (x.shape[0], row_to_copy.shape[0], x.shape[1], down.shape[2])
    shapes = _kept_shapes(Recipe.from_json(recipe), cast(Recompute, recompute), *sizes) if keep else []
    return torch.empty_like(x), [x.new_empty(shape, dtype=torch.uint8) for shape in shapes]


@torch.library.custom_op("pauca::experts_backward", mutates_args=())
def _experts_backward(
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
    recipe: str,
    recompute: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    plan = Permutation(row_to_copy, row_to_token, copy_to_row, offsets)
    bank = _Bank(gate_up, down, probabilities, plan, Recipe.from_json(recipe), cast(Recompute, recompute))
    backward = _bf16_backward if bank.recipe.precision == "bf16" else _fp8_backward
    stored = bank.stored(list(kept), x)
    dx, d_gate_up, d_down, d_row_probability = backward(bank, dy.contiguous(), stored)
    d_probabilities = d_row_probability[copy_to_row.long()]
    return dx, d_gate_up.to(gate_up.dtype), d_down.to(down.dtype), d_probabilities


@_experts_backward.register_fake
def _(
    dy: Tensor, kept: list[Tensor], x: Tensor | None, gate_up: Tensor, down: Tensor, probabilities: Tensor,
    row_to_copy: Tensor, row_to_token: Tensor, copy_to_row: Tensor, offsets: Tensor, recipe: str, recompute: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(dy), torch.empty_like(gate_up), torch.empty_like(down), torch.empty_like(probabilities)


def _remember(ctx, inputs: tuple, output: tuple[Tensor, list[Tensor]]) -> None:
    x, *tensors = inputs[:8]
    recipe, ctx.recompute, _ = inputs[8:]
    kept = kept_formats(Recipe.from_json(recipe), ctx.recompute)
    own_input = kept.input == "bf16" and not kept.gathered  # the layer's input itself, nothing copied
    ctx.recipe = recipe
    ctx.set_materialize_grads(False)  # or backward would be given zeros as large as all that is kept
    ctx.save_for_backward(x if own_input else None, *tensors, *output[1])


def _backward(ctx, dy: Tensor, _: object) -> tuple[Tensor | None, ...]:
    x, *tensors = ctx.saved_tensors
    weights_and_routing, kept = tensors[:7], tensors[7:]
    gradients = _experts_backward(dy, kept, x, *weights_and_routing, ctx.recipe, ctx.recompute)
    return *gradients, *(None,) * 7


_experts_forward.register_autograd(_backward, setup_context=_remember)


@dataclass(frozen=True)
class _Bank:
    """The arguments of one pass, with the small things both passes need."""

    gate_up: Tensor
    down: Tensor
    probabilities: Tensor
    plan: Permutation
    recipe: Recipe
    recompute: Recompute

    @property
    def formats(self) -> KeptFormats:
        return kept_formats(self.recipe, self.recompute)

    def row_probability(self) -> Float[Tensor, " rows"]:
        """The router's weight of each row; 0 for padding."""
        copies = self.plan.row_to_copy
        return torch.where(copies >= 0, self.probabilities.reshape(-1)[copies.clamp(min=0).long()], 0.0)

    def stored(self, kept: list[Tensor], x: Tensor | None) -> "_Kept":
        """What forward kept, x being the layer's own input if that is part of it."""
        formats, hidden, width = self.formats, self.down.shape[1], self.down.shape[2]
        return _Kept(
            x if x is not None else _from_bytes(kept, formats.input, hidden),
            _from_bytes(kept, formats.z, 2 * width),
            _from_bytes(kept, formats.fc2_input, width),
        )


class _Kept(NamedTuple):
    """The matrices of `KeptFormats`, in BF16 under the bf16 recipe."""

    input: Any
    z: Any
    fc2_input: Any


# BF16


def _bf16_forward(bank: _Bank, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    offsets = bank.plan.offsets
    rows = ops.gather_rows(x, bank.plan.row_to_token)
    z = products.rows_by_weights(rows, bank.gate_up.bfloat16().transpose(1, 2), offsets)
    activation = ops.swiglu(z, bank.row_probability())
    y_rows = products.rows_by_weights(activation, bank.down.bfloat16().transpose(1, 2), offsets)
    formats = bank.formats
    kept = _to_bytes(
        rows if formats.gathered else None, z if formats.z else None, activation if formats.fc2_input else None
    )
    return ops.combine(y_rows, bank.plan.copy_to_row), kept


def _bf16_backward(bank: _Bank, dy: Tensor, kept: _Kept) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    plan, offsets = bank.plan, bank.plan.offsets
    gate_up, down, probability = bank.gate_up.bfloat16(), bank.down.bfloat16(), bank.row_probability()
    rows, z, activation = kept
    if not bank.formats.gathered:
        rows = ops.gather_rows(rows, plan.row_to_token)
    if z is None:
        z = products.rows_by_weights(rows, gate_up.transpose(1, 2), offsets)
    if activation is None:
        activation = ops.swiglu(z, probability)

    dy_rows = ops.gather_rows(dy, plan.row_to_token)
    d_activation = products.rows_by_weights(dy_rows, down, offsets)
    d_down = products.columns_by_columns(dy_rows.t(), activation.t(), offsets)
    del dy_rows, activation
    dz, d_probability = ops.swiglu_backward(z, probability, d_activation)
    d_gate_up = products.columns_by_columns(dz.t(), rows.t(), offsets)
    dx_rows = products.rows_by_weights(dz, gate_up, offsets)
    return ops.combine(dx_rows, plan.copy_to_row), d_gate_up, d_down, d_probability


# FP8 and FP4: the same products; they differ in what is kept, and so in what the products are fed from.


@dataclass(frozen=True)
class _Fp8Weights:
    """One matrix per expert, contiguous along the dimension that a product sums over, one scale per output."""

    values: Tensor  # float8_e4m3fn [experts, outputs, inputs]
    scales: Tensor  # FP32 [experts, outputs]


def _quantize_weights(weights: Float[Tensor, "experts outputs inputs"]) -> Fp8Tensor:
    return ops.quantize_fp8_rowwise(weights.flatten(0, 1).bfloat16())


def _weights(codes: Fp8Tensor, experts: int) -> _Fp8Weights:
    return _Fp8Weights(codes.values.unflatten(0, (experts, -1)), codes.scales_float32().view(experts, -1))


def _transposed_weights(codes: Fp8Tensor, experts: int) -> _Fp8Weights:
    """Inputs as outputs, for the gradient of the inputs: shifted from the codes, not quantised a second time."""
    outputs = codes.shape[0] // experts
    ends = torch.arange(1, experts + 1, device=codes.codes.device, dtype=torch.int32) * outputs
    columns = ops.fp8_rows_to_columns(codes, ends)
    return _Fp8Weights(columns.values.unflatten(1, (experts, -1)).transpose(0, 1), columns.scales_float32())


def _times_weights(bank: _Bank, rows: Fp8Tensor, weights: _Fp8Weights) -> Tensor:
    return products.fp8_rows_by_weights(
        rows.values,
        rows.scales_float32(),
        weights.values,
        weights.scales,
        bank.plan.offsets,
        bank.recipe.fast_accumulate,
    )


def _weight_gradient(bank: _Bank, a: Fp8Tensor, b: Fp8Tensor) -> Tensor:
    return products.fp8_columns_by_columns(
        a.values,
        a.scales_float32(),
        b.values,
        b.scales_float32(),
        bank.plan.offsets,
        bank.recipe.fast_accumulate,
    )


def _fp8_forward(bank: _Bank, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    recipe, formats, count = bank.recipe, bank.formats, len(bank.gate_up)
    tokens = cast(Quantized, _quantize(x, formats.input, recipe))
    rows = _gather_rows(tokens, bank.plan)
    z = _times_weights(bank, rows, _weights(_quantize_weights(bank.gate_up), count))
    input_kept, z_kept = rows if formats.gathered else tokens, _quantize(z, formats.z, recipe) if formats.z else None
    del rows, tokens
    rule = ScaleRule(recipe.scale_rule) if formats.fc2_input == "mxfp4" else None
    activation, activation_mxfp4 = ops.swiglu_fp8(z, bank.row_probability(), rule)
    del z
    y_rows = _times_weights(bank, activation, _weights(_quantize_weights(bank.down), count))
    activation_kept = activation if formats.fc2_input == "fp8" else activation_mxfp4
    return ops.combine(y_rows, bank.plan.copy_to_row), _to_bytes(input_kept, z_kept, activation_kept)


def _fp8_backward(bank: _Bank, dy: Tensor, kept: _Kept) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    plan, offsets, count = bank.plan, bank.plan.offsets, len(bank.gate_up)
    probability = bank.row_probability()
    fc1_input, z, fc2_input = kept
    gate_up = _quantize_weights(bank.gate_up)
    if z is None:
        rows = fc1_input if bank.formats.gathered else _gather_rows(fc1_input, plan)
        z = _times_weights(bank, rows, _weights(gate_up, count))
        del rows

    dy_tokens = ops.quantize_fp8_rowwise(dy)
    down = _transposed_weights(_quantize_weights(bank.down), count)
    d_activation = _times_weights(bank, ops.gather_fp8_rows(dy_tokens, plan.row_to_token), down)
    del down
    dz_rows, dz_columns, d_probability = ops.swiglu_backward_fp8(z, probability, d_activation, offsets)
    del d_activation
    if fc2_input is None:
        fc2_input, _ = ops.swiglu_fp8(z, probability)
    del z
    dy_columns = ops.fp8_rows_to_columns(dy_tokens, offsets, plan.row_to_token)
    d_down = _weight_gradient(bank, dy_columns, _columns(fc2_input, offsets, None))
    del dy_columns, fc2_input

    index = None if bank.formats.gathered else plan.row_to_token
    d_gate_up = _weight_gradient(bank, dz_columns, _columns(fc1_input, offsets, index))
    del dz_columns
    dx_rows = _times_weights(bank, dz_rows, _transposed_weights(gate_up, count))
    return ops.combine(dx_rows, plan.copy_to_row), d_gate_up, d_down, d_probability


def _gather_rows(tokens: Quantized, plan: Permutation) -> Fp8Tensor:
    if isinstance(tokens, MxFp4Tensor):
        return ops.gather_mxfp4_to_fp8_rows(tokens, plan.row_to_token)
    return ops.gather_fp8_rows(tokens, plan.row_to_token)


def _columns(stored: Quantized, offsets: Tensor, index: Tensor | None) -> Fp8Tensor:
    """A kept activation as the weight gradient's operand."""
    if isinstance(stored, MxFp4Tensor):
        return ops.gather_mxfp4_to_fp8_columns(stored, index, offsets)
    return ops.fp8_rows_to_columns(stored, offsets, index)
