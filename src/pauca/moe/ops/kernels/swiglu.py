"""SwiGLU times the router's probability, forward and backward, from z in BF16, FP8 or MXFP4.

A program takes a whole row, because the row's FP8 scale must be known before its first code is written. Bytes per row
of width I: z 4 I (BF16), 2 I (FP8) or 17/16 I (MXFP4); forward adds I for FP8 out and 17/32 I for MXFP4; backward adds
2 I for the incoming gradient and 2 I for z's gradient in FP8. The gradient's column layout is a second pass over its
codes (`fp8_rows_to_columns`, 4 I): a scale per expert and channel is known only after every row of the expert, and
recomputing the gradient (5 I or more to read) would cost more than moving its codes.
"""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from pauca.moe.ops.formats import Fp8Tensor, MxFp4Tensor, ScaleRule, Stored
from pauca.moe.ops.kernels.bits import e2m1x8_to_e4m3, e4m3_table, next_power_of_two
from pauca.moe.ops.kernels.fp8_rows_to_columns import fp8_rows_to_columns
from pauca.moe.ops.kernels.from_floats import finite_row, fp8_scale_byte, to_e4m3, to_mxfp4
from pauca.moe.ops.kernels.quantize import empty_fp8_rows, load_bfloat16, rule_arguments, store_mxfp4, warps_for

BF16, FP8, MXFP4 = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _sigmoid(x):
    """Within three units in the last place of FP32, in four instructions; below 2^-126 it is zero."""
    return tl.inline_asm_elementwise(
        """{
        .reg .f32 t;
        mul.f32 t, $1, 0fBFB8AA3B;
        ex2.approx.ftz.f32 t, t;
        add.f32 t, t, 0f3F800000;
        rcp.approx.ftz.f32 $0, t;
        }""",
        "=f,f",
        [x],
        dtype=tl.float32,
        is_pure=True,
        pack=1,
    )


@triton.jit
def _round_to_bfloat16(x):
    """FP32 to BF16, to nearest even, two in one instruction."""
    return tl.inline_asm_elementwise(
        "cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,r,r", [x], dtype=tl.bfloat16, is_pure=True, pack=2
    )


@triton.jit
def _e8m0_to_float(byte):
    bits = tl.where(byte == 0, 0x400000, byte << 23)
    return tl.where(byte == 255, 0x7FC00000, bits).to(tl.float32, bitcast=True)


@triton.jit
def _e4m3x4_to_floats(word):
    """Four E4M3 codes as four FP32 numbers."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b16 p, q, w, x, y, z;
        .reg .b32 a, b;
        mov.b32 {p, q}, $4;
        cvt.rn.f16x2.e4m3x2 a, p;
        cvt.rn.f16x2.e4m3x2 b, q;
        mov.b32 {w, x}, a;
        mov.b32 {y, z}, b;
        cvt.f32.f16 $0, w;
        cvt.f32.f16 $1, x;
        cvt.f32.f16 $2, y;
        cvt.f32.f16 $3, z;
        }""",
        "=f,=f,=f,=f,r",
        [word],
        dtype=(tl.float32, tl.float32, tl.float32, tl.float32),
        is_pure=True,
        pack=1,
    )


