"""From rows of numbers in registers to MXFP4 and FP8: what every kernel that ends in a quantised row shares.

The numbers are FP32 that hold BF16 values exactly. Their BF16 bits, without the sign, order them; 0x7F80 is infinity.
"""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from pauca.moe.kernels.bits import NAN_BYTE, error_change

INFINITY = tl.constexpr(0x7F80)


@triton.jit
def magnitude_bits(x):
    return (x.to(tl.int32, bitcast=True) & 0x7FFFFFFF) >> 16


@triton.jit
def largest_finite(x):
    """BF16 bits of each number's magnitude, zero for infinity and NaN: ready for a maximum."""
    bits = magnitude_bits(x)
    return tl.where(bits < INFINITY, bits, 0)


@triton.jit
def largest_finite_of_row(x):
    """The largest of `largest_finite` over a whole row, looking for infinity and NaN only where there are any."""
    largest = tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0) >> 16
    if largest >= INFINITY:
        largest = tl.max(largest_finite(x), 0)
    return largest


@triton.jit
def round_to_bfloat16(x, PTX: tl.constexpr):
    """FP32 to BF16, to nearest even; two in one instruction."""
    if PTX:
        return tl.inline_asm_elementwise(
            "cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,r,r", [x], dtype=tl.bfloat16, is_pure=True, pack=2
        )
    return x.to(tl.bfloat16)


@triton.jit
def fp8_scale_byte(largest):
    """The smallest scale that keeps the largest magnitude (BF16 bits) at or below 448 = 1.75 * 2^8."""
    return tl.maximum(((largest + 0x1F) >> 7) - 8, 0)


@triton.jit
def to_e4m3(x, byte):
    """E4M3 codes over the scale, rounded to nearest even; infinity and NaN become NaN."""
    inverse = ((254 - byte) << 23).to(tl.float32, bitcast=True)
    # The second term is zero, or NaN for infinity, which the conversion would bring down to 448.
    return tl.fma(x, 0.0, x * inverse).to(tl.float8e4nv).to(tl.uint8, bitcast=True)


@triton.jit
def to_mxfp4(x, CARRY: tl.constexpr, SATURATE: tl.constexpr, BEST: tl.constexpr, WIDTH: tl.constexpr):
    """Packed codes [WIDTH / 2] and scale bytes [WIDTH / 32] of x [WIDTH], as uint8."""
    x = x.reshape(WIDTH // 32, 32)
    largest = tl.max(magnitude_bits(x), 1)
    byte = tl.maximum(((largest + CARRY) >> 7) - 2, 0)
    # 2^(113 - byte) takes the scale to 2^-14; it is subnormal in FP32 where the scale is above 2^112.
    factor = tl.where(byte < 240, (240 - byte) << 23, 0x800000 >> tl.maximum(byte - 239, 0))
    factor = factor.to(tl.float32, bitcast=True)[:, None]
    halves = (tl.abs(x) * factor).to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32)
    if BEST:
        larger = tl.sum(error_change(halves), 1) < 0
        byte += larger.to(tl.int32)
        factor = tl.where(larger[:, None], factor * 0.5, factor)
        halves = (tl.abs(x) * factor).to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32)
    if SATURATE:
        halves = tl.minimum(halves, 0x0E00)
    # The rounding of `bits.halves_to_e2m1x8`, one number at a time.
    codes = (halves + ((halves >> 9) & 1) + 0xFF) >> 9
    codes = codes | ((x.to(tl.int32, bitcast=True) >> 28) & 8)
    bad, zero = largest >= INFINITY, largest == 0
    codes = tl.where((bad | zero)[:, None], 0, codes)
    low, high = tl.split(codes.reshape(WIDTH // 2, 2))
    byte = tl.where(bad, NAN_BYTE, tl.where(zero, 0, byte))
    return (low | (high << 4)).to(tl.uint8), byte.to(tl.uint8)
