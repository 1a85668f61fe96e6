"""Gather MXFP4 rows and transpose them to FP8 with one scale per expert and channel.

Moves 17/32 byte in and 1 out per element. A block's codes are looked up for the expert's largest exponent; then bytes
are transposed four by four in registers and leave as 16 consecutive rows of a channel.
"""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from pauca.moe.ops.formats import BLOCK, GROUP_ROWS, Fp8Tensor, Granularity, MxFp4Tensor
from pauca.moe.ops.kernels import bits
from pauca.moe.ops.kernels.bits import (
    NAN_BYTE,
    NAN_WORD,
    e2m1x8_to_e4m3,
    e4m3_table,
    group_of_rows,
    next_power_of_two,
    transpose_bytes_4x4,
)
from pauca.moe.ops.kernels.group_maximum import group_maximum

# 128 bytes in from each row, 64 bytes out to each channel: small programs, so that many wait for memory at once
# (164 us on an H100 at DeepSeek-V3's shape, 180 with twice the rows, 177 with twice the blocks).
_ROWS, _BLOCKS = 64, 8


@triton.jit
def _as_e4m3(
    source,
    index,
    row,  # [lanes]
    block,  # [lanes]
    largest,  # [lanes]
    exists,  # [lanes] there is such a row and block
    grouped,  # [lanes] and it belongs to a group
    source_rows,
    blocks,
    row_words,
    HAS_INDEX: tl.constexpr,
    PTX: tl.constexpr,
):
    """One block a lane: words of channels 0 to 3, and words of channels 4 to 7, of every eight.

    The loads wait for the index alone; finding the group, its largest scale and the tables happens meanwhile.
    """
    taken = tl.load(index + row, exists, other=-1) if HAS_INDEX else row
    present = exists & (taken >= 0) & (taken < source_rows)
    start = source + taken.to(tl.int64) * row_words
    nibbles = tl.load((start + block * 4)[:, None] + tl.arange(0, 4)[None, :], present[:, None], other=0)
    byte = tl.load((start + blocks * 4).to(tl.pointer_type(tl.uint8)) + block, present, other=0).to(tl.int32)
    low, high = e4m3_table(largest - byte)
    first, second = e2m1x8_to_e4m3(nibbles, low[:, None], high[:, None], PTX)
    numbers = (grouped & (byte != NAN_BYTE))[:, None]
    otherwise = tl.where(grouped, NAN_WORD, 0)[:, None]
    return tl.where(numbers, first, otherwise), tl.where(numbers, second, otherwise)


@triton.jit
def gather_mxfp4_to_fp8_columns_kernel(
    source,  # int32 [source_rows, row_words]
    index,  # int32 [rows]
    offsets,  # int32 [groups]
    largest,  # int32 [groups, blocks]
    out,  # int32 [channels, rows / 4]
    out_scales,  # uint8 [groups, channels]
    source_rows,
    sixteens,  # rows / 16
    blocks,
    row_words,
    groups,
    HAS_INDEX: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
    PTX: tl.constexpr,
):
    first_row = tl.program_id(1) * ROWS
    first_block = tl.program_id(0) * BLOCKS
    lane = tl.arange(0, ROWS // 4 * BLOCKS)
    row = first_row + 4 * (lane // BLOCKS)  # the first of four, which share a group
    block = first_block + lane % BLOCKS
    exists = (row < sixteens * 16) & (block < blocks)
    group = group_of_rows(offsets, row, groups, GROUPS)
    grouped = exists & (group < groups)
    target = tl.maximum(tl.load(largest + group * blocks + block, grouped, other=0), 6)

    a, e = _as_e4m3(source, index, row, block, target, exists, grouped, source_rows, blocks, row_words, HAS_INDEX, PTX)
    b, f = _as_e4m3(
        source, index, row + 1, block, target, exists, grouped, source_rows, blocks, row_words, HAS_INDEX, PTX
    )
    c, g = _as_e4m3(
        source, index, row + 2, block, target, exists, grouped, source_rows, blocks, row_words, HAS_INDEX, PTX
    )
    d, h = _as_e4m3(
        source, index, row + 3, block, target, exists, grouped, source_rows, blocks, row_words, HAS_INDEX, PTX
    )
    a, b, c, d = transpose_bytes_4x4(a, b, c, d, PTX)
    e, f, g, h = transpose_bytes_4x4(e, f, g, h, PTX)
    # [lanes, 4 words, channel bits 0, 1, 2] to [channels, quads]: one exchange through shared memory.
    eight = tl.join(tl.join(tl.join(a, b), tl.join(c, d)), tl.join(tl.join(e, f), tl.join(g, h)))
    eight = eight.reshape(ROWS // 4, BLOCKS * 4, 2, 2, 2).trans(1, 4, 3, 2, 0).reshape(BLOCKS * 32, ROWS // 4)

    channel = first_block * 32 + tl.arange(0, BLOCKS * 32)
    position = (first_row // 4 + tl.arange(0, ROWS // 4))[None, :]
    inside = (channel < blocks * 32)[:, None] & (position < sixteens * 4)
    tl.store(out + channel.to(tl.int64)[:, None] * (sixteens * 4) + position, eight, inside)

    each = tl.program_id(1)
    while each < groups:
        byte = tl.load(largest + each * blocks + channel // 32, channel < blocks * 32, other=0)
        byte = tl.maximum(byte - 6, 0).to(tl.uint8)
        tl.store(out_scales + each * blocks * 32 + channel, byte, channel < blocks * 32)
        each += tl.num_programs(1)


def gather_mxfp4_to_fp8_columns(x: MxFp4Tensor, index: Tensor | None, offsets: Tensor) -> Fp8Tensor:
    source_rows, channels = x.shape
    rows, groups, blocks = source_rows if index is None else len(index), len(offsets), channels // BLOCK
    out = torch.empty(channels, rows, dtype=torch.uint8, device=x.data.device)
    out_scales = torch.empty(groups, channels, dtype=torch.uint8, device=x.data.device)
    largest = group_maximum(x.scales, index, offsets)
    gather_mxfp4_to_fp8_columns_kernel[(triton.cdiv(blocks, _BLOCKS), max(1, triton.cdiv(rows, _ROWS)))](
        x.data.view(torch.int32),
        index,
        offsets,
        largest,
        out.view(torch.int32),
        out_scales,
        source_rows,
        rows // GROUP_ROWS,
        blocks,
        x.data.shape[1] // 4,
        groups,
        HAS_INDEX=index is not None,
        GROUPS=next_power_of_two(groups),
        ROWS=_ROWS,
        BLOCKS=_BLOCKS,
        PTX=bits.PTX,
        num_warps=_ROWS // 4 * _BLOCKS // 32,
    )
    return Fp8Tensor(out, out_scales, Granularity.GROUP, offsets)
