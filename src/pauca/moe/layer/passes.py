"""Forward and backward of one call of SwiGLU experts, as functions of tensors.

Dispatch -> FC1 -> SwiGLU times the router's weight -> FC2 -> combine. Rows are copies of tokens sorted by expert (see
`permutation`). No step adds floats in an order that may change: gradients are the same bits every time.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from pauca.moe import ops
from pauca.moe.layer.call import ExpertCall
from pauca.moe.layer.kept import from_bytes, to_bytes
from pauca.moe.layer.permutation import Permutation
from pauca.moe.layer.recipe import Format, Recipe
from pauca.moe.layer.weights import Fp8Weights
from pauca.moe.ops import gates, products, reference
from pauca.moe.ops.formats import GROUP_ROWS, Fp8Tensor, MxFp4Tensor, Quantized, ScaleRule, Stored, row_groups


class Gradients(NamedTuple):
    """The weights' in the type they add up, the probabilities' in FP32 and per row. None: not asked for."""

    x: Tensor | None
    gate_up: Tensor | None
    down: Tensor | None
    row_probability: Tensor
    gate_up_bias: Tensor | None = None


class Wanted(NamedTuple):
    """Which gradients backward is to compute: those of frozen weights cost two of its four products."""

    x: bool
    gate_up: bool
    down: bool
    gate_up_bias: bool = False


def forward(call: ExpertCall, x: Stored) -> tuple[Tensor, list[Tensor]]:
    """The output, and what backward needs, as bytes.

    Args:
        call: all but the tokens.
        x: tokens [tokens, hidden] in BF16, or quantized already.
    """
    return _bf16_forward(call, cast(Tensor, x)) if call.recipe.precision == "bf16" else _fp8_forward(call, x)


def backward(
    call: ExpertCall, dy: Tensor | Fp8Tensor, kept: list[Tensor], x: Tensor | None, wanted: Wanted
) -> Gradients:
    """The gradients, from what forward kept.

    Args:
        call: what forward was given.
        dy: the output's gradient [tokens, hidden] in BF16, or in FP8 already.
        kept: what forward returned.
        x: forward's input where that is kept as it came (`KeptFormats.own_input`), else None.
        wanted: which gradients to compute.
    """
    matrices = _matrices(call, list(kept), x)
    if call.recipe.precision == "bf16":
        gradients = _bf16_backward(call, cast(Tensor, dy), matrices, wanted)
    else:
        gradients = _fp8_backward(call, dy, matrices, wanted)
    return gradients._replace(
        gate_up=_typed_like(gradients.gate_up, call.gate_up),
        down=_typed_like(gradients.down, call.down),
        gate_up_bias=_typed_like(gradients.gate_up_bias, call.gate_up_bias),
    )


def _typed_like(gradient: Tensor | None, weight: Tensor | None) -> Tensor | None:
    if gradient is None or weight is None:
        return None
    return gradient.to((weight.is_leaf and weight.grad_dtype) or weight.dtype)


class _KeptMatrices(NamedTuple):
    """The matrices of `KeptFormats`, BF16 tensors under the bf16 recipe; the others also keep two bytes per expert."""

    input: Any
    z: Any
    fc2_input: Any
    gate_up_scale: Any = None  # largest scale byte of each expert's weights
    down_scale: Any = None


def _matrices(call: ExpertCall, kept: list[Tensor], x: Tensor | None) -> _KeptMatrices:
    formats, hidden, width = call.formats, call.down.shape[1], call.down.shape[2]
    return _KeptMatrices(
        x if x is not None else from_bytes(kept, formats.input, hidden),
        from_bytes(kept, formats.z, call.gate.halves * width),
        from_bytes(kept, formats.fc2_input, width),
        *kept,
    )


def _with_bias(call: ExpertCall, z: Tensor) -> Tensor:
    """FC1's output with its bias, where there is one."""
    if call.gate_up_bias is None:
        return z
    expert = row_groups(call.permutation.offsets, len(z)).clamp(max=len(call.gate_up_bias) - 1)
    return z.add_(call.gate_up_bias.to(z.dtype)[expert])


# BF16


def _fc1(call: ExpertCall, rows: Tensor) -> Tensor:
    weights = call.gate_up.bfloat16().transpose(1, 2)
    return _with_bias(call, products.rows_by_weights(rows, weights, call.permutation.offsets))


