"""Matrix products: each expert's rows with its own weights, in BF16 or FP8; and one matrix with another in FP8.

FP8 operands carry one scale per row of A and per row of B (the outer dimensions), applied to the finished sum; the
product itself is then as fast as an unscaled one. On Hopper these are torch's grouped products. Elsewhere (a CPU) the
operands are decoded and multiplied in FP32: other roundings of the sum, the same quantization.

Group ends (`offsets`) stay on the device. Rows of a result beyond `offsets[-1]` are not written on a GPU; the CPU path
fills them with NaN, so that a reader of them does not go unnoticed in a test.
"""

import torch
from jaxtyping import Float, Float8e4m3fn, Int32
from torch import Tensor

from pauca.errors import DeviceError


def require_fp8(device: torch.device) -> None:
    """Raise unless FP8 products run on this device: a Hopper GPU, or a CPU (which imitates them slowly)."""
    if device.type == "cpu" or _is_hopper(device):
        return
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    raise DeviceError(f"fp8 and fp4 recipes need a Hopper GPU (compute capability 9.0) or a CPU, not {name}; use bf16")


def _is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def rows_by_weights(
    rows: Float[Tensor, "rows k"], weights: Float[Tensor, "experts k n"], offsets: Int32[Tensor, " experts"]
) -> Float[Tensor, "rows n"]:
    """Each expert's rows times its matrix, in BF16 with FP32 sums (forward, and gradient of the input)."""
    if rows.device.type == "cuda":
        return torch.nn.functional.grouped_mm(rows, weights, offs=offsets)
    return _rows_by_weights(rows, weights, offsets)


def columns_by_columns(
    a: Float[Tensor, "m rows"], b: Float[Tensor, "n rows"], offsets: Int32[Tensor, " experts"]
) -> Float[Tensor, "experts m n"]:
    """For each expert A B^T over its rows, in BF16 with FP32 sums (gradient of the weights). Zero where it has none.

    BF16 out, as torch's grouped products give nothing else; the sum of a lone expert's pieces stays in FP32.
    """
    if a.device.type == "cuda":
        if pieces := _pieces_of_one(len(a), len(b), b.shape[1], len(offsets)):
            return _sum(columns_by_columns(a, b, _split(offsets, pieces)))
        return torch.nn.functional.grouped_mm(a, b.t(), offs=offsets)
    return _columns_by_columns(a, b, offsets)


def fp8_rows_by_weights(
    rows: Float8e4m3fn[Tensor, "rows k"],
    row_scales: Float[Tensor, " rows"],
    weights: Float8e4m3fn[Tensor, "experts n k"],
    weight_scales: Float[Tensor, "experts n"],
    offsets: Int32[Tensor, " experts"],
    fast_accumulate: bool,
) -> Float[Tensor, "rows n"]:
    """Each expert's rows times its transposed matrix, both contiguous along k. BF16 out.

    Args:
        fast_accumulate: keep sums in the tensor core's narrower accumulator instead of adding them up in FP32 as they
            come; up to a fifth faster, and less exact for long k.
    """
    if _is_hopper(rows.device):
        return torch.ops.aten._scaled_grouped_mm(
            rows,
            weights.transpose(1, 2),
            row_scales,
            weight_scales,
            offs=offsets,
            out_dtype=torch.bfloat16,
            use_fast_accum=fast_accumulate,
        )
    weights = weights.float() * weight_scales[..., None]
    return _rows_by_weights(rows.float() * row_scales[:, None], weights.transpose(1, 2), offsets).bfloat16()


