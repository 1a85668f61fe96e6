"""Sums of slopes over parts of packets; the order of each depends on its packet alone, so no bit on those beside it."""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from pauca.events.consistency import COLUMNS, ROWS, SPANS
from pauca.events.device.batch import BLOCK, Batch, Plane
from pauca.events.device.kernels.totals import totals

_WIDE = 2048  # events at a time of which the range is looked for
_ROOM = 16  # parts rounded up to a power of two
assert max(SPANS, ROWS * COLUMNS) <= _ROOM


@triton.jit(do_not_specialize=["room"])  # it differs from batch to batch
def range_kernel(
    rows,  # float32 [requests, 6, room]
    where,  # int32 [requests, 3]
    ranges,  # float64 [requests, 4], written: lowest x and its width, lowest y and its width
    room,
    WIDE: tl.constexpr,
):
    request = tl.program_id(0)
    n = tl.load(where + 3 * request + 1)
    x = rows + (request.to(tl.int64) * 6 + 3) * room
    x_low, y_low = tl.full([WIDE], float("inf"), tl.float32), tl.full([WIDE], float("inf"), tl.float32)
    x_high, y_high = tl.full([WIDE], float("-inf"), tl.float32), tl.full([WIDE], float("-inf"), tl.float32)
    first = 0
    while first < n:
        i = first + tl.arange(0, WIDE)
        there = i < n
        x_low = tl.minimum(x_low, tl.load(x + i, there, other=float("inf")))
        x_high = tl.maximum(x_high, tl.load(x + i, there, other=float("-inf")))
        y_low = tl.minimum(y_low, tl.load(x + room + i, there, other=float("inf")))
        y_high = tl.maximum(y_high, tl.load(x + room + i, there, other=float("-inf")))
        first += WIDE
    left, top = tl.min(x_low, 0).to(tl.float64), tl.min(y_low, 0).to(tl.float64)
    out = ranges + 4 * request
    tl.store(out, left)
    tl.store(out + 1, tl.max(x_high, 0).to(tl.float64) - left)
    tl.store(out + 2, top)
    tl.store(out + 3, tl.max(y_high, 0).to(tl.float64) - top)


@triton.jit
def _slot(value, low, width, SLOTS: tl.constexpr):
    """Which of as many equal parts of their range the values are in."""
    slot = ((value.to(tl.float64) - low) * (SLOTS / tl.maximum(width, 1e-9))).to(tl.int32)
    return tl.minimum(tl.maximum(slot, 0), SLOTS - 1)


@triton.jit
def _store_sums(out, mine, u0, u1, u2, part, PARTS: tl.constexpr):
    """Sums of u and of its products over the events of each part."""
    at, chosen = out + 9 * part, part < PARTS
    tl.store(at, tl.sum(mine * u0[None, :], 1), chosen)
    tl.store(at + 1, tl.sum(mine * u1[None, :], 1), chosen)
    tl.store(at + 2, tl.sum(mine * u2[None, :], 1), chosen)
    tl.store(at + 3, tl.sum(mine * (u0 * u0)[None, :], 1), chosen)
    tl.store(at + 4, tl.sum(mine * (u1 * u0)[None, :], 1), chosen)
    tl.store(at + 5, tl.sum(mine * (u1 * u1)[None, :], 1), chosen)
    tl.store(at + 6, tl.sum(mine * (u2 * u0)[None, :], 1), chosen)
    tl.store(at + 7, tl.sum(mine * (u2 * u1)[None, :], 1), chosen)
    tl.store(at + 8, tl.sum(mine * (u2 * u2)[None, :], 1), chosen)


@triton.jit(do_not_specialize=["most"])  # it differs from batch to batch
def parts_kernel(
    rows,  # float32 [requests, 6, most * BLOCK]
    where,  # int32 [requests, 3]
    blocks,  # int32 [programs, 2]
    ranges,  # float64 [requests, 4]
    sums,  # float32 [requests, most, SPANS + ROWS * COLUMNS, 9], written
    most,
    THIRD: tl.constexpr,  # whether there is a third slope
    SPANS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROOM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    request = tl.load(blocks + 2 * tl.program_id(0))
    block = tl.load(blocks + 2 * tl.program_id(0) + 1)
    i = block * BLOCK + tl.arange(0, BLOCK)
    n = tl.load(where + 3 * request + 1)
    there = i < n
    row = rows + request.to(tl.int64) * 6 * most * BLOCK + i
    u0 = tl.load(row, there, other=0.0)
    u1 = tl.load(row + most * BLOCK, there, other=0.0)
    u2 = tl.load(row + 2 * most * BLOCK, there & (THIRD == 1), other=0.0)
    x = tl.load(row + 3 * most * BLOCK, there, other=0.0)
    y = tl.load(row + 4 * most * BLOCK, there, other=0.0)
    s = tl.load(row + 5 * most * BLOCK, there, other=0.0)
    at = ranges + 4 * request
    column = _slot(x, tl.load(at), tl.load(at + 1), COLUMNS)
    region = _slot(y, tl.load(at + 2), tl.load(at + 3), ROWS) * COLUMNS + column
    span = tl.minimum(((i.to(tl.int64) + 1) * SPANS - 1) // n, SPANS - 1).to(tl.int32)
    part = tl.arange(0, ROOM)
    out = sums + (request.to(tl.int64) * most + block) * 9 * (SPANS + ROWS * COLUMNS)
    mine = ((span[None, :] == part[:, None]) & there[None, :]).to(tl.float32)
    _store_sums(out, mine, u0, u1, u2, part, SPANS)
    mine = ((region[None, :] == part[:, None]) & there[None, :]).to(tl.float32)
    _store_sums(out + 9 * SPANS, mine, s * u0, s * u1, s * u2, part, ROWS * COLUMNS)


def sums_over_parts(rows: Tensor, batch: Batch, plane: Plane) -> Tensor:
    r, _, room = rows.shape
    ranges = torch.empty(r, 4, dtype=torch.float64, device=rows.device)
    range_kernel[(r,)](rows, batch.where, ranges, room, WIDE=_WIDE)
    sums = torch.zeros(r, batch.most_blocks, 9 * (SPANS + ROWS * COLUMNS), device=rows.device)
    parts_kernel[(len(batch.blocks),)](
        rows,
        batch.where,
        batch.blocks,
        ranges,
        sums,
        batch.most_blocks,
        THIRD=int(plane.warp.parameters == 3),
        SPANS=SPANS,
        ROWS=ROWS,
        COLUMNS=COLUMNS,
        ROOM=_ROOM,
        BLOCK=BLOCK,
    )
    return totals(sums)