def _bf16_forward(call: ExpertCall, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    offsets = call.permutation.offsets
    rows = ops.gather_rows(x, call.permutation.row_to_token)
    z = _fc1(call, rows)
    activation = gates.operations(call.gate).swiglu(z, call.row_probability())
    y_rows = products.rows_by_weights(activation, call.down.bfloat16().transpose(1, 2), offsets)
    formats = call.formats
    kept = to_bytes(
        rows if formats.gathered else None, z if formats.z else None, activation if formats.fc2_input else None
    )
    return ops.combine(y_rows, call.permutation.copy_to_row), kept


def _bf16_backward(call: ExpertCall, dy: Tensor, kept: _KeptMatrices, wanted: Wanted) -> Gradients:
    permutation, offsets = call.permutation, call.permutation.offsets
    gate_up, down, probability = call.gate_up.bfloat16(), call.down.bfloat16(), call.row_probability()
    rows, z, activation, *_ = kept
    if not call.formats.gathered and (wanted.gate_up or z is None):
        rows = ops.gather_rows(rows, permutation.row_to_token)
    if z is None:
        z = _fc1(call, rows)
    steps = gates.operations(call.gate)
    if not wanted.down:
        activation = None
    elif activation is None:
        activation = steps.swiglu(z, probability)

    dy_rows = ops.gather_rows(dy, permutation.row_to_token)
    d_activation = products.rows_by_weights(dy_rows, down, offsets)
    d_down = products.columns_by_columns(dy_rows.t(), activation.t(), offsets) if activation is not None else None
    del dy_rows, activation
    dz, d_probability = steps.swiglu_backward(z, probability, d_activation)
    d_gate_up = products.columns_by_columns(dz.t(), rows.t(), offsets) if wanted.gate_up else None
    dx = ops.combine(products.rows_by_weights(dz, gate_up, offsets), permutation.copy_to_row) if wanted.x else None
    ones = dz.new_ones(len(dz), GROUP_ROWS).t()
    d_bias = products.columns_by_columns(dz.t(), ones, offsets)[..., 0] if wanted.gate_up_bias else None
    return Gradients(dx, d_gate_up, d_down, d_probability, d_bias)


# FP8 and FP4: the same products; they differ in what is kept, and so in what the products are fed from.


def _times_weights(call: ExpertCall, rows: Fp8Tensor, weights: Fp8Weights) -> Tensor:
    return products.fp8_rows_by_weights(
        rows.values,
        rows.scales_float32(),
        weights.values,
        weights.scales,
        call.permutation.offsets,
        call.recipe.fast_accumulate,
    )


def _weight_gradient(call: ExpertCall, a: Fp8Tensor, b: Fp8Tensor) -> Tensor:
    return products.fp8_columns_by_columns(
        a.values,
        a.scales_float32(),
        b.values,
        b.scales_float32(),
        call.permutation.offsets,
        call.recipe.fast_accumulate,
    )


def _fp8_forward(call: ExpertCall, x: Stored) -> tuple[Tensor, list[Tensor]]:
    tokens = cast(Quantized, quantize(x, call.formats.input, call.recipe))
    rows = _gather_rows(tokens, call.permutation)
    gate_up, gate_up_scale = call.weights.forward("gate_up")
    z = _with_bias(call, _times_weights(call, rows, gate_up))
    kept_input = rows if call.formats.gathered else tokens
    del rows, tokens, gate_up
    activation, kept_z, kept_activation = _activate(call, z)
    del z
    down, down_scale = call.weights.forward("down")
    y_rows = _times_weights(call, activation, down)
    kept = to_bytes(kept_input, kept_z, kept_activation, gate_up_scale, down_scale)
    return ops.combine(y_rows, call.permutation.copy_to_row), kept


def _activate(call: ExpertCall, z: Tensor) -> tuple[Fp8Tensor, Stored | None, Quantized | None]:
    """SwiGLU's result for FC2; then z and the result as backward wants them."""
    formats, rule, probability = call.formats, ScaleRule(call.recipe.scale_rule), call.row_probability()
    steps = gates.operations(call.gate)
    keep = formats.fc2_input == "mxfp4"
    if formats.z == "mxfp4" and not call.recipe.stochastic_rounding:
        activation, kept_z, kept = steps.swiglu_fp8_keeping_z(z, probability, rule, keep)
    else:
        activation, kept = steps.swiglu_fp8(z, probability, rule if keep else None)
        kept_z = quantize(z, formats.z, call.recipe) if formats.z else None
    return activation, kept_z, activation if formats.fc2_input == "fp8" else kept


def _fp8_backward(call: ExpertCall, dy: Tensor | Fp8Tensor, kept: _KeptMatrices, wanted: Wanted) -> Gradients:
    permutation, offsets, probability = call.permutation, call.permutation.offsets, call.row_probability()
    fc1_input, z, fc2_input, gate_up_scale, down_scale = kept
    if z is None:
        rows = fc1_input if call.formats.gathered else _gather_rows(fc1_input, permutation)
        z = _with_bias(call, _times_weights(call, rows, call.weights.forward("gate_up")[0]))
        del rows

    dy_tokens = cast(Fp8Tensor, quantize(dy, "fp8", call.recipe))
    dy_rows = ops.gather_fp8_rows(dy_tokens, permutation.row_to_token)
    d_activation = _times_weights(call, dy_rows, call.weights.backward("down", down_scale))
    del dy_rows
    swiglu, steps = (z, probability, d_activation, offsets), gates.operations(call.gate)
    d_down = d_gate_up = dx = d_bias = None
    if fc2_input is None and wanted.down:
        dz_rows, dz_columns, d_probability, fc2_columns = steps.swiglu_backward_fp8_with_activation(*swiglu)
    else:
        dz_rows, dz_columns, d_probability = steps.swiglu_backward_fp8(*swiglu)
        fc2_columns = _columns(fc2_input, offsets, None) if fc2_input is not None and wanted.down else None
    del z, d_activation, swiglu
    if fc2_columns is not None:
        dy_columns = ops.fp8_rows_to_columns(dy_tokens, offsets, permutation.row_to_token)
        d_down = _weight_gradient(call, dy_columns, fc2_columns)
        del dy_columns, fc2_columns

    if wanted.gate_up:
        index = None if call.formats.gathered else permutation.row_to_token
        d_gate_up = _weight_gradient(call, dz_columns, _columns(fc1_input, offsets, index))
    if wanted.gate_up_bias:
        d_bias = _bias_gradient(call, dz_columns)
    del dz_columns
    if wanted.x:
        dx_rows = _times_weights(call, dz_rows, call.weights.backward("gate_up", gate_up_scale))
        dx = ops.combine(dx_rows, permutation.copy_to_row)
    return Gradients(dx, d_gate_up, d_down, d_probability, d_bias)


def _bias_gradient(call: ExpertCall, dz_columns: Fp8Tensor) -> Tensor:
    """Each expert's sum over its rows: a product with ones, which keeps sums in FP32 and their order."""
    codes, device = dz_columns.values, dz_columns.codes.device
    ones = torch.ones(GROUP_ROWS, codes.shape[1], device=device).to(codes.dtype)
    scales = torch.ones(len(call.down), GROUP_ROWS, device=device)
    sums = products.fp8_columns_by_columns(
        codes, dz_columns.scales_float32(), ones, scales, call.permutation.offsets, call.recipe.fast_accumulate
    )
    return sums[..., 0]


def _gather_rows(tokens: Quantized, permutation: Permutation) -> Fp8Tensor:
    if isinstance(tokens, MxFp4Tensor):
        return ops.gather_mxfp4_to_fp8_rows(tokens, permutation.row_to_token)
    return ops.gather_fp8_rows(tokens, permutation.row_to_token)


def _columns(stored: Quantized, offsets: Tensor, index: Tensor | None) -> Fp8Tensor:
    """A kept activation as the weight gradient's operand."""
    if isinstance(stored, MxFp4Tensor):
        return ops.gather_mxfp4_to_fp8_columns(stored, index, offsets)
    return ops.fp8_rows_to_columns(stored, offsets, index)


def quantize(x: Stored, format_: Format, recipe: Recipe) -> Stored:
    """A matrix in the format it is to be kept or sent in: from BF16, from FP8 to MXFP4, or in that format already."""
    rule = ScaleRule(recipe.scale_rule)
    if isinstance(x, Fp8Tensor):
        return ops.fp8_to_mxfp4(x, rule) if format_ == "mxfp4" else x
    if isinstance(x, MxFp4Tensor) or format_ == "bf16":
        return x
    if format_ == "fp8":
        return ops.quantize_fp8_rowwise(x)
    if recipe.stochastic_rounding:
        noise = torch.randint(256, x.shape, dtype=torch.uint8, device=x.device)
        return reference.quantize_mxfp4_stochastic(x, noise, rule)
    return ops.quantize_mxfp4(x, rule)
