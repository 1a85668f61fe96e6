"""BF16 rows to MXFP4, or to FP8 with one scale per row or per 1x128 tile; to FP8 also from FP32, rounded on its way.

Moves 2 bytes (4 of FP32) in and 17/32 (MXFP4) or 1 (FP8) out per element.
"""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from pauca.moe.ops.formats import TILE, Fp8Tensor, Granularity, MxFp4Tensor, ScaleRule
from pauca.moe.ops.kernels import bits
from pauca.moe.ops.kernels.bits import carry, next_power_of_two
from pauca.moe.ops.kernels.from_floats import fp8_scale_byte, infinity_to_nan, largest_finite, to_e4m3, to_mxfp4

# Channels a program takes to MXFP4. Of 1024 and 2048, with 16 or 32 channels a thread: 93 % of the copy rate on an
# H100, the others 73 to 82 %.
_WIDTH, _WARPS = 1024, 2


@triton.jit
def load_bfloat16(pointer, mask):
    """BF16 as FP32, through its bits: the interpreter has no BF16 arithmetic to rely on."""
    bits = tl.load(pointer.to(tl.pointer_type(tl.int16)), mask, other=0)
    return (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def quantize_mxfp4_kernel(
    x,  # bf16 [rows, channels]
    out,  # uint8 [rows, row_bytes]
    channels,
    row_bytes,
    CARRY: tl.constexpr,
    SATURATE: tl.constexpr,
    BEST: tl.constexpr,
    WIDTH: tl.constexpr,
    PTX: tl.constexpr,
):
    row, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * WIDTH
    channel = start + tl.arange(0, WIDTH)
    packed, scales = to_mxfp4(
        load_bfloat16(x + row * channels + channel, channel < channels), CARRY, SATURATE, BEST, WIDTH, PTX
    )
    store_mxfp4(out + row * row_bytes, packed, scales, start, channels, WIDTH)


@triton.jit
def store_mxfp4(row, packed, scales, start, channels, WIDTH: tl.constexpr):
    """Codes and scale bytes of WIDTH channels from `start` into a row of an `MxFp4Tensor`."""
    code = start // 2 + tl.arange(0, WIDTH // 2)
    tl.store(row + code, packed, code < channels // 2)
    block = start // 32 + tl.arange(0, WIDTH // 32)
    tl.store(row + channels // 2 + block, scales, block < channels // 32)


@triton.jit
def quantize_fp8_kernel(
    x,  # bf16 or fp32 [rows, channels]
    codes,  # uint8 [rows, channels]
    scales,  # uint8 [rows, scales_per_row]
    channels,
    scales_per_row,
    FP32: tl.constexpr,  # x is FP32, and rounded to BF16 on its way
    WIDTH: tl.constexpr,  # channels under one scale, rounded up to a power of two
    TILES: tl.constexpr,  # scales a program finds
):
    row = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1) * TILES + tl.arange(0, TILES)
    channel = tile[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    if FP32:
        values = tl.load(x + row * channels + channel, channel < channels, other=0).to(tl.bfloat16).to(tl.float32)
    else:
        values = load_bfloat16(x + row * channels + channel, channel < channels)
    byte = fp8_scale_byte(tl.max(largest_finite(values), 1))
    tl.store(codes + row * channels + channel, to_e4m3(infinity_to_nan(values), byte[:, None]), channel < channels)
    tl.store(scales + row * scales_per_row + tile, byte.to(tl.uint8), tile < scales_per_row)


def quantize_mxfp4(x: Tensor, rule: ScaleRule) -> MxFp4Tensor:
    rows, channels = x.shape
    out = MxFp4Tensor.empty(rows, channels, x.device)
    if rows:
        quantize_mxfp4_kernel[(rows, triton.cdiv(channels, _WIDTH))](
            x,
            out.data,
            channels,
            out.data.shape[1],
            **rule_arguments(rule),
            WIDTH=_WIDTH,
            PTX=bits.PTX,
            num_warps=_WARPS,
        )
    return out


def rule_arguments(rule: ScaleRule) -> dict[str, int]:
    """What `to_mxfp4` needs to know of a scale rule."""
    return {
        "CARRY": carry(rule, 7),
        "SATURATE": rule in (ScaleRule.FLOOR, ScaleRule.BEST),
        "BEST": rule is ScaleRule.BEST,
    }


def empty_fp8_rows(rows: int, channels: int, device: torch.device) -> Fp8Tensor:
    """Uninitialized FP8 in row layout with one scale per row."""
    codes = torch.empty(rows, channels, dtype=torch.uint8, device=device)
    return Fp8Tensor(codes, torch.empty(rows, dtype=torch.uint8, device=device), Granularity.ROW)


def _quantize_fp8(x: Tensor, out: Fp8Tensor, width: int, tiles: int) -> Fp8Tensor:
    rows, channels = x.shape
    if rows:
        quantize_fp8_kernel[(rows, triton.cdiv(channels, width * tiles))](
            x,
            out.codes,
            out.scales,
            channels,
            out.scales[0].numel(),
            FP32=x.dtype == torch.float32,
            WIDTH=width,
            TILES=tiles,
            num_warps=warps_for(width * tiles),
        )
    return out


def warps_for(width: int) -> int:
    """Sixteen elements a thread: two 16-byte loads of BF16 under way, and few enough registers."""
    return max(1, min(16, width // 512))


def quantize_fp8_rowwise(x: Tensor) -> Fp8Tensor:
    return _quantize_fp8(x, empty_fp8_rows(*x.shape, x.device), next_power_of_two(x.shape[1]), 1)


def quantize_fp8_tilewise(x: Tensor) -> Fp8Tensor:
    rows, channels = x.shape
    codes = torch.empty(rows, channels, dtype=torch.uint8, device=x.device)
    scales = torch.empty(rows, triton.cdiv(channels, TILE), dtype=torch.uint8, device=x.device)
    return _quantize_fp8(x, Fp8Tensor(codes, scales, Granularity.TILE), TILE, _WIDTH // TILE)
