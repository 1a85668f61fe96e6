"""RMS norm of rows and its gradients, one pass each: FP32 inside, BF16 rows in and out.

Forward moves 2 bytes in and 2 out per element, where PyTorch's operations one by one move 30; backward 4 in and 2 out.
A program of backward takes every n-th row, adds up its share of the weight's gradient in order, and writes it once; the
shares are then added: no atomics, the same bits every time.
"""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from pauca.moe.ops.kernels.bits import next_power_of_two

_PROGRAMS = 528  # of backward: four for each of 132 multiprocessors
_ELEMENTS = 2048  # that a program has in its registers at once, in whole rows


@triton.jit
def rms_norm_kernel(
    x,  # bf16 [rows, channels]
    weight,  # fp32 [channels]
    y,  # bf16 [rows, channels]
    inverse,  # fp32 [rows]
    rows,
    channels,
    epsilon,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, WIDTH)[None, :]
    inside = (row < rows)[:, None] & (channel < channels)
    place = row.to(tl.int64)[:, None] * channels + channel
    values = tl.load(x + place, inside, other=0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(values * values, 1) / channels + epsilon)
    scale = tl.load(weight + channel, channel < channels, other=0)
    tl.store(y + place, (values * factor[:, None] * scale).to(tl.bfloat16), inside)
    tl.store(inverse + row, factor, row < rows)


@triton.jit
def rms_norm_backward_kernel(
    grad,  # bf16 [rows, channels]
    x,  # bf16 [rows, channels]
    weight,  # fp32 [channels]
    inverse,  # fp32 [rows]
    d_x,  # bf16 [rows, channels]
    d_weight,  # fp32 [programs, channels]
    rows,
    channels,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    channel = tl.arange(0, WIDTH)[None, :]
    scale = tl.load(weight + channel, channel < channels, other=0)
    share = tl.zeros([ROWS, WIDTH], tl.float32)
    first = tl.program_id(0) * ROWS
    while first < rows:
        row = first + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (channel < channels)
        place = row.to(tl.int64)[:, None] * channels + channel
        incoming = tl.load(grad + place, inside, other=0).to(tl.float32)
        factor = tl.load(inverse + row, row < rows, other=0)[:, None]
        normal = tl.load(x + place, inside, other=0).to(tl.float32) * factor
        scaled = incoming * scale
        mean = tl.sum(scaled * normal, 1)[:, None] / channels
        tl.store(d_x + place, (factor * (scaled - normal * mean)).to(tl.bfloat16), inside)
        share += incoming * normal
        first += tl.num_programs(0) * ROWS
    total = tl.sum(share, 0)[None, :]
    tl.store(d_weight + tl.program_id(0) * channels + channel, total, channel < channels)


def _tile(channels: int) -> tuple[int, int, int]:
    """Rows of a program, its width, and its warps."""
    width = next_power_of_two(channels)
    return max(1, _ELEMENTS // width), width, max(4, min(16, width // 512))


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    rows, channels = x.shape
    y, inverse = torch.empty_like(x), torch.empty(rows, dtype=torch.float32, device=x.device)
    if rows:
        own, width, warps = _tile(channels)
        rms_norm_kernel[(triton.cdiv(rows, own),)](
            x, weight, y, inverse, rows, channels, epsilon, ROWS=own, WIDTH=width, num_warps=warps
        )
    return y, inverse


def rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    rows, channels = x.shape
    own, width, warps = _tile(channels)
    programs = min(_PROGRAMS, triton.cdiv(rows, own))
    d_x = torch.empty_like(x)
    shares = torch.empty(programs, channels, dtype=torch.float32, device=x.device)
    if rows:
        rms_norm_backward_kernel[(programs,)](
            grad, x, weight, inverse, d_x, shares, rows, channels, ROWS=own, WIDTH=width, num_warps=warps
        )
    return d_x, shares.sum(0)
