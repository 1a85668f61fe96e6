"""Add up partial sums in an order that depends on nothing but their number: a packet's sums are then the same, bit for
bit, whatever else is in its batch. `torch.sum` chooses its order by the shape of all."""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 512  # partial sums at a time


@triton.jit(do_not_specialize=["rows"])  # they differ from batch to batch
def totals_kernel(
    parts,  # float32 or float64 [requests, rows, columns]
    out,  # float64 [requests, columns], written
    rows,
    columns,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,  # columns rounded up to a power of two
):
    request = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDE)
    total = tl.zeros([WIDE], tl.float64)
    first = 0
    while first < rows:  # of a range, Triton's interpreter cannot read the end
        row = first + tl.arange(0, ROWS)[:, None]
        chosen = (row < rows) & (column[None, :] < columns)
        part = tl.load(parts + (request * rows + row) * columns + column[None, :], chosen, other=0.0)
        total += tl.sum(part.to(tl.float64), 0)
        first += ROWS
    tl.store(out + request * columns + column, total, column < columns)


def totals(parts: Tensor) -> Tensor:
    """Sums [r, columns] in float64 over the rows of [r, rows, columns]; rows of zeros at the end change no bit."""
    r, rows, columns = parts.shape
    out = torch.empty(r, columns, dtype=torch.float64, device=parts.device)
    wide = triton.next_power_of_2(max(columns, 2))
    totals_kernel[(r,)](parts, out, rows, columns, ROWS=_TILE // wide, WIDE=wide)
    return out
