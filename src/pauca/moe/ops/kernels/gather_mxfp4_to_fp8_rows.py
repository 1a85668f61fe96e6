"""Gather MXFP4 rows and turn them into FP8 with one scale per row.

Moves 17/32 byte in and 1 out per element, and 5 bytes per row.
"""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from pauca.moe.ops.formats import BLOCK, Fp8Tensor, Granularity, MxFp4Tensor
from pauca.moe.ops.kernels import bits
from pauca.moe.ops.kernels.bits import NAN_BYTE, NAN_WORD, e2m1x8_to_e4m3, e4m3_table, next_power_of_two


@triton.jit
def gather_mxfp4_to_fp8_rows_kernel(
    source,  # int32 [source_rows, row_words]
    index,  # int32 [rows]
    codes,  # int32 [rows, blocks * 8]
    scales,  # uint8 [rows]
    source_rows,
    blocks,
    row_words,
    HAS_INDEX: tl.constexpr,
    BLOCKS: tl.constexpr,
    PTX: tl.constexpr,
):
    """One program a row, one thread a block of 32: 16 bytes in, 32 out, and no exchange but the row's maximum."""
    row = tl.program_id(0).to(tl.int64)
    taken = tl.load(index + row).to(tl.int64) if HAS_INDEX else row
    exists = (taken >= 0) & (taken < source_rows)
    source += taken * row_words
    block = tl.arange(0, BLOCKS)
    word = tl.arange(0, 4)[None, :]
    inside = block < blocks
    present = inside & exists
    nibbles = tl.load(source + block[:, None] * 4 + word, present[:, None], other=0)
    byte = tl.load((source + blocks * 4).to(tl.pointer_type(tl.uint8)) + block, present, other=0).to(tl.int32)

    bad = byte == NAN_BYTE
    largest = tl.maximum(tl.max(tl.where(bad, 0, byte), 0), 6)
    low, high = e4m3_table(largest - byte)
    first, second = e2m1x8_to_e4m3(nibbles, low[:, None], high[:, None], PTX)
    first = tl.where(bad[:, None], NAN_WORD, first)
    second = tl.where(bad[:, None], NAN_WORD, second)

    # Words alternate between `first` and `second`; a thread's eight are two 16-byte pieces.
    pairs = tl.join(first, second).reshape(BLOCKS, 2, 4).trans(0, 2, 1)
    front, back = tl.split(pairs)
    target = codes + row * (blocks * 8) + block[:, None] * 8 + word
    tl.store(target, front, inside[:, None])
    tl.store(target + 4, back, inside[:, None])
    tl.store(scales + row, (largest - 6).to(tl.uint8))


def gather_mxfp4_to_fp8_rows(x: MxFp4Tensor, index: Tensor | None = None) -> Fp8Tensor:
    rows = len(x.data) if index is None else len(index)
    codes = torch.empty(rows, x.channels, dtype=torch.uint8, device=x.data.device)
    scales = torch.empty(rows, dtype=torch.uint8, device=x.data.device)
    blocks = x.channels // BLOCK
    lanes = next_power_of_two(max(blocks, 32))
    if rows:
        gather_mxfp4_to_fp8_rows_kernel[(rows,)](
            x.data.view(torch.int32),
            index,
            codes.view(torch.int32),
            scales,
            len(x.data),
            blocks,
            x.data.shape[1] // 4,
            HAS_INDEX=index is not None,
            BLOCKS=lanes,
            PTX=bits.PTX,
            num_warps=min(lanes // 32, 8),
        )
    return Fp8Tensor(codes, scales, Granularity.ROW)
