"""From the slopes of pixels to those of events, by the adjoints of blur and vote, and to the sums that a search needs.

The blur of the slopes is part of an event's own sum over 25 pixels (49 with a blur of five taps): images have seven
times as many pixels as packets have events.
"""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from pauca.events.device.batch import BLOCK, Batch, Plane, Stored
from pauca.events.device.kernels.totals import totals
from pauca.events.device.kernels.warped import kind_of, load_events, place, share, share_slope, turn, warp
from pauca.events.score import PAD


@triton.jit
def _blurred_share(a, C: tl.constexpr, w0, w1, w2, RADIUS: tl.constexpr, SPLINE: tl.constexpr):
    w = w0 * share(a, C - RADIUS, SPLINE) + w1 * (share(a, C - RADIUS - 1, SPLINE) + share(a, C - RADIUS + 1, SPLINE))
    if RADIUS == 2:
        w += w2 * (share(a, C - RADIUS - 2, SPLINE) + share(a, C - RADIUS + 2, SPLINE))
    return w


@triton.jit
def _blurred_slope(a, C: tl.constexpr, w0, w1, w2, RADIUS: tl.constexpr, SPLINE: tl.constexpr):
    near = share_slope(a, C - RADIUS - 1, SPLINE) + share_slope(a, C - RADIUS + 1, SPLINE)
    w = w0 * share_slope(a, C - RADIUS, SPLINE) + w1 * near
    if RADIUS == 2:
        w += w2 * (share_slope(a, C - RADIUS - 2, SPLINE) + share_slope(a, C - RADIUS + 2, SPLINE))
    return w


@triton.jit
def _chain(x, y, rx, ry, rz, u, v, dx, dy, fx, fy, cx, cy, KIND: tl.constexpr):
    """Slope by each event's own rotation vector or shift; as the kernels of `pauca.events.kernels.chain`."""
    if KIND == 2:
        u0, u1, u2 = -fx * dx, -fy * dy, 0.0 * dx
    else:
        px, py = (u - cx) / fx, (v - cy) / fy
        if KIND == 1:
            depth = 1.0 + rx * y - ry * x
            qx, qy = fx * dx / depth, fy * dy / depth
            qz = -(px * qx + py * qy)
            u0, u1, u2 = y * qz - qy, qx - x * qz, x * qy - y * qx
        else:
            a2 = rx * rx + ry * ry + rz * rz
            b = 0.5 - a2 * (1.0 / 24 - a2 * (1.0 / 720))
            c = 1.0 / 6 - a2 * (1.0 / 120 - a2 * (1.0 / 5040))
            qx, qy = fx * dx, fy * dy
            along = qx * px + qy * py
            vx, vy, vz = -py * along - qy, qx + px * along, px * qy - py * qx
            ux, uy, uz = ry * vz - rz * vy, rz * vx - rx * vz, rx * vy - ry * vx
            u0 = vx - b * ux + c * (ry * uz - rz * uy)
            u1 = vy - b * uy + c * (rz * ux - rx * uz)
            u2 = vz - b * uz + c * (rx * uy - ry * ux)
    return u0, u1, u2


