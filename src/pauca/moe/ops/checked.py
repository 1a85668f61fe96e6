"""The operations of the MoE layer: conversions, SwiGLU and combination, on Triton kernels where there is a Hopper GPU.

Each function checks its input and then runs a kernel from `pauca.moe.ops.kernels` (CUDA, compute capability 9.0) or its
twin in `pauca.moe.ops.reference` (anything else). Nothing here waits for the device.

Shared conventions. Rows are copies of tokens, sorted by expert, and `offsets` (int32, on the device) says where each
expert's rows end; the ends are multiples of 16, an expert may have none, and rows past the last end hold nothing.
`index` (int32) names a source row for each output row; an index outside the source (-1, by custom) makes a row of zeros
with scale byte 0. Infinity and NaN become NaN: the whole block in MXFP4, the element in FP8.
"""

from functools import cache
from types import ModuleType

import torch
from jaxtyping import BFloat16, Float, Int32, UInt8
from torch import Tensor

from pauca.errors import InputError
from pauca.moe.ops import reference
from pauca.moe.ops.formats import BLOCK, GROUP_ROWS, Fp8Tensor, Granularity, Layout, MxFp4Tensor, ScaleRule, Stored

_VECTOR = 16  # channels that one 16-byte access of FP8 codes holds; torch's FP8 products ask for the same multiple


def quantize_mxfp4(x: BFloat16[Tensor, "rows channels"], rule: ScaleRule = ScaleRule.EVEN) -> MxFp4Tensor:
    """BF16 to MXFP4, rounded to nearest even. Channels: a multiple of 32."""
    _check_matrix("x", x, BLOCK)
    return backend_of(x).quantize_mxfp4(x, rule)


def quantize_fp8_rowwise(x: Float[Tensor, "rows channels"]) -> Fp8Tensor:
    """To E4M3 with one power-of-two scale per row, the smallest that keeps it below 448; FP32 is rounded to BF16."""
    _check_matrix("x", x, _VECTOR, float32=True)
    return backend_of(x).quantize_fp8_rowwise(x)


def quantize_fp8_tilewise(x: BFloat16[Tensor, "rows channels"]) -> Fp8Tensor:
    """BF16 to E4M3 with one power-of-two scale per 1x128 tile, the smallest that keeps the tile below 448."""
    _check_matrix("x", x, _VECTOR)
    return backend_of(x).quantize_fp8_tilewise(x)


def quantize_fp8_columns(
    x: Float[Tensor, "rows channels"], group_scales: UInt8[Tensor, " groups"], offsets: Int32[Tensor, " groups"]
) -> Fp8Tensor:
    """To E4M3, transposed, each group of rows under one given scale byte (`quantize_fp8_rowwise`'s largest).

    For expert weights, BF16 or FP32, whose largest scale is known from forward: one pass instead of two.
    """
    _check_matrix("x", x, _VECTOR, float32=True)
    _check_groups(x, len(x), offsets)
    return backend_of(x).quantize_fp8_columns(x, group_scales, offsets)


def fp8_to_mxfp4(x: Fp8Tensor, rule: ScaleRule = ScaleRule.EVEN) -> MxFp4Tensor:
    """Row- or tile-scaled FP8 to MXFP4 on the codes alone, rounded once. Channels: a multiple of 32."""
    _check_row_layout(x)
    _check_width("x", x.shape[1], BLOCK)
    return backend_of(x.codes).fp8_to_mxfp4(x, rule)


def gather_mxfp4_to_fp8_rows(x: MxFp4Tensor, index: Int32[Tensor, "n"] | None = None) -> Fp8Tensor:
    """Rows of x, by index if there is one, in FP8 with one scale per row: the operand of a forward product.

    Exact wherever a block's exponent is at most 14 below the row's largest; `count_inexact` counts the rest.
    """
    _check_index(x.data, index)
    return backend_of(x.data).gather_mxfp4_to_fp8_rows(x, index)


def gather_mxfp4_to_fp8_columns(
    x: MxFp4Tensor, index: Int32[Tensor, "n"] | None, offsets: Int32[Tensor, "groups"]
) -> Fp8Tensor:
    """Rows of x in FP8, transposed, one scale per expert and channel: the activation operand of a weight gradient.

    The 32 channels of a block share their scale. Exact as `gather_mxfp4_to_fp8_rows` is, over the expert's rows.
    """
    _check_index(x.data, index)
    _check_groups(x.data, len(x.data) if index is None else len(index), offsets)
    return backend_of(x.data).gather_mxfp4_to_fp8_columns(x, index, offsets)


