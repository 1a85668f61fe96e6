"""Copy rows by index, BF16 or FP8 with its scales. Moves each row's bytes in and out once."""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from pauca.moe.ops.formats import Fp8Tensor
from pauca.moe.ops.kernels.bits import next_power_of_two

_WIDTH = 1024  # 32-bit words a program of 4 warps copies: two 16-byte loads a thread


@triton.jit
def gather_rows_kernel(
    source,  # int32 [source_rows, words]
    scales,  # uint8 [source_rows, scales_per_row]
    index,  # int32 [rows]
    out,  # int32 [rows, words]
    out_scales,  # uint8 [rows, scales_per_row]
    source_rows,
    words,
    scales_per_row,
    SCALES: tl.constexpr,  # scales_per_row rounded up to a power of two; 0: there are none
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    taken = tl.load(index + row).to(tl.int64)
    exists = (taken >= 0) & (taken < source_rows)
    word = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    loaded = tl.load(source + taken * words + word, (word < words) & exists, other=0)
    tl.store(out + row * words + word, loaded, word < words)
    if SCALES:
        scale = tl.arange(0, SCALES)
        first = (scale < scales_per_row) & (tl.program_id(1) == 0)
        byte = tl.load(scales + taken * scales_per_row + scale, first & exists, other=0)
        tl.store(out_scales + row * scales_per_row + scale, byte, first)


def _gather(x: Tensor, scales: Tensor | None, index: Tensor) -> tuple[Tensor, Tensor | None]:
    rows = len(index)
    out = torch.empty(rows, x.shape[1], dtype=x.dtype, device=x.device)
    out_scales = None if scales is None else torch.empty(rows, *scales.shape[1:], dtype=torch.uint8, device=x.device)
    words = x.shape[1] * x.element_size() // 4
    scales_per_row = 0 if out_scales is None else out_scales[:1].numel()
    if rows:
        gather_rows_kernel[(rows, triton.cdiv(words, _WIDTH))](
            x.view(torch.int32),
            scales,
            index,
            out.view(torch.int32),
            out_scales,
            len(x),
            words,
            scales_per_row,
            SCALES=next_power_of_two(scales_per_row) if scales_per_row else 0,
            WIDTH=_WIDTH,
        )
    return out, out_scales


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    return _gather(x, None, index)[0]


def gather_fp8_rows(x: Fp8Tensor, index: Tensor) -> Fp8Tensor:
    codes, scales = _gather(x.codes, x.scales, index)
    return Fp8Tensor(codes, scales, x.granularity)