@triton.jit(do_not_specialize=["most"])  # it differs from batch to batch
def gather_kernel(
    words,  # int32 [events]
    times,  # int32 [events]
    bearings,  # float32 [sensor height, sensor width, 2]
    where,  # int32 [requests, 3]
    motion,  # float32 [requests, 6]
    blocks,  # int32 [programs, 2]
    slopes,  # float32 [requests, 2, height, width]
    sums,  # float32 [requests, most, moments], written
    rows,  # float32 [requests, 6, most * BLOCK], written if EACH
    sensor_width,
    height,
    width,
    most,
    fx,
    fy,
    cx,
    cy,
    w0,
    w1,
    w2,
    PAD: tl.constexpr,
    KIND: tl.constexpr,
    SPLINE: tl.constexpr,
    RADIUS: tl.constexpr,
    EACH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    request = tl.load(blocks + 2 * tl.program_id(0))
    block = tl.load(blocks + 2 * tl.program_id(0) + 1)
    i = block * BLOCK + tl.arange(0, BLOCK)
    x, y, s, p, there = load_events(words, times, bearings, where, request, i, sensor_width)
    rx, ry, rz = turn(motion, request, s)
    u, v = warp(x, y, rx, ry, rz, fx, fy, cx, cy, KIND)
    inside, first, a, b = place(u, v, there, height, width, PAD, SPLINE)
    image = slopes + request.to(tl.int64) * 2 * height * width + p * height * width + first - RADIUS * (width + 1)
    n: tl.constexpr = (3 if SPLINE else 2) + 2 * RADIUS
    dx, dy = 0.0 * s, 0.0 * s
    for row in tl.static_range(n):
        line, slope = 0.0 * s, 0.0 * s
        for column in tl.static_range(n):
            pixel = tl.load(image + row * width + column, inside, other=0.0)
            line += _blurred_share(a, column, w0, w1, w2, RADIUS, SPLINE) * pixel
            slope += _blurred_slope(a, column, w0, w1, w2, RADIUS, SPLINE) * pixel
        dx += _blurred_share(b, row, w0, w1, w2, RADIUS, SPLINE) * slope
        dy += _blurred_slope(b, row, w0, w1, w2, RADIUS, SPLINE) * line
    u0, u1, u2 = _chain(x, y, rx, ry, rz, u, v, dx, dy, fx, fy, cx, cy, KIND)
    if EACH:
        out = rows + request.to(tl.int64) * 6 * most * BLOCK + i
        tl.store(out, u0, there)
        tl.store(out + most * BLOCK, u1, there)
        tl.store(out + 2 * most * BLOCK, u2, there)
        tl.store(out + 3 * most * BLOCK, x, there)
        tl.store(out + 4 * most * BLOCK, y, there)
        tl.store(out + 5 * most * BLOCK, s, there)
    h, u0, u1, u2 = 0.5 * s, s * u0, s * u1, s * u2
    k: tl.constexpr = 2 if KIND == 2 else 3
    pairs: tl.constexpr = 3 if KIND == 2 else 6
    out = sums + (request * most + block) * (2 * k + 3 * pairs)
    tl.store(out, tl.sum(u0, 0))
    tl.store(out + 1, tl.sum(u1, 0))
    tl.store(out + k, tl.sum(h * u0, 0))
    tl.store(out + k + 1, tl.sum(h * u1, 0))
    if k == 3:
        tl.store(out + 2, tl.sum(u2, 0))
        tl.store(out + 5, tl.sum(h * u2, 0))
    g = 1.0 + 0.0 * s
    for m in tl.static_range(3):
        part = out + 2 * k + m * pairs
        tl.store(part, tl.sum(g * u0 * u0, 0))
        tl.store(part + 1, tl.sum(g * u1 * u0, 0))
        tl.store(part + 2, tl.sum(g * u1 * u1, 0))
        if k == 3:
            tl.store(part + 3, tl.sum(g * u2 * u0, 0))
            tl.store(part + 4, tl.sum(g * u2 * u1, 0))
            tl.store(part + 5, tl.sum(g * u2 * u2, 0))
        g *= h


def gather(
    stored: Stored, batch: Batch, plane: Plane, slopes: Tensor, each: bool = False
) -> tuple[Tensor, Tensor | None]:
    (height, width), r, device = plane.size, len(batch.where), stored.words.device
    most = batch.most_blocks
    sums = torch.zeros(r, most, plane.moments, device=device)
    rows = torch.zeros(r, 6, most * BLOCK, device=device) if each else None
    gather_kernel[(len(batch.blocks),)](
        stored.words,
        stored.times,
        stored.bearings,
        batch.where,
        batch.motion,
        batch.blocks,
        slopes,
        sums,
        rows if each else sums,
        stored.bearings.shape[1],
        height,
        width,
        most,
        *plane.intrinsics,
        *plane.taps,
        PAD=PAD,
        KIND=kind_of(plane),
        SPLINE=plane.vote == "quadratic",
        RADIUS=plane.radius,
        EACH=each,
        BLOCK=BLOCK,
    )
    return totals(sums), rows
