"""FP8 (one scale per row or per 1x128 tile) to MXFP4, from code to code.

Moves 1 byte in and 17/32 out per element.
"""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl

from pauca.moe.ops.formats import BLOCK, TILE, Fp8Tensor, Granularity, MxFp4Tensor, ScaleRule
from pauca.moe.ops.kernels import bits
from pauca.moe.ops.kernels.bits import (
    NAN_BYTE,
    carry,
    clamp_halves,
    e4m3x8_to_halves,
    error_changes,
    half_factor,
    halves_to_e2m1x8,
    largest_half,
    scale_halves,
    signs_to_nibbles,
)

_ROWS, _BLOCKS = 4, 32  # one block of 32 a thread of 4 warps: its maximum and its packing stay in registers


@triton.jit
def _scale_four(a, b, c, d, factor, PTX: tl.constexpr):
    return (
        scale_halves(a, factor, PTX),
        scale_halves(b, factor, PTX),
        scale_halves(c, factor, PTX),
        scale_halves(d, factor, PTX),
    )


@triton.jit
def _clamp_four(a, b, c, d, PTX: tl.constexpr):
    return clamp_halves(a, PTX), clamp_halves(b, PTX), clamp_halves(c, PTX), clamp_halves(d, PTX)


@triton.jit
def fp8_to_mxfp4_kernel(
    codes,  # int32 [rows, channels / 4]
    scales,  # uint8 [rows, scales_per_row]
    out,  # int32 [rows, row_words]
    rows,
    blocks,
    row_words,
    scales_per_row,
    CARRY: tl.constexpr,
    SATURATE: tl.constexpr,  # the largest magnitude may lie above 6
    BEST: tl.constexpr,
    BLOCKS_PER_SCALE: tl.constexpr,  # 0: the whole row
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
    PTX: tl.constexpr,
):
    first_row = tl.program_id(0) * ROWS
    codes += first_row.to(tl.int64) * blocks * 8
    scales += first_row.to(tl.int64) * scales_per_row
    out += first_row.to(tl.int64) * row_words
    lane = tl.arange(0, ROWS * BLOCKS)
    row, block = lane // BLOCKS, tl.program_id(1) * BLOCKS + lane % BLOCKS
    inside = (row < rows - first_row) & (block < blocks)
    word = tl.arange(0, 4)[None, :]
    source = codes + ((row * blocks + block) * 8)[:, None] + word
    loaded_a = tl.load(source, inside[:, None], other=0)
    loaded_b = tl.load(source + 4, inside[:, None], other=0)
    scale_column = block // BLOCKS_PER_SCALE if BLOCKS_PER_SCALE else 0
    scale = tl.load(scales + row * scales_per_row + scale_column, inside, other=0).to(tl.int32)

    first_a, second_a = tl.split(loaded_a.reshape(ROWS * BLOCKS, 2, 2))
    first_b, second_b = tl.split(loaded_b.reshape(ROWS * BLOCKS, 2, 2))
    a0, a1, a2, a3 = e4m3x8_to_halves(first_a, second_a, PTX)
    b0, b1, b2, b3 = e4m3x8_to_halves(first_b, second_b, PTX)
    largest = tl.max(tl.maximum(largest_half(a0, a1, a2, a3, PTX), largest_half(b0, b1, b2, b3, PTX)), 1)
    exponent = ((largest + CARRY) >> 10) - 17  # binary16's bias is 15, E2M1's largest exponent 2
    byte = tl.maximum(exponent + scale, 0)
    factor = half_factor(byte - scale)[:, None]
    a0, a1, a2, a3 = _scale_four(a0, a1, a2, a3, factor, PTX)
    b0, b1, b2, b3 = _scale_four(b0, b1, b2, b3, factor, PTX)
    if BEST:
        change = error_changes(a0) + error_changes(a1) + error_changes(a2) + error_changes(a3)
        change += error_changes(b0) + error_changes(b1) + error_changes(b2) + error_changes(b3)
        larger = (tl.sum(change, 1) < 0) & (byte < 254)
        byte += larger.to(tl.int32)
        factor = tl.where(larger, 0x3800, 0x3C00)[:, None]  # one half, or one
        a0, a1, a2, a3 = _scale_four(a0, a1, a2, a3, factor, PTX)
        b0, b1, b2, b3 = _scale_four(b0, b1, b2, b3, factor, PTX)
    if SATURATE:
        a0, a1, a2, a3 = _clamp_four(a0, a1, a2, a3, PTX)
        b0, b1, b2, b3 = _clamp_four(b0, b1, b2, b3, PTX)
    packed_a = halves_to_e2m1x8(a0, a1, a2, a3, signs_to_nibbles(first_a, second_a, PTX))
    packed_b = halves_to_e2m1x8(b0, b1, b2, b3, signs_to_nibbles(first_b, second_b, PTX))
    packed = tl.join(packed_a, packed_b).trans(0, 2, 1).reshape(ROWS * BLOCKS, 4)
    bad = (largest > 0x7C00) | (scale == NAN_BYTE) | (byte > 254)
    byte = tl.where(bad, NAN_BYTE, tl.where(largest == 0, 0, byte))
    packed = tl.where((bad | (largest == 0))[:, None], 0, packed)

    tl.store(out + (row * row_words + block * 4)[:, None] + word, packed, inside[:, None])
    scale_bytes = (out + blocks * 4).to(tl.pointer_type(tl.uint8))
    tl.store(scale_bytes + (row * (row_words * 4) + block), byte.to(tl.uint8), inside)


def fp8_to_mxfp4(x: Fp8Tensor, rule: ScaleRule) -> MxFp4Tensor:
    rows, channels = x.shape
    out = MxFp4Tensor.empty(rows, channels, x.codes.device)
    blocks = channels // BLOCK
    by_tile = x.granularity is Granularity.TILE
    fp8_to_mxfp4_kernel[(max(1, triton.cdiv(rows, _ROWS)), triton.cdiv(blocks, _BLOCKS))](
        x.codes.view(torch.int32),
        x.scales,
        out.data.view(torch.int32),
        rows,
        blocks,
        out.data.shape[1] // 4,
        x.scales.shape[1] if by_tile else 1,
        CARRY=carry(rule, 10),
        SATURATE=rule in (ScaleRule.FLOOR, ScaleRule.BEST),
        BEST=rule is ScaleRule.BEST,
        BLOCKS_PER_SCALE=TILE // BLOCK if by_tile else 0,
        ROWS=_ROWS,
        BLOCKS=_BLOCKS,
        PTX=bits.PTX,
    )
    return out
