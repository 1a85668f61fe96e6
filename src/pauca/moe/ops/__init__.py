"""The operations of the MoE layer: conversions, SwiGLU and combination, on Triton kernels where there is a Hopper GPU.

Each function checks its input and then runs a kernel from `pauca.moe.ops.kernels` (CUDA, compute capability 9.0) or its
twin in `pauca.moe.ops.reference` (anything else). Nothing here waits for the device.

Shared conventions. Rows are copies of tokens, sorted by expert, and `offsets` (int32, on the device) says where each
expert's rows end; the ends are multiples of 16, an expert may have none, and rows past the last end hold nothing.
`index` (int32) names a source row for each output row; an index outside the source (-1, by custom) makes a row of zeros
with scale byte 0. Infinity and NaN become NaN: the whole block in MXFP4, the element in FP8.
"""

from pauca.moe.ops.checked import (
    combine,
    combine_backward,
    count_inexact,
    fp8_rows_to_columns,
    fp8_to_mxfp4,
    gather_fp8_rows,
    gather_mxfp4_to_fp8_columns,
    gather_mxfp4_to_fp8_rows,
    gather_rows,
    quantize_fp8_columns,
    quantize_fp8_rowwise,
    quantize_fp8_tilewise,
    quantize_mxfp4,
    swiglu,
    swiglu_backward,
    swiglu_backward_fp8,
    swiglu_backward_fp8_with_activation,
    swiglu_fp8,
    swiglu_fp8_keeping_z,
)
from pauca.moe.ops.decoder import rms_norm, rms_norm_backward, rotate_heads
from pauca.moe.ops.formats import Fp8Tensor, Granularity, Layout, MxFp4Tensor, ScaleRule
from pauca.moe.ops.gates import Gate

__all__ = [
    "Fp8Tensor",
    "Gate",
    "Granularity",
    "Layout",
    "MxFp4Tensor",
    "ScaleRule",
    "combine",
    "combine_backward",
    "count_inexact",
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
