"""Rotary positions of heads, from one place and layout to another: queries and keys, or a copy of values.

Moves 2 bytes in and 2 out per element, where PyTorch's operations one by one move 36. Backward is the same with the
sine's sign turned.
"""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl
from torch import Tensor

from pauca.moe.ops.kernels.bits import next_power_of_two

_ELEMENTS = 2048  # of each half that a program turns


@triton.jit
def rotate_heads_kernel(
    source,  # bf16 [batch, time, heads, 2 half], the last without gaps
    out,  # bf16, likewise
    cosine,  # fp32 [time, half]
    sine,  # fp32 [time, half]
    batch_stride,
    time_stride,
    head_stride,
    out_batch_stride,
    out_time_stride,
    out_head_stride,
    tokens,  # batch * time
    time,
    heads,
    half,
    TURN: tl.constexpr,  # 1 forward, -1 back, 0 a copy
    TOKENS: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    token = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS))[:, None, None]
    head = tl.arange(0, HEADS)[None, :, None]
    channel = tl.arange(0, HALF)[None, None, :]
    inside = (token < tokens) & (head < heads) & (channel < half)
    sequence, place = (token // time).to(tl.int64), token % time
    taken = source + sequence * batch_stride + place.to(tl.int64) * time_stride + head * head_stride + channel
    given = out + sequence * out_batch_stride + place.to(tl.int64) * out_time_stride + head * out_head_stride + channel
    first = tl.load(taken, inside, other=0)
    second = tl.load(taken + half, inside, other=0)
    if TURN != 0:
        angle = place * half + channel
        known = (token < tokens) & (channel < half)
        c, s = tl.load(cosine + angle, known, other=0), TURN * tl.load(sine + angle, known, other=0)
        a, b = first.to(tl.float32), second.to(tl.float32)
        first, second = (a * c - b * s).to(tl.bfloat16), (b * c + a * s).to(tl.bfloat16)
    tl.store(given, first, inside)
    tl.store(given + half, second, inside)


def rotate_heads(source: Tensor, out: Tensor, cosine: Tensor, sine: Tensor, turn: int) -> None:
    batch, time, heads, channels = source.shape
    if source.numel() == 0:
        return
    width, all_heads = next_power_of_two(channels // 2), next_power_of_two(heads)
    own = max(1, _ELEMENTS // (width * all_heads))
    rotate_heads_kernel[(triton.cdiv(batch * time, own),)](
        source,
        out,
        cosine,
        sine,
        *source.stride()[:3],
        *out.stride()[:3],
        batch * time,
        time,
        heads,
        channels // 2,
        TURN=turn,
        TOKENS=own,
        HEADS=all_heads,
        HALF=width,
    )