def fp8_columns_by_columns(
    a: Float8e4m3fn[Tensor, "m rows"],
    a_scales: Float[Tensor, "experts m"],
    b: Float8e4m3fn[Tensor, "n rows"],
    b_scales: Float[Tensor, "experts n"],
    offsets: Int32[Tensor, " experts"],
    fast_accumulate: bool,
) -> Float[Tensor, "experts m n"]:
    """For each expert A B^T over its rows, both contiguous along the rows. Zero where it has no rows.

    BF16 out, as torch's grouped products give nothing else; the sum of a lone expert's pieces stays in FP32.
    """
    if _is_hopper(a.device):
        if pieces := _pieces_of_one(len(a), len(b), b.shape[1], len(offsets)):
            scales = [scale.expand(pieces, -1) for scale in (a_scales, b_scales)]
            parts = fp8_columns_by_columns(a, scales[0], b, scales[1], _split(offsets, pieces), fast_accumulate)
            return _sum(parts)
        return torch.ops.aten._scaled_grouped_mm(
            a,
            b.t(),
            a_scales.reshape(-1),
            b_scales.reshape(-1),
            offs=offsets,
            out_dtype=torch.bfloat16,
            use_fast_accum=fast_accumulate,
        )
    result = _columns_by_columns(a.float(), b.float(), offsets)
    return (result * a_scales[:, :, None] * b_scales[:, None, :]).bfloat16()


def fp8_product(
    a: Float8e4m3fn[Tensor, "m k"],
    a_scales: Float[Tensor, " m"],
    b: Float8e4m3fn[Tensor, "n k"],
    b_scales: Float[Tensor, " n"],
    fast_accumulate: bool,
) -> Float[Tensor, "m n"]:
    """A B^T of two matrices, both contiguous along k, a multiple of 16 as n is. BF16 out."""
    if _is_hopper(a.device):
        return torch.ops.aten._scaled_mm(
            a, b.t(), a_scales[:, None], b_scales[None], out_dtype=torch.bfloat16, use_fast_accum=fast_accumulate
        )
    return ((a.float() @ b.float().t()) * a_scales[:, None] * b_scales).bfloat16()


_MULTIPROCESSORS = 132  # of an H100 and an H200
_ROWS_OF_A_PIECE = 512  # at least: below, a piece's result costs more to write and read than its product


def _pieces_of_one(m: int, n: int, rows: int, experts: int) -> int:
    """Into how many pieces to cut the rows of a lone expert, whose gradient has few tiles; 0: none.

    A grouped product gives each tile of a result to one multiprocessor, which sums over all rows: of a shared expert of
    width 512 on 512 channels, 8 to 16 of 132 work. In a training of `base` the gradients of weights took 11.1 ms a step
    on an H200, where as many operations of the forward took 3.7.
    """
    tiles = -(-m // 128) * -(-n // 128)
    if experts != 1 or tiles >= _MULTIPROCESSORS:
        return 0
    pieces = min(rows // _ROWS_OF_A_PIECE, -(-2 * _MULTIPROCESSORS // tiles))
    return pieces if pieces > 1 else 0


def _split(offsets: Int32[Tensor, " one"], pieces: int) -> Int32[Tensor, " pieces"]:
    """Ends of nearly equal pieces of the rows of one expert, of multiples of 32 rows but for the last."""
    shares = torch.arange(1, pieces + 1, device=offsets.device)
    ends = offsets.long() * shares // pieces // 32 * 32
    return torch.where(shares == pieces, offsets.long(), ends).int()


def _sum(parts: Float[Tensor, "pieces m n"]) -> Float[Tensor, "1 m n"]:
    return parts.sum(0, keepdim=True, dtype=torch.float32)


def _rows_by_weights(rows: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    result = rows.new_full((rows.shape[0], weights.shape[2]), float("nan"))
    for expert, group in enumerate(_groups(offsets)):
        result[group] = _wide(rows[group]) @ _wide(weights[expert])
    return result


def _columns_by_columns(a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
    groups = _groups(offsets)
    result = a.new_empty(len(groups), a.shape[0], b.shape[0])
    for expert, group in enumerate(groups):
        result[expert] = _wide(a[:, group]) @ _wide(b[:, group]).t()
    return result


def _wide(operand: Tensor) -> Tensor:
    return operand.float() if operand.dtype == torch.bfloat16 else operand


def _groups(offsets: Tensor) -> list[slice]:
    ends = offsets.tolist()
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