def count_inexact(
    x: MxFp4Tensor, index: Int32[Tensor, "n"] | None = None, offsets: Int32[Tensor, "groups"] | None = None
) -> tuple[Tensor, Tensor]:
    """Count what a gather to FP8 loses (columns where offsets are given): inexact elements, and nonzero ones.

    A debugging aid that costs many times the conversion; the two counts stay on the device.
    """
    return reference.count_inexact(x, index, offsets)


def gather_rows(x: BFloat16[Tensor, "rows channels"], index: Int32[Tensor, "n"]) -> BFloat16[Tensor, "n channels"]:
    """Rows of x by index."""
    _check_matrix("x", x, 8)
    _check_index(x, index)
    return backend_of(x).gather_rows(x, index)


def gather_fp8_rows(x: Fp8Tensor, index: Int32[Tensor, "n"]) -> Fp8Tensor:
    """Rows of a row- or tile-scaled x by index, with their scales."""
    _check_row_layout(x)
    _check_index(x.codes, index)
    return backend_of(x.codes).gather_fp8_rows(x, index)


def fp8_rows_to_columns(
    x: Fp8Tensor, offsets: Int32[Tensor, "groups"], index: Int32[Tensor, "n"] | None = None
) -> Fp8Tensor:
    """Row- or tile-scaled FP8, gathered where there is an index, transposed with one scale per expert and channel.

    No second quantization: each code's exponent drops by the gap between its scale and the expert's largest, and only
    what becomes subnormal is rounded (to nearest even). The channels under one scale of x share theirs in the result.
    """
    _check_row_layout(x)
    _check_index(x.codes, index)
    _check_groups(x.codes, len(x.codes) if index is None else len(index), offsets)
    return backend_of(x.codes).fp8_rows_to_columns(x, offsets, index)


def swiglu(z: Stored, probability: Float[Tensor, "rows"]) -> BFloat16[Tensor, "rows width"]:
    """silu(gate) * up * probability, with gate the first half of z's channels and up the second."""
    _check_swiglu(z, probability)
    return backend_of(probability).swiglu(z, probability)


def swiglu_fp8(
    z: Stored, probability: Float[Tensor, "rows"], rule: ScaleRule | None = None
) -> tuple[Fp8Tensor, MxFp4Tensor | None]:
    """`swiglu` in FP8 with one scale per row, and with a `rule` also in MXFP4, both rounded from the BF16 result."""
    _check_swiglu(z, probability, BLOCK if rule else _VECTOR)
    return backend_of(probability).swiglu_fp8(z, probability, rule)


def swiglu_backward(
    z: Stored, probability: Float[Tensor, "rows"], grad: BFloat16[Tensor, "rows width"]
) -> tuple[BFloat16[Tensor, "rows channels"], Float[Tensor, "rows"]]:
    """Gradients of `swiglu`: for z in BF16, and for the probability in FP32, summed in a fixed order."""
    _check_swiglu(z, probability, grad=grad)
    return backend_of(grad).swiglu_backward(z, probability, grad)


def swiglu_backward_fp8(
    z: Stored,
    probability: Float[Tensor, "rows"],
    grad: BFloat16[Tensor, "rows width"],
    offsets: Int32[Tensor, "groups"],
) -> tuple[Fp8Tensor, Fp8Tensor, Float[Tensor, "rows"]]:
    """`swiglu_backward` with z's gradient in FP8: scaled per row, and transposed, per expert and channel."""
    _check_swiglu(z, probability, grad=grad)
    _check_groups(grad, len(grad), offsets)
    return backend_of(grad).swiglu_backward_fp8(z, probability, grad, offsets)


def swiglu_fp8_keeping_z(
    z: BFloat16[Tensor, "rows channels"], probability: Float[Tensor, " rows"], rule: ScaleRule, keep: bool
) -> tuple[Fp8Tensor, MxFp4Tensor, MxFp4Tensor | None]:
    """`swiglu_fp8`, and z in MXFP4 from the same read; with `keep`, the result in MXFP4 too, by the same rule."""
    _check_swiglu(z, probability, BLOCK)
    return backend_of(probability).swiglu_fp8_keeping_z(z, probability, rule, keep)


def swiglu_backward_fp8_with_activation(
    z: Stored,
    probability: Float[Tensor, " rows"],
    grad: BFloat16[Tensor, "rows width"],
    offsets: Int32[Tensor, " groups"],
) -> tuple[Fp8Tensor, Fp8Tensor, Float[Tensor, " rows"], Fp8Tensor]:
    """`swiglu_backward_fp8`, and `swiglu_fp8`'s result transposed, from the same read of z."""
    _check_swiglu(z, probability, grad=grad)
    _check_groups(grad, len(grad), offsets)
    return backend_of(grad).swiglu_backward_fp8_with_activation(z, probability, grad, offsets)


