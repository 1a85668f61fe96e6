"""torch.compile as trainings use it: batch norm's backward works gradients out twice, in place of storing them."""

from collections.abc import Callable

import torch

from pauca.fewshot.training.config import CompileMode

OPTIONS = {"realize_reads_threshold": 16}
"""The compiler writes a value to memory that several kernels use, if it takes more than so many reads (4 by default).
In the backward pass of leaky ReLU and batch norm the gradient before the norm takes six, and two kernels use it: with
16 both work it out, and a residual block moves a fifth fewer bytes, its convolutions counted
(`benchmarks/fewshot_roofline.py` measures the time)."""


def compiled(function: Callable, mode: CompileMode, on_gpu: bool) -> Callable:
    """`function`, compiled by a mode of torch.compile; `auto` is `default` on a GPU and `off` elsewhere."""
    if mode == "auto":
        mode = "default" if on_gpu else "off"
    if mode == "off":
        return function
    from torch._inductor import list_mode_options  # takes long to import

    return torch.compile(function, options={**list_mode_options(mode), **OPTIONS})
