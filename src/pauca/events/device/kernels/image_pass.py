"""Blur images of votes, sum the score of their pixels, and write its slope by each."""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from pauca.events.device.batch import UNIT, Plane
from pauca.events.device.kernels.totals import totals
from pauca.events.score import PAD

_TILE = 8, 128  # rows and columns of one program: rows of 1 KB of votes


@triton.jit
def _along(line, there, w0, w1, w2, RADIUS: tl.constexpr):
    """Votes blurred along the rows, at pixels `line`, in units of a vote."""
    total = w0 * tl.load(line, there, other=0).to(tl.float32)
    left, right = tl.load(line - 1, there, other=0), tl.load(line + 1, there, other=0)
    total += w1 * (left + right).to(tl.float32)
    if RADIUS == 2:
        left, right = tl.load(line - 2, there, other=0), tl.load(line + 2, there, other=0)
        total += w2 * (left + right).to(tl.float32)
    return total


@triton.jit
def score_images_kernel(
    images,  # int64 [requests, 2, height, width]
    table,  # float32 [segments, 4]
    slopes,  # float32 [requests, 2, height, width], written
    values,  # float64 [requests, 2, tiles], written
    height,
    width,
    w0,
    w1,
    w2,
    unit,
    offset,
    first_exponent,
    PAD: tl.constexpr,
    RADIUS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    across = tl.cdiv(width, COLUMNS)
    tile, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row = (tile // across) * ROWS + tl.arange(0, ROWS)[:, None]
    column = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    frame = (row >= PAD) & (row < height - PAD) & (column >= PAD) & (column < width - PAD)
    at = row * width + column
    votes = images + image * height * width + at
    count = w0 * _along(votes, frame, w0, w1, w2, RADIUS)
    above, below = (
        _along(votes - width, frame, w0, w1, w2, RADIUS),
        _along(votes + width, frame, w0, w1, w2, RADIUS),
    )
    count += w1 * (above + below)
    if RADIUS == 2:
        above = _along(votes - 2 * width, frame, w0, w1, w2, RADIUS)
        below = _along(votes + 2 * width, frame, w0, w1, w2, RADIUS)
        count += w2 * (above + below)
    bits = (count * unit + offset).to(tl.int32, bitcast=True)
    entry = table + 4 * ((bits >> 16) - first_exponent)
    fraction = (bits & 0xFFFF).to(tl.float32) * (1.0 / 65536)
    value = tl.load(entry, frame, other=0.0) + fraction * tl.load(entry + 1, frame, other=0.0)
    slope = tl.load(entry + 2, frame, other=0.0) + fraction * tl.load(entry + 3, frame, other=0.0)
    tl.store(slopes + image * height * width + at, slope, (row < height) & (column < width))
    total = tl.sum(tl.sum(value.to(tl.float64), 1), 0)
    tl.store(values + image * tl.num_programs(0) + tile, total)


def score_images(images: Tensor, plane: Plane) -> tuple[Tensor, Tensor]:
    (height, width), r = plane.size, len(images)
    rows, columns = _TILE
    tiles = triton.cdiv(height, rows) * triton.cdiv(width, columns)
    slopes = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    values = torch.empty(r, 2, tiles, dtype=torch.float64, device=images.device)
    score_images_kernel[(tiles, 2 * r)](
        images,
        plane.table,
        slopes,
        values,
        height,
        width,
        *plane.taps,
        UNIT,
        plane.offset,
        plane.first_exponent,
        PAD=PAD,
        RADIUS=plane.radius,
        ROWS=rows,
        COLUMNS=columns,
    )
    return totals(values.view(r, 2 * tiles, 1))[:, 0], slopes
