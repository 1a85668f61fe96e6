"""Gather FP8 rows and transpose them to one scale per expert and channel, by shifting exponents.

Moves 1 byte in and 1 out per element. Bytes are transposed four by four in registers, so that what crosses shared
memory is 32-bit words, and leave as 16 consecutive rows of a channel.
"""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from pauca.moe.ops.formats import GROUP_ROWS, TILE, Fp8Tensor, Granularity
from pauca.moe.ops.kernels import bits
from pauca.moe.ops.kernels.bits import (
    NAN_BYTE,
    group_of_rows,
    lower_e4m3x4,
    lowering_factor,
    next_power_of_two,
    transpose_bytes_4x4,
)
from pauca.moe.ops.kernels.group_maximum import group_maximum

# Rows a program turns into 256 consecutive bytes of each of 128 channels (173 us on an H100 at DeepSeek-V3's shape; 180
# with half the rows or half the warps).
_ROWS, _WARPS = 256, 8


@triton.jit
def _lowered(
    codes,  # int32, at the tile's words
    scales,  # at the tile's scale
    index,
    row,  # [quads]
    largest,  # [quads]
    present,  # [quads]
    inside,  # [words]
    source_rows,
    words,
    scales_per_row,
    HAS_INDEX: tl.constexpr,
    PTX: tl.constexpr,
):
    """Words of one row in four, already at the group's scale; zeros where there is no such row."""
    taken = tl.load(index + row, present, other=-1) if HAS_INDEX else row
    present = present & (taken >= 0) & (taken < source_rows)
    taken = taken.to(tl.int64)
    scale = tl.load(scales + taken * scales_per_row, present, other=0).to(tl.int32)
    factor = lowering_factor(largest - scale, scale == NAN_BYTE)
    loaded = tl.load(codes + taken[:, None] * words, present[:, None] & inside, other=0)
    return lower_e4m3x4(loaded, factor[:, None], PTX)


@triton.jit
def fp8_rows_to_columns_kernel(
    codes,  # int32 [source_rows, channels / 4]
    scales,  # uint8 [source_rows, scales_per_row]
    index,  # int32 [rows]
    offsets,  # int32 [groups]
    largest,  # int32 [groups, scales_per_row]
    out,  # int32 [channels, rows / 4]
    out_scales,  # uint8 [groups, channels]
    source_rows,
    sixteens,  # rows / 16
    channels,
    groups,
    scales_per_row,
    HAS_INDEX: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    PTX: tl.constexpr,
):
    first_row = tl.program_id(1) * ROWS
    tile = tl.program_id(0)
    scale_column = tl.minimum(tile, scales_per_row - 1)
    quad = tl.arange(0, ROWS // 4)
    row = first_row + 4 * quad  # of the first row of four, which share a group
    group = group_of_rows(offsets, row, groups, GROUPS)
    present = group < groups
    target = tl.load(largest + group * scales_per_row + scale_column, present, other=0)
    word, words = (tile * (TILE // 4) + tl.arange(0, TILE // 4))[None, :], channels // 4
    inside = word < words
    codes, scales = codes + word, scales + scale_column

    a = _lowered(codes, scales, index, row, target, present, inside, source_rows, words, scales_per_row, HAS_INDEX, PTX)
    b = _lowered(
        codes, scales, index, row + 1, target, present, inside, source_rows, words, scales_per_row, HAS_INDEX, PTX
    )
    c = _lowered(
        codes, scales, index, row + 2, target, present, inside, source_rows, words, scales_per_row, HAS_INDEX, PTX
    )
    d = _lowered(
        codes, scales, index, row + 3, target, present, inside, source_rows, words, scales_per_row, HAS_INDEX, PTX
    )
    a, b, c, d = transpose_bytes_4x4(a, b, c, d, PTX)

    # [quads, words, channel bits 0, 1] to [channels, quads]: one exchange through shared memory.
    four = tl.join(tl.join(a, b), tl.join(c, d)).trans(1, 3, 2, 0).reshape(TILE, ROWS // 4)

    channel = tile * TILE + tl.arange(0, TILE)
    position = (first_row // 4 + quad)[None, :]
    written = (channel < channels)[:, None] & (position < sixteens * 4)
    tl.store(out + channel.to(tl.int64)[:, None] * (sixteens * 4) + position, four, written)

    each = tl.program_id(1)
    while each < groups:
        byte = tl.load(largest + each * scales_per_row + scale_column)
        tl.store(out_scales + each * channels + channel, byte.to(tl.uint8), channel < channels)
        each += tl.num_programs(1)


def fp8_rows_to_columns(x: Fp8Tensor, offsets: Tensor, index: Tensor | None = None) -> Fp8Tensor:
    source_rows, channels = x.shape
    rows, groups = source_rows if index is None else len(index), len(offsets)
    scales = x.scales.unflatten(0, (-1, 1)) if x.granularity is Granularity.ROW else x.scales
    out = torch.empty(channels, rows, dtype=torch.uint8, device=x.codes.device)
    out_scales = torch.empty(groups, channels, dtype=torch.uint8, device=x.codes.device)
    largest = group_maximum(scales, index, offsets)
    fp8_rows_to_columns_kernel[(triton.cdiv(channels, TILE), max(1, triton.cdiv(rows, _ROWS)))](
        x.codes.view(torch.int32),
        scales,
        index,
        offsets,
        largest,
        out.view(torch.int32),
        out_scales,
        source_rows,
        rows // GROUP_ROWS,
        channels,
        groups,
        scales.shape[1],
        HAS_INDEX=index is not None,
        GROUPS=next_power_of_two(groups),
        ROWS=_ROWS,
        TILE=TILE,
        PTX=bits.PTX,
        num_warps=_WARPS,
    )
    return Fp8Tensor(out, out_scales, Granularity.GROUP, offsets)