@triton.jit
def _load_mxfp4(row, start, width, channels, WIDTH: tl.constexpr):
    """By way of E4M3 codes of 2^6 times the numbers: two look-ups for eight elements, then hardware conversions."""
    word = tl.arange(0, WIDTH // 8)
    nibbles = tl.load((row + start // 2).to(tl.pointer_type(tl.int32)) + word, word < width // 8, other=0)
    block = tl.arange(0, WIDTH // 32)
    byte = tl.load(row + channels // 2 + start // 32 + block, block < width // 32, other=0)
    scale = _e8m0_to_float(byte.to(tl.int32)) * 0.015625
    scale = scale[:, None].broadcast_to(WIDTH // 32, 4).reshape(WIDTH // 8)
    low, high = e4m3_table(tl.zeros_like(word))
    first, second = e2m1x8_to_e4m3(nibbles, low, high, True)
    a, b, c, d = _e4m3x4_to_floats(first)
    e, f, g, h = _e4m3x4_to_floats(second)
    lower = tl.join(tl.join(a * scale, b * scale), tl.join(c * scale, d * scale))
    upper = tl.join(tl.join(e * scale, f * scale), tl.join(g * scale, h * scale))
    return tl.join(lower, upper).trans(0, 3, 2, 1).reshape(WIDTH)


@triton.jit
def _load(z, scales, row, row_stride, start, width, channels, FORM: tl.constexpr, WIDTH: tl.constexpr):
    """`width` channels of z from `start` as FP32, zero beyond."""
    channel = tl.arange(0, WIDTH)
    if FORM == BF16:
        return load_bfloat16(z + row * row_stride + start + channel, channel < width)
    if FORM == FP8:
        codes = tl.load(z + row * row_stride + start + channel, channel < width, other=0)
        scale = _e8m0_to_float(tl.load(scales + row).to(tl.int32))
        return codes.to(tl.float8e4nv, bitcast=True).to(tl.float32) * scale
    return _load_mxfp4(z + row * row_stride, start, width, channels, WIDTH)


@triton.jit
def _store_half(row, packed, scales, start, width, WIDTH: tl.constexpr):
    """MXFP4 codes and scale bytes of `width` channels from `start` into a row of twice the width."""
    code = tl.arange(0, WIDTH // 2)
    tl.store(row + start // 2 + code, packed, code < width // 2)
    block = tl.arange(0, WIDTH // 32)
    tl.store(row + width + start // 32 + block, scales, block < width // 32)


@triton.jit
def swiglu_kernel(
    z,  # bf16 or uint8 [rows, row_stride]
    z_scales,  # uint8 [rows], FP8 alone
    probability,  # fp32 [rows]
    plain,  # bf16 [rows, width]
    codes,  # uint8 [rows, width]
    scales,  # uint8 [rows]
    kept,  # uint8 [rows, kept_row_bytes]
    kept_z,  # uint8 [rows, kept_z_row_bytes]
    width,
    row_stride,
    kept_row_bytes,
    kept_z_row_bytes,
    FORM: tl.constexpr,
    TO_FP8: tl.constexpr,
    KEEP: tl.constexpr,
    KEEP_Z: tl.constexpr,
    CARRY: tl.constexpr,
    SATURATE: tl.constexpr,
    BEST: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, WIDTH)
    gate = _load(z, z_scales, row, row_stride, 0, width, 2 * width, FORM, WIDTH)
    up = _load(z, z_scales, row, row_stride, width, width, 2 * width, FORM, WIDTH)
    if KEEP_Z:
        packed, block_scales = to_mxfp4(gate, CARRY, SATURATE, BEST, WIDTH, True)
        _store_half(kept_z + row * kept_z_row_bytes, packed, block_scales, 0, width, WIDTH)
        packed, block_scales = to_mxfp4(up, CARRY, SATURATE, BEST, WIDTH, True)
        _store_half(kept_z + row * kept_z_row_bytes, packed, block_scales, width, width, WIDTH)
    activation = gate * _sigmoid(gate) * up * tl.load(probability + row)
    rounded = _round_to_bfloat16(activation)
    if TO_FP8:
        largest, activation = finite_row(rounded.to(tl.float32))
        byte = fp8_scale_byte(largest)
        tl.store(codes + row * width + channel, to_e4m3(activation, byte), channel < width)
        tl.store(scales + row, byte.to(tl.uint8))
        if KEEP:
            packed, block_scales = to_mxfp4(activation, CARRY, SATURATE, BEST, WIDTH, True)
            store_mxfp4(kept + row * kept_row_bytes, packed, block_scales, 0, width, WIDTH)
    else:
        tl.store(plain + row * width + channel, rounded, channel < width)


@triton.jit
def swiglu_backward_kernel(
    z,
    z_scales,
    probability,
    grad,  # bf16 [rows, width]
    plain,  # bf16 [rows, 2 * width]
    codes,  # uint8 [rows, 2 * width]
    scales,  # uint8 [rows]
    d_probability,  # fp32 [rows]
    activation_codes,  # uint8 [rows, width]
    activation_scales,  # uint8 [rows]
    width,
    row_stride,
    FORM: tl.constexpr,
    TO_FP8: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, WIDTH)
    inside = channel < width
    gate = _load(z, z_scales, row, row_stride, 0, width, 2 * width, FORM, WIDTH)
    up = _load(z, z_scales, row, row_stride, width, width, 2 * width, FORM, WIDTH)
    incoming = load_bfloat16(grad + row * width + channel, inside)
    sigmoid = _sigmoid(gate)
    silu = gate * sigmoid
    tl.store(d_probability + row, tl.sum(incoming * (silu * up), 0))
    weight = tl.load(probability + row)
    if ACTIVATION:
        largest, activation = finite_row(_round_to_bfloat16(silu * up * weight).to(tl.float32))
        byte = fp8_scale_byte(largest)
        tl.store(activation_codes + row * width + channel, to_e4m3(activation, byte), inside)
        tl.store(activation_scales + row, byte.to(tl.uint8))
    weighted = incoming * weight
    d_up = _round_to_bfloat16(weighted * silu)
    d_gate = _round_to_bfloat16(weighted * up * (sigmoid + silu * (1 - sigmoid)))
    if TO_FP8:
        of_gate, d_gate = finite_row(d_gate.to(tl.float32))
        of_up, d_up = finite_row(d_up.to(tl.float32))
        byte = fp8_scale_byte(tl.maximum(of_gate, of_up))
        tl.store(codes + row * 2 * width + channel, to_e4m3(d_gate, byte), inside)
        tl.store(codes + row * 2 * width + width + channel, to_e4m3(d_up, byte), inside)
        tl.store(scales + row, byte.to(tl.uint8))
    else:
        tl.store(plain + row * 2 * width + channel, d_gate, inside)
        tl.store(plain + row * 2 * width + width + channel, d_up, inside)


def _form(z: Stored) -> tuple[Tensor, Tensor | None, int]:
    """z's memory, its scales if they lie apart, and which of the three forms it has."""
    if isinstance(z, Fp8Tensor):
        return z.codes, z.scales, FP8.value
    if isinstance(z, MxFp4Tensor):
        return z.data, None, MXFP4.value
    return z, None, BF16.value


def _launch(
    z: Stored,
    probability: Tensor,
    plain: Tensor | None = None,
    fp8: Fp8Tensor | None = None,
    kept: MxFp4Tensor | None = None,
    kept_z: MxFp4Tensor | None = None,
    rule: ScaleRule = ScaleRule.EVEN,
) -> None:
    """Fill whichever outputs there are: `plain`, or `fp8` with or without `kept`; and `kept_z`."""
    memory, z_scales, form = _form(z)
    rows, width = z.shape[0], z.shape[1] // 2
    lanes = next_power_of_two(width)
    if rows:
        swiglu_kernel[(rows,)](
            memory,
            z_scales,
            probability,
            plain,
            fp8 and fp8.codes,
            fp8 and fp8.scales,
            kept and kept.data,
            kept_z and kept_z.data,
            width,
            memory.shape[1],
            kept.data.shape[1] if kept else 0,
            kept_z.data.shape[1] if kept_z else 0,
            FORM=form,
            TO_FP8=fp8 is not None,
            KEEP=kept is not None,
            KEEP_Z=kept_z is not None,
            **rule_arguments(rule),
            WIDTH=lanes,
            # From MXFP4 a thread's 16 bytes are 32 elements: half the warps, 68 us for 74 at DeepSeek-V3's shape.
            num_warps=warps_for(lanes // 2 if form == MXFP4.value else lanes),
        )


def _launch_backward(
    z: Stored,
    probability: Tensor,
    grad: Tensor,
    d_probability: Tensor,
    plain: Tensor | None = None,
    fp8: Fp8Tensor | None = None,
    activation: Fp8Tensor | None = None,
) -> None:
    """Fill `d_probability`, whichever of `plain` and `fp8` there is, and `activation`."""
    memory, z_scales, form = _form(z)
    rows, width = grad.shape
    lanes = next_power_of_two(width)
    if rows:
        swiglu_backward_kernel[(rows,)](
            memory,
            z_scales,
            probability,
            grad,
            plain,
            fp8 and fp8.codes,
            fp8 and fp8.scales,
            d_probability,
            activation and activation.codes,
            activation and activation.scales,
            width,
            memory.shape[1],
            FORM=form,
            TO_FP8=fp8 is not None,
            ACTIVATION=activation is not None,
            WIDTH=lanes,
            num_warps=warps_for(lanes),
        )


def swiglu(z: Stored, probability: Tensor) -> Tensor:
    out = torch.empty(z.shape[0], z.shape[1] // 2, dtype=torch.bfloat16, device=probability.device)
    _launch(z, probability, plain=out)
    return out


def swiglu_fp8(z: Stored, probability: Tensor, rule: ScaleRule | None = None) -> tuple[Fp8Tensor, MxFp4Tensor | None]:
    rows, width = z.shape[0], z.shape[1] // 2
    out = empty_fp8_rows(rows, width, probability.device)
    kept = MxFp4Tensor.empty(rows, width, probability.device) if rule else None
    _launch(z, probability, fp8=out, kept=kept, rule=rule or ScaleRule.EVEN)
    return out, kept


def swiglu_fp8_keeping_z(
    z: Tensor, probability: Tensor, rule: ScaleRule, keep: bool
) -> tuple[Fp8Tensor, MxFp4Tensor, MxFp4Tensor | None]:
    rows, width = z.shape[0], z.shape[1] // 2
    out = empty_fp8_rows(rows, width, z.device)
    kept_z = MxFp4Tensor.empty(*z.shape, z.device)
    kept = MxFp4Tensor.empty(rows, width, z.device) if keep else None
    _launch(z, probability, fp8=out, kept=kept, kept_z=kept_z, rule=rule)
    return out, kept_z, kept


def swiglu_backward(z: Stored, probability: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    out = torch.empty(z.shape, dtype=torch.bfloat16, device=grad.device)
    d_probability = torch.empty_like(probability)
    _launch_backward(z, probability, grad, d_probability, plain=out)
    return out, d_probability


def swiglu_backward_fp8(
    z: Stored, probability: Tensor, grad: Tensor, offsets: Tensor
) -> tuple[Fp8Tensor, Fp8Tensor, Tensor]:
    rows = empty_fp8_rows(*z.shape, grad.device)
    d_probability = torch.empty_like(probability)
    _launch_backward(z, probability, grad, d_probability, fp8=rows)
    return rows, fp8_rows_to_columns(rows, offsets), d_probability


def swiglu_backward_fp8_with_activation(
    z: Stored, probability: Tensor, grad: Tensor, offsets: Tensor
) -> tuple[Fp8Tensor, Fp8Tensor, Tensor, Fp8Tensor]:
    rows, activation = empty_fp8_rows(*z.shape, grad.device), empty_fp8_rows(*grad.shape, grad.device)
    d_probability = torch.empty_like(probability)
    _launch_backward(z, probability, grad, d_probability, fp8=rows, activation=activation)
    columns = fp8_rows_to_columns(rows, offsets)
    return rows, columns, d_probability, fp8_rows_to_columns(activation, offsets)
