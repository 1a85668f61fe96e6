"""Bit arithmetic that the kernels share, on 32-bit words of packed codes.

Eight elements travel as four words of two halves, elements (0, 4), (1, 5), (2, 6) and (3, 7), because E2M1 codes
rounded in the low and the high half of word j then belong at bits 4j and 4j + 16 of the packed result. A half is a
binary16 number. Functions that take PTX have two bodies: inline assembly for pairs of halves (one instruction where
plain code needs five to ten), and plain Triton for the interpreter, which knows no PTX.
"""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import os

import triton
import triton.language as tl

from pauca.moe.ops.formats import ScaleRule

# Which bodies the launchers ask for.
PTX = os.environ.get("TRITON_INTERPRET") != "1"

NAN_BYTE = tl.constexpr(255)
E4M3_NAN = tl.constexpr(0x7F)
NAN_WORD = tl.constexpr(0x7F7F7F7F)


def carry(rule: ScaleRule, mantissa_bits: int) -> int:
    """Added to a magnitude's bits, it carries into the exponent if the rule asks for the larger scale."""
    one = 1 << mantissa_bits
    return {ScaleRule.EVEN: one // 4, ScaleRule.RCEIL: one // 2 - 1, ScaleRule.CEIL: one - 1}.get(rule, 0)


def next_power_of_two(n: int) -> int:
    """What Triton's ranges must be."""
    return 1 << max(n - 1, 0).bit_length()


@triton.jit
def _join_halves(low, high):
    return (high.to(tl.int32) << 16) | (low.to(tl.int32) & 0xFFFF)


@triton.jit
def _half(word, which: tl.constexpr):
    return ((word >> (16 * which)) & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def _e4m3_to_half(code):
    """E4M3 bits moved into binary16's place are worth 2^-8 of the number, subnormals included."""
    half = (((code & 0x80) << 8) | ((code & 0x7F) << 7)).to(tl.int16).to(tl.float16, bitcast=True) * 256.0
    bits = half.to(tl.int16, bitcast=True)
    return tl.where((code & 0x7F) == E4M3_NAN, 0x7FFF, bits)


@triton.jit
def e4m3x8_to_halves(first, second, PTX: tl.constexpr):
    """Two words of four E4M3 codes as four words of halves (0, 4), (1, 5), (2, 6), (3, 7)."""
    if PTX:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 p, q;
            .reg .b16 p0, p1, q0, q1;
            prmt.b32 p, $4, $5, 0x5140;
            prmt.b32 q, $4, $5, 0x7362;
            mov.b32 {p0, p1}, p;
            mov.b32 {q0, q1}, q;
            cvt.rn.f16x2.e4m3x2 $0, p0;
            cvt.rn.f16x2.e4m3x2 $1, p1;
            cvt.rn.f16x2.e4m3x2 $2, q0;
            cvt.rn.f16x2.e4m3x2 $3, q1;
            }""",
            "=r,=r,=r,=r,r,r",
            [first, second],
            dtype=(tl.int32, tl.int32, tl.int32, tl.int32),
            is_pure=True,
            pack=1,
        )
    a = _join_halves(_e4m3_to_half(first), _e4m3_to_half(second))
    b = _join_halves(_e4m3_to_half(first >> 8), _e4m3_to_half(second >> 8))
    c = _join_halves(_e4m3_to_half(first >> 16), _e4m3_to_half(second >> 16))
    d = _join_halves(_e4m3_to_half(first >> 24), _e4m3_to_half(second >> 24))
    return a, b, c, d


@triton.jit
def largest_half(a, b, c, d, PTX: tl.constexpr):
    """The largest magnitude among the halves of four words, as binary16 bits; NaN counts as larger than any number."""
    if PTX:
        pair = tl.inline_asm_elementwise(
            """{
            .reg .b32 a, b, c, d;
            abs.f16x2 a, $1;
            abs.f16x2 b, $2;
            abs.f16x2 c, $3;
            abs.f16x2 d, $4;
            max.NaN.f16x2 a, a, b;
            max.NaN.f16x2 c, c, d;
            max.NaN.f16x2 $0, a, c;
            }""",
            "=r,r,r,r,r",
            [a, b, c, d],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
        return tl.maximum(pair & 0xFFFF, pair >> 16)
    low = tl.maximum(tl.maximum(a & 0x7FFF, b & 0x7FFF), tl.maximum(c & 0x7FFF, d & 0x7FFF))
    a, b, c, d = a >> 16, b >> 16, c >> 16, d >> 16
    high = tl.maximum(tl.maximum(a & 0x7FFF, b & 0x7FFF), tl.maximum(c & 0x7FFF, d & 0x7FFF))
    return tl.maximum(low, high)


@triton.jit
def scale_halves(word, factor, PTX: tl.constexpr):
    """Magnitudes of both halves times `factor` (binary16 bits)."""
    if PTX:
        return tl.inline_asm_elementwise(
            "abs.f16x2 $0, $1; mul.f16x2 $0, $0, $2;",
            "=&r,r,r",
            [word, factor | (factor << 16)],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    scale = _half(factor, 0)
    low = (_half(word & 0x7FFF, 0) * scale).to(tl.int16, bitcast=True).to(tl.int32)
    high = (_half(word & 0x7FFF0000, 1) * scale).to(tl.int16, bitcast=True).to(tl.int32)
    return (high << 16) | low


@triton.jit
def clamp_halves(word, PTX: tl.constexpr):
    """Halves whose 1.0 is 2^-14, brought down to 6."""
    if PTX:
        return tl.inline_asm_elementwise(
            "min.f16x2 $0, $1, $2;", "=r,r,r", [word, 0x0E000E00], dtype=tl.int32, is_pure=True, pack=1
        )
    return (tl.minimum(word >> 16, 0x0E00) << 16) | tl.minimum(word & 0xFFFF, 0x0E00)


@triton.jit
def round_to_e2m1(halves):
    """E2M1 magnitudes at bits 9 to 11 of each half, of numbers whose 1.0 is 2^-14.

    2^-14 is binary16's smallest normal, so E2M1's 0.5 is where binary16 too is subnormal, and an E2M1 code is
    binary16's bits cut to one mantissa bit. Adding half of what is cut off, less one unless the kept part is odd,
    rounds to nearest even in every binade at once.
    """
    return halves + ((halves >> 9) & 0x00010001) + 0x00FF00FF


@triton.jit
def _merge(a, b, MASK: tl.constexpr):
    """Bits of `a` where MASK has ones, of `b` where it has zeros."""
    return ((a ^ b) & MASK) ^ b


@triton.jit
def _even_and_odd_bytes(first, second, PTX: tl.constexpr):
    """Bytes 0, 2, 4, 6 and bytes 1, 3, 5, 7 of two words."""
    if PTX:
        return tl.inline_asm_elementwise(
            "prmt.b32 $0, $2, $3, 0x6420; prmt.b32 $1, $2, $3, 0x7531;",
            "=&r,=&r,r,r",
            [first, second],
            dtype=(tl.int32, tl.int32),
            is_pure=True,
            pack=1,
        )
    even = (first & 0xFF) | ((first >> 8) & 0xFF00) | ((second & 0xFF) << 16) | ((second << 8) & -0x1000000)
    odd = ((first >> 8) & 0xFF) | ((first >> 16) & 0xFF00) | ((second << 8) & 0xFF0000) | (second & -0x1000000)
    return even, odd


@triton.jit
def signs_to_nibbles(first, second, PTX: tl.constexpr):
    """The top bits of eight bytes at the top bits of eight nibbles; the other bits are not defined."""
    even, odd = _even_and_odd_bytes(first, second, PTX)
    return _merge(odd, even >> 4, -0x7F7F7F80)


@triton.jit
def half_factor(exponent):
    """2^(-14 - exponent) as binary16 bits, for exponents from -14 to 10: it takes 2^exponent to 2^-14."""
    return tl.where(exponent <= 0, (1 - exponent) << 10, 1024 >> tl.maximum(exponent, 0))


@triton.jit
def halves_to_e2m1x8(a, b, c, d, signs):
    """Halves (0, 4), (1, 5), (2, 6), (3, 7) whose 1.0 is 2^-14 as one word of E2M1 codes, element 0 in the low nibble.

    `signs` has each element's sign at the top of its nibble. No half is above 7.
    """
    low = _merge(round_to_e2m1(a), round_to_e2m1(b) << 4, 0x1FFF1FFF)
    high = _merge(round_to_e2m1(c), round_to_e2m1(d) << 4, 0x1FFF1FFF)
    word = _merge(low >> 9, high >> 1, 0x00FF00FF)
    return _merge(signs, word, -0x77777778)


@triton.jit
def error_change(half):
    """By how much the squared error of one number changes with twice the scale, in 2^-18; an exact integer.

    The number is a magnitude in binary16 bits whose 1.0 is 2^-14. Below a quarter both scales round to zero, and
    nothing changes; from there on the number is a multiple of 2^-9, as BF16 has eight significant bits.
    """
    number = half.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32) * 16384.0
    smaller = tl.minimum(half, 0x0E00)
    smaller = (round_to_e2m1(smaller) & 0x0E00).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32) * 16384.0
    halved = (number * 0.000030517578125).to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32)
    larger = (round_to_e2m1(halved) & 0x0E00).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32) * 32768.0
    before = ((number - smaller) * 512.0).to(tl.int32)
    after = ((number - larger) * 512.0).to(tl.int32)
    return tl.where(number >= 0.25, after * after - before * before, 0)


@triton.jit
def error_changes(word):
    """`error_change` of both halves together."""
    return error_change(word & 0xFFFF) + error_change(word >> 16)


@triton.jit
def e4m3_table(gap):
    """The E4M3 codes of E2M1's magnitudes times 2^(6 - gap), rounded to nearest even: two words of four bytes.

    Up to gap 11 all are normal and a gap of one lowers each exponent field by one. At 12 to 14 the smallest are
    subnormal and still exact; from 15 on bits are lost; from 19 on nothing is left.
    """
    low = 0x6C686000 - gap * 0x08080800
    high = 0x7C787470 - gap * 0x08080808
    low = tl.where(gap > 11, 0x0C080400, low)
    high = tl.where(gap > 11, 0x1C181410, high)
    low = tl.where(gap > 12, 0x06040200, low)
    high = tl.where(gap > 12, 0x14100C08, high)
    low = tl.where(gap > 13, 0x03020100, low)
    high = tl.where(gap > 13, 0x0C080604, high)
    low = tl.where(gap > 14, 0x02010000, low)
    high = tl.where(gap > 14, 0x06040302, high)
    low = tl.where(gap > 15, 0x01000000, low)
    high = tl.where(gap > 15, 0x03020201, high)
    low = tl.where(gap > 16, 0, low)
    high = tl.where(gap > 16, 0x02010100, high)
    high = tl.where(gap > 17, 0x01000000, high)
    return low, tl.where(gap > 18, 0, high)


@triton.jit
def _look_up(low, high, nibbles, which: tl.constexpr):
    """The table byte of nibble `which`, with the nibble's sign, at byte `which` (mod 4) of a word."""
    nibble = nibbles >> (4 * which)
    table = tl.where((nibble & 4) != 0, high, low)
    byte = (table >> (8 * (nibble & 3))) & 0xFF
    return (byte | ((nibble & 8) << 4)) << (8 * (which % 4))


@triton.jit
def e2m1x8_to_e4m3(nibbles, low, high, PTX: tl.constexpr):
    """One word of eight E2M1 codes as two words of E4M3 codes, by the block's table."""
    if PTX:
        # A selector nibble above 7 makes prmt spread the top bit of the chosen byte. With 0x80 in every byte that gives
        # 0xFF for negative elements and 0x80 for the others: bit 6 is the sign.
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 m, n, s, t;
            and.b32 m, $2, 0x77777777;
            prmt.b32 $0, $3, $4, m;
            shr.u32 m, m, 16;
            prmt.b32 $1, $3, $4, m;
            prmt.b32 s, $5, $5, $2;
            shr.u32 n, $2, 16;
            prmt.b32 t, $5, $5, n;
            shl.b32 s, s, 1;
            shl.b32 t, t, 1;
            lop3.b32 $0, $0, s, $5, 0xF8;
            lop3.b32 $1, $1, t, $5, 0xF8;
            }""",
            "=&r,=&r,r,r,r,r",
            [nibbles, low, high, -0x7F7F7F80],
            dtype=(tl.int32, tl.int32),
            is_pure=True,
            pack=1,
        )
    first = _look_up(low, high, nibbles, 0) | _look_up(low, high, nibbles, 1)
    first = first | _look_up(low, high, nibbles, 2) | _look_up(low, high, nibbles, 3)
    second = _look_up(low, high, nibbles, 4) | _look_up(low, high, nibbles, 5)
    second = second | _look_up(low, high, nibbles, 6) | _look_up(low, high, nibbles, 7)
    return first, second


@triton.jit
def _lower_half(code, factor):
    """One E4M3 code times a binary16 power of two, rounded to nearest even."""
    half = _e4m3_to_half(code & 0xFF).to(tl.int16).to(tl.float16, bitcast=True) * factor
    bits = half.to(tl.int16, bitcast=True).to(tl.int32)
    magnitude = bits & 0x7FFF
    # Below 2^-6 E4M3 counts in steps of 2^-9, which is binary16's own step from 2 to 4.
    counted = magnitude.to(tl.int16).to(tl.float16, bitcast=True) + 2.0
    subnormal = counted.to(tl.int16, bitcast=True).to(tl.int32) - 0x4000
    normal = (magnitude - 0x2000) >> 7
    rounded = tl.where(magnitude < 0x2400, subnormal, normal)
    return tl.where(magnitude > 0x7C00, E4M3_NAN, rounded | ((bits >> 8) & 0x80))


@triton.jit
def lower_e4m3x4(codes, factor, PTX: tl.constexpr):
    """Four E4M3 codes times `factor` <= 1 (a power of two or NaN in binary16, twice), rounded to nearest even."""
    if PTX:
        return tl.inline_asm_elementwise(
            """{
            .reg .b16 p, q;
            .reg .b32 a, b;
            mov.b32 {p, q}, $1;
            cvt.rn.f16x2.e4m3x2 a, p;
            cvt.rn.f16x2.e4m3x2 b, q;
            mul.f16x2 a, a, $2;
            mul.f16x2 b, b, $2;
            cvt.rn.satfinite.e4m3x2.f16x2 p, a;
            cvt.rn.satfinite.e4m3x2.f16x2 q, b;
            mov.b32 $0, {p, q};
            }""",
            "=r,r,r",
            [codes, factor],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    half = _half(factor, 0)
    word = _lower_half(codes, half) | (_lower_half(codes >> 8, half) << 8)
    return word | (_lower_half(codes >> 16, half) << 16) | (_lower_half(codes >> 24, half) << 24)


@triton.jit
def transpose_bytes_4x4(a, b, c, d, PTX: tl.constexpr):
    """Word j of the result holds byte j of each of the four words."""
    if PTX:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 p, q, r, s;
            prmt.b32 p, $4, $5, 0x5140;
            prmt.b32 q, $6, $7, 0x5140;
            prmt.b32 r, $4, $5, 0x7362;
            prmt.b32 s, $6, $7, 0x7362;
            prmt.b32 $0, p, q, 0x5410;
            prmt.b32 $1, p, q, 0x7632;
            prmt.b32 $2, r, s, 0x5410;
            prmt.b32 $3, r, s, 0x7632;
            }""",
            "=r,=r,=r,=r,r,r,r,r",
            [a, b, c, d],
            dtype=(tl.int32, tl.int32, tl.int32, tl.int32),
            is_pure=True,
            pack=1,
        )
    return _column(a, b, c, d, 0), _column(a, b, c, d, 1), _column(a, b, c, d, 2), _column(a, b, c, d, 3)


@triton.jit
def _column(a, b, c, d, which: tl.constexpr):
    a, b, c, d = a >> 8 * which, b >> 8 * which, c >> 8 * which, d >> 8 * which
    return (a & 0xFF) | ((b & 0xFF) << 8) | ((c & 0xFF) << 16) | ((d & 0xFF) << 24)


@triton.jit
def lowering_factor(gap, bad):
    """2^-gap as binary16 bits, twice; zero beyond its range (where E4M3 keeps nothing either), NaN where `bad`."""
    factor = tl.where(gap < 15, (15 - gap) << 10, tl.where(gap < 25, 0x1000000 >> gap, 0))
    factor = tl.where(bad, 0x7FFF, factor)
    return factor | (factor << 16)


@triton.jit
def group_of_rows(offsets, row, groups, GROUPS: tl.constexpr):
    """The group of each row: how many groups end at or before it."""
    each = tl.arange(0, GROUPS)
    ends = tl.load(offsets + each, each < groups, other=0x7FFFFFFF)
    return tl.sum((ends[None, :] <= row[:, None]).to(tl.int32), 1)
