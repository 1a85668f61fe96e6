"""Rows back to tokens (a sum over each token's copies) and its gradient.

Forward moves 2 bytes in per row element and 2 out per token element; each token adds its own rows, so nothing is
atomic. Backward reads gradient and rows and writes one gradient row per row: 6 bytes per row element (4 without
weights, where it is `gather_rows`).
"""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

_WIDTH = 1024  # channels a program of 4 warps sums: one 16-byte load a thread for each copy, all under way together


@triton.jit
def combine_kernel(
    rows,  # bf16 [n, channels]
    inverse,  # int32 [tokens, COPIES]
    weights,  # fp32 [tokens, COPIES]
    out,  # bf16 [tokens, channels]
    n,
    channels,
    COPIES: tl.constexpr,
    WEIGHTED: tl.constexpr,
    WIDTH: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = channel < channels
    total = tl.zeros([WIDTH], tl.float32)
    for copy in tl.static_range(COPIES):
        row = tl.load(inverse + token * COPIES + copy).to(tl.int64)
        exists = (row >= 0) & (row < n)
        term = tl.load(rows + row * channels + channel, inside & exists, other=0).to(tl.float32)
        if WEIGHTED:
            term *= tl.load(weights + token * COPIES + copy)
        total += term
    tl.store(out + token * channels + channel, total.to(tl.bfloat16), inside)


@triton.jit
def combine_backward_kernel(
    grad,  # bf16 [tokens, channels]
    rows,  # bf16 [n, channels]
    token,  # int32 [n]
    row_weights,  # fp32 [n]
    d_rows,  # bf16 [n, channels]
    d_weights,  # fp32 [n]
    tokens,
    channels,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    taken = tl.load(token + row).to(tl.int64)
    exists = (taken >= 0) & (taken < tokens)
    weight = tl.load(row_weights + row)
    product = tl.zeros([WIDTH], tl.float32)
    for start in range(0, channels, WIDTH):
        channel = start + tl.arange(0, WIDTH)
        inside = channel < channels
        incoming = tl.load(grad + taken * channels + channel, inside & exists, other=0).to(tl.float32)
        value = tl.load(rows + row * channels + channel, inside & exists, other=0).to(tl.float32)
        product += incoming * value
        weighted = tl.where(exists, incoming * weight, 0.0)
        tl.store(d_rows + row * channels + channel, weighted.to(tl.bfloat16), inside)
    tl.store(d_weights + row, tl.sum(product, 0))


def combine(rows: Tensor, inverse: Tensor, weights: Tensor | None = None) -> Tensor:
    (tokens, copies), (n, channels) = inverse.shape, rows.shape
    out = torch.empty(tokens, channels, dtype=torch.bfloat16, device=rows.device)
    if tokens:
        combine_kernel[(tokens, triton.cdiv(channels, _WIDTH))](
            rows, inverse, weights, out, n, channels, COPIES=copies, WEIGHTED=weights is not None, WIDTH=_WIDTH
        )
    return out


def combine_backward(grad: Tensor, rows: Tensor, token: Tensor, row_weights: Tensor) -> tuple[Tensor, Tensor]:
    d_rows = torch.empty_like(rows)
    d_weights = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    if len(rows):
        combine_backward_kernel[(len(rows),)](
            grad, rows, token, row_weights, d_rows, d_weights, len(grad), rows.shape[1], WIDTH=_WIDTH
        )
    return d_rows, d_weights
