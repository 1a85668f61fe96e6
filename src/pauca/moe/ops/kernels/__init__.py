"""Triton kernels, one operation a file: pointers, offsets and bit arithmetic. `pauca.moe.ops` decides when they run.

Importing this imports Triton. The functions have the names and the meaning of their twins in `pauca.moe.ops.reference`;
they trust their arguments, which `pauca.moe.ops` has checked.
"""

from pauca.moe.ops.kernels.combine import combine, combine_backward
from pauca.moe.ops.kernels.fp8_rows_to_columns import fp8_rows_to_columns
from pauca.moe.ops.kernels.fp8_to_mxfp4 import fp8_to_mxfp4
from pauca.moe.ops.kernels.gather_mxfp4_to_fp8_columns import gather_mxfp4_to_fp8_columns
from pauca.moe.ops.kernels.gather_mxfp4_to_fp8_rows import gather_mxfp4_to_fp8_rows
from pauca.moe.ops.kernels.gather_rows import gather_fp8_rows, gather_rows
from pauca.moe.ops.kernels.quantize import quantize_fp8_rowwise, quantize_fp8_tilewise, quantize_mxfp4
from pauca.moe.ops.kernels.quantize_fp8_columns import quantize_fp8_columns
from pauca.moe.ops.kernels.rms_norm import rms_norm, rms_norm_backward
from pauca.moe.ops.kernels.rotate_heads import rotate_heads
from pauca.moe.ops.kernels.swiglu import (
    swiglu,
    swiglu_backward,
    swiglu_backward_fp8,
    swiglu_backward_fp8_with_activation,
    swiglu_fp8,
    swiglu_fp8_keeping_z,
)

__all__ = [
    "combine",
    "combine_backward",
    "fp8_rows_to_columns",
    "fp8_to_mxfp4",
    "gather_fp8_rows",
    "gather_mxfp4_to_fp8_columns",
    "gather_mxfp4_to_fp8_rows",
    "gather_rows",
    "quantize_fp8_columns",
    "quantize_fp8_rowwise",
    "quantize_fp8_tilewise",
    "quantize_mxfp4",
    "rms_norm",
    "rms_norm_backward",
    "rotate_heads",
    "swiglu",
    "swiglu_backward",
    "swiglu_backward_fp8",
    "swiglu_backward_fp8_with_activation",
    "swiglu_fp8",
    "swiglu_fp8_keeping_z",
]
