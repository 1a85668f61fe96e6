"""From rows of numbers in registers to MXFP4 and FP8: what every kernel that ends in a quantized row shares.

The numbers are FP32 that hold BF16 values exactly. Their BF16 bits, without the sign, order them; 0x7F80 is infinity.
"""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from pauca.moe.ops.kernels.bits import NAN_BYTE, clamp_halves, error_changes, round_to_e2m1

INFINITY = tl.constexpr(0x7F80)


@triton.jit
def magnitude(x):
    """FP32 bits without the sign, which order as the magnitudes do; NaN comes after infinity."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def largest_finite(x):
    """BF16 bits of each number's magnitude, zero for infinity and NaN: ready for a maximum."""
    bits = magnitude(x) >> 16
    return tl.where(bits < INFINITY, bits, 0)


@triton.jit
def infinity_to_nan(x):
    return tl.fma(x, 0.0, x)


@triton.jit
def finite_row(x):
    """The largest of `largest_finite` over a row, and the row with NaN for infinity.

    A floating-point maximum leaves NaN out by itself, so more is spent only where a row holds infinity.
    """
    largest = tl.max(tl.abs(x), 0).to(tl.int32, bitcast=True) >> 16
    if largest >= INFINITY:
        largest = tl.max(largest_finite(x), 0)
        x = infinity_to_nan(x)
    return largest, x


@triton.jit
def fp8_scale_byte(largest):
    """The smallest scale that keeps the largest magnitude (BF16 bits) at or below 448 = 1.75 * 2^8."""
    return tl.maximum(((largest + 0x1F) >> 7) - 8, 0)


@triton.jit
def to_e4m3(x, byte):
    """E4M3 codes over the scale, rounded to nearest even. NaN stays NaN; infinity must have become NaN before."""
    inverse = ((254 - byte) << 23).to(tl.float32, bitcast=True)
    return (x * inverse).to(tl.float8e4nv).to(tl.uint8, bitcast=True)


@triton.jit
def _pair_of_halves(low, high, PTX: tl.constexpr):
    """Two FP32 numbers rounded to binary16, in one word."""
    if PTX:
        return tl.inline_asm_elementwise(
            "cvt.rn.f16x2.f32 $0, $2, $1;", "=r,f,f", [low, high], dtype=tl.int32, is_pure=True, pack=1
        )
    low = low.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32)
    high = high.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32)
    return (low & 0xFFFF) | (high << 16)


@triton.jit
def _per_pair(block_values, WIDTH: tl.constexpr):
    """One value per block of 32, repeated for each of its 16 pairs."""
    return block_values[:, None].broadcast_to(WIDTH // 32, 16).reshape(WIDTH // 2)


@triton.jit
def to_mxfp4(
    x, CARRY: tl.constexpr, SATURATE: tl.constexpr, BEST: tl.constexpr, WIDTH: tl.constexpr, PTX: tl.constexpr
):
    """Packed codes [WIDTH / 2] and scale bytes [WIDTH / 32] of x [WIDTH], as uint8."""
    low, high = tl.split(x.reshape(WIDTH // 2, 2))
    larger = tl.maximum(magnitude(low), magnitude(high))
    largest = tl.max(larger.reshape(WIDTH // 32, 16), 1) >> 16
    byte = tl.maximum(((largest + CARRY) >> 7) - 2, 0)
    # 2^(113 - byte) takes the scale to 2^-14; it is subnormal in FP32 where the scale is above 2^112.
    factor = tl.where(byte < 240, (240 - byte) << 23, 0x800000 >> tl.maximum(byte - 239, 0))
    factor = factor.to(tl.float32, bitcast=True)
    each = _per_pair(factor, WIDTH)
    pairs = _pair_of_halves(low * each, high * each, PTX)
    if BEST:
        change = error_changes(pairs & 0x7FFF7FFF).reshape(WIDTH // 32, 16)
        next_scale = tl.sum(change, 1) < 0
        byte += next_scale.to(tl.int32)
        each = _per_pair(tl.where(next_scale, factor * 0.5, factor), WIDTH)
        pairs = _pair_of_halves(low * each, high * each, PTX)
    if SATURATE:
        pairs = clamp_halves(pairs & 0x7FFF7FFF, PTX) | (pairs & -0x7FFF8000)
    codes = round_to_e2m1(pairs)
    codes = codes | ((codes >> 3) & 0x10001000)  # the sign beside the code
    packed = ((codes >> 9) & 0x0F) | ((codes >> 21) & 0xF0)
    bad, zero = largest >= INFINITY, largest == 0
    packed = tl.where(_per_pair((bad | zero).to(tl.int32), WIDTH) != 0, 0, packed)
    byte = tl.where(bad, NAN_BYTE, tl.where(zero, 0, byte))
    return packed.to(tl.uint8), byte.to(tl.uint8)
