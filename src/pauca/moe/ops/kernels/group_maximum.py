"""The largest scale byte of each expert's rows: the first step of both conversions to column layout.

Reads each row's scale bytes once, 1/32 byte per element in MXFP4; a few microseconds beside the conversion itself.
"""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from pauca.moe.ops.kernels.bits import NAN_BYTE

_ROWS, _PARTS = 64, 32


@triton.jit
def group_maximum_kernel(
    scales,  # uint8, source_rows rows of `parts` bytes, `stride` apart
    index,  # int32 [rows]
    offsets,  # int32 [groups]
    largest,  # int32 [groups, parts], zeroed
    source_rows,
    parts,
    stride,
    HAS_INDEX: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """One program takes a slice of a group's rows; integer maxima commute, so the atomics leave no trace of order."""
    group, slice_, slices = tl.program_id(0), tl.program_id(2), tl.num_programs(2)
    start = tl.load(offsets + group - 1, group > 0, other=0)
    end = tl.load(offsets + group)
    part = (tl.program_id(1) * PARTS + tl.arange(0, PARTS))[None, :]
    running = tl.zeros([ROWS, PARTS], tl.int32)
    first = start + slice_ * ROWS
    while first < end:
        row = first + tl.arange(0, ROWS)
        inside = row < end
        taken = tl.load(index + row, inside, other=-1) if HAS_INDEX else row
        present = inside & (taken >= 0) & (taken < source_rows)
        mask = present[:, None] & (part < parts)
        byte = tl.load(scales + taken.to(tl.int64)[:, None] * stride + part, mask, other=0).to(tl.int32)
        running = tl.maximum(running, tl.where(byte == NAN_BYTE, 0, byte))
        first += slices * ROWS
    best = tl.max(running, 0)[None, :]
    tl.atomic_max(largest + group * parts + part, best, part < parts, sem="relaxed")


def group_maximum(scales: Tensor, index: Tensor | None, offsets: Tensor) -> Tensor:
    """The largest byte, but for NaN, of each group's rows in each column of `scales` (uint8, rows may be strided)."""
    source_rows, parts = scales.shape
    groups = len(offsets)
    largest = torch.zeros(groups, parts, dtype=torch.int32, device=scales.device)
    rows = source_rows if index is None else len(index)
    # A few thousand programs, so that each has about one step to wait for, but none without rows.
    slices = max(1, min(4096 // max(groups * triton.cdiv(parts, _PARTS), 1), triton.cdiv(rows, groups * _ROWS)))
    group_maximum_kernel[(groups, triton.cdiv(parts, _PARTS), slices)](
        scales,
        index,
        offsets,
        largest,
        source_rows,
        parts,
        scales.stride(0),
        HAS_INDEX=index is not None,
        ROWS=_ROWS,
        PARTS=_PARTS,
    )
    return largest
