"""Warp events and add them to the images of their packet and polarity."""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from pauca.events.device.batch import BLOCK, UNIT, Batch, Plane, Stored
from pauca.events.device.kernels.warped import kind_of, load_events, place, share, turn, warp
from pauca.events.score import PAD


@triton.jit
def vote_kernel(
    words,  # int32 [events]
    times,  # int32 [events]
    bearings,  # float32 [sensor height, sensor width, 2]
    where,  # int32 [requests, 3]
    motion,  # float32 [requests, 6]
    blocks,  # int32 [programs, 2]
    images,  # int64 [requests, 2, height, width], added to
    inside,  # int32 [requests], added to
    sensor_width,
    height,
    width,
    fx,
    fy,
    cx,
    cy,
    units,  # of a whole vote
    PAD: tl.constexpr,
    KIND: tl.constexpr,
    SPLINE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    request = tl.load(blocks + 2 * tl.program_id(0))
    i = tl.load(blocks + 2 * tl.program_id(0) + 1) * BLOCK + tl.arange(0, BLOCK)
    x, y, s, p, there = load_events(words, times, bearings, where, request, i, sensor_width)
    rx, ry, rz = turn(motion, request, s)
    u, v = warp(x, y, rx, ry, rz, fx, fy, cx, cy, KIND)
    chosen, first, a, b = place(u, v, there, height, width, PAD, SPLINE)
    image = images + request.to(tl.int64) * 2 * height * width + p * height * width + first
    n: tl.constexpr = 3 if SPLINE else 2
    for row in tl.static_range(n):
        for column in tl.static_range(n):
            weight = share(b, row, SPLINE) * share(a, column, SPLINE)
            tl.atomic_add(image + row * width + column, (weight * units).to(tl.int64), chosen, sem="relaxed")
    tl.atomic_add(inside + request, tl.sum(chosen.to(tl.int32), 0), sem="relaxed")


def vote(stored: Stored, batch: Batch, plane: Plane) -> tuple[Tensor, Tensor]:
    (height, width), r = plane.size, len(batch.where)
    images = torch.zeros(r, 2, height, width, dtype=torch.int64, device=stored.words.device)
    inside = torch.zeros(r, dtype=torch.int32, device=stored.words.device)
    vote_kernel[(len(batch.blocks),)](
        stored.words,
        stored.times,
        stored.bearings,
        batch.where,
        batch.motion,
        batch.blocks,
        images,
        inside,
        stored.bearings.shape[1],
        height,
        width,
        *plane.intrinsics,
        1 / UNIT,
        PAD=PAD,
        KIND=kind_of(plane),
        SPLINE=plane.vote == "quadratic",
        BLOCK=BLOCK,
    )
    return images, inside