def combine(
    rows: BFloat16[Tensor, "n channels"],
    inverse: Int32[Tensor, "tokens k"],
    weights: Float[Tensor, "tokens k"] | None = None,
) -> BFloat16[Tensor, "tokens channels"]:
    """The sum, weighted where there are weights, of each token's rows, in FP32 and in the order of `inverse`."""
    _check_matrix("rows", rows, 8)
    _check_index(rows, inverse)
    return backend_of(rows).combine(rows, inverse, weights)


def combine_backward(
    grad: BFloat16[Tensor, "tokens channels"],
    rows: BFloat16[Tensor, "n channels"],
    token: Int32[Tensor, "n"],
    row_weights: Float[Tensor, "n"],
) -> tuple[BFloat16[Tensor, "n channels"], Float[Tensor, "n"]]:
    """Gradients of a weighted `combine` for its rows and their weights; `token` and `row_weights` belong to each row.

    Without weights the gradient for the rows is `gather_rows(grad, token)`.
    """
    _check_matrix("grad", grad, 8)
    _check_index(grad, token)
    return backend_of(grad).combine_backward(grad, rows, token, row_weights)


def backend_of(x: Tensor) -> ModuleType:
    """Where x's device runs an operation: the kernels on Hopper, the reference elsewhere."""
    return _backend_of(x.device)


@cache
def _backend_of(device: torch.device) -> ModuleType:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != (9, 0):
        return reference
    from pauca.moe.ops import kernels  # imports Triton, which exists on Linux alone

    return kernels


def _check_width(name: str, channels: int, multiple: int) -> None:
    if channels == 0 or channels % multiple:
        raise InputError(f"{name} has {channels} channels; a multiple of {multiple} is needed: pad the last dimension")


def _check_matrix(name: str, x: Tensor, multiple: int, float32: bool = False) -> None:
    right_type = x.dtype == torch.bfloat16 or (float32 and x.dtype == torch.float32)
    if x.ndim != 2 or not right_type or not x.is_contiguous():
        types = "BF16 or FP32" if float32 else "BF16"
        raise InputError(
            f"{name} must be a contiguous {types} matrix, got {x.dtype} {tuple(x.shape)} strides {x.stride()}"
        )
    _check_width(name, x.shape[1], multiple)


def _check_row_layout(x: Fp8Tensor) -> None:
    if x.layout is not Layout.ROW:
        raise InputError("an FP8 tensor in row layout (row or tile scales) is needed, got column layout (group scales)")
    _check_width("x", x.shape[1], _VECTOR)


def _check_index(source: Tensor, index: Tensor | None) -> None:
    if index is not None and (index.dtype != torch.int32 or index.device != source.device or not index.is_contiguous()):
        raise InputError(f"the index must be contiguous int32 on {source.device}, got {index.dtype} on {index.device}")


def _check_groups(source: Tensor, rows: int, offsets: Tensor) -> None:
    if offsets.dtype != torch.int32 or offsets.device != source.device or offsets.ndim != 1:
        raise InputError(
            f"offsets must be a vector of int32 on {source.device}, got {offsets.dtype} on {offsets.device}"
        )
    if rows % GROUP_ROWS:
        raise InputError(f"{rows} rows in groups: pad to a multiple of {GROUP_ROWS}, as each group must be")


def _check_swiglu(z: Stored, probability: Tensor, multiple: int = _VECTOR, grad: Tensor | None = None) -> None:
    rows, channels = z.shape
    if isinstance(z, Tensor):
        _check_matrix("z", z, 2 * multiple)
    elif isinstance(z, Fp8Tensor) and z.granularity is not Granularity.ROW:
        raise InputError(f"z in FP8 must have one scale per row, got {z.granularity} scales")
    _check_width("z", channels, 2 * (BLOCK if isinstance(z, MxFp4Tensor) else multiple))
    if probability.shape != (rows,) or probability.dtype != torch.float32:
        raise InputError(
            f"the probability must be FP32 of shape {(rows,)}, got {probability.dtype} {tuple(probability.shape)}"
        )
    if grad is not None and (grad.shape != (rows, channels // 2) or grad.dtype != torch.bfloat16):
        raise InputError(
            f"the gradient must be BF16 of shape {(rows, channels // 2)}, got {grad.dtype} {tuple(grad.shape)}"
        )
