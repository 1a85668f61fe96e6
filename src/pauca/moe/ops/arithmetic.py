"""Numbers of few bits as integers: taken apart, shifted, rounded once and put together again.

A value is sign, `sig` and `ex`, worth +-sig * 2^ex (`Parts`). What `reference` builds its conversions of."""

from typing import NamedTuple

import torch
from jaxtyping import BFloat16, Bool, Int, UInt8
from torch import Tensor

from pauca.moe.ops.formats import (
    E4M3_MAX,
    E4M3_NAN,
)

SIG_BITS = 8  # the widest significand here, BF16's with its hidden bit


class Parts(NamedTuple):
    """Numbers taken apart: (-1)^negative * sig * 2^ex with 0 <= sig < 256; `bad` marks NaN and infinity."""

    negative: Bool[Tensor, "..."]
    sig: Int[Tensor, "..."]
    ex: Int[Tensor, "..."]
    bad: Bool[Tensor, "..."]


def split_bfloat16(x: BFloat16[Tensor, "..."]) -> Parts:
    """Take BF16 numbers apart, of any shape; infinity and NaN are `bad`."""
    bits = x.contiguous().view(torch.int16).int()
    exponent, mantissa = bits >> 7 & 0xFF, bits & 0x7F
    sig = torch.where(exponent > 0, mantissa + 128, mantissa)
    return Parts(bits < 0, sig, exponent.clamp(min=1) - 127 - 7, exponent == 255)


def split_e4m3(codes: UInt8[Tensor, "..."]) -> Parts:
    """Take E4M3 codes apart, of any shape: 1 sign, 4 exponent and 3 mantissa bits; the code 0x7F, NaN, is `bad`."""
    code = codes.int()
    exponent, mantissa = code >> 3 & 15, code & 7
    sig = torch.where(exponent > 0, mantissa + 8, mantissa)
    return Parts(code > 127, sig, exponent.clamp(min=1) - 7 - 3, (code & 0x7F) == E4M3_NAN)


def split_e2m1(codes: UInt8[Tensor, "..."]) -> Parts:
    """Take E2M1 codes (0 to 15) apart, of any shape: 1 sign, 2 exponent and 1 mantissa bit; none is `bad`."""
    code = codes.int()
    exponent, mantissa = code >> 1 & 3, code & 1
    sig = torch.where(exponent > 0, mantissa + 2, mantissa)
    return Parts(code > 7, sig, exponent.clamp(min=1) - 1 - 1, torch.zeros_like(code, dtype=torch.bool))


def bit_length(sig: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Binary digits of 0 <= sig < 256; none for zero."""
    return torch.frexp(sig.float()).exponent


def shift_round(sig: Int[Tensor, "..."], right: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """sig * 2^-right to the nearest integer, ties to even. `right` may be negative."""
    left = sig << (-right).clamp(0, 31 - SIG_BITS)
    places = right.clamp(1, SIG_BITS + 2)  # further right, every significand is below one half already
    rounded = (sig + (1 << places - 1) - 1 + (sig >> places & 1)) >> places
    return torch.where(right > 0, rounded, left)


def _encode(
    parts: Parts, exponent: Int[Tensor, "..."], bias: int, mantissa_bits: int, largest: int
) -> Int[Tensor, "..."]:
    """The magnitude code of sig * 2^(ex - exponent) in a format whose smallest normal is 2^(1 - bias)."""
    top = parts.ex + bit_length(parts.sig) - 1 - exponent  # floor(log2) of the scaled value
    binade = top.clamp(min=1 - bias)  # subnormals share the spacing of the first normal binade
    steps = shift_round(parts.sig, binade - mantissa_bits + exponent - parts.ex)
    code = steps + (binade - (1 - bias) << mantissa_bits)
    return torch.where(parts.sig > 0, code, 0).clamp(max=largest)


def encode_e4m3(parts: Parts, exponent: Int[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """E4M3 codes of the numbers over 2^exponent, rounded to nearest even and saturated at 448; `bad` becomes NaN."""
    code = _encode(parts, exponent, bias=7, mantissa_bits=3, largest=E4M3_MAX)
    code = code + 128 * parts.negative.int()
    return torch.where(parts.bad, E4M3_NAN, code).to(torch.uint8)


def encode_e2m1(parts: Parts, exponent: Int[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """E2M1 codes of the numbers over 2^exponent, rounded to nearest even and saturated at 6."""
    code = _encode(parts, exponent, bias=1, mantissa_bits=1, largest=7)
    return (code + 8 * parts.negative.int()).to(torch.uint8)


def largest(parts: Parts) -> tuple[Int[Tensor, "..."], Int[Tensor, "..."]]:
    """The floor(log2) and the normalized significand of the largest number along the last axis, `bad` ones left out.

    The significand has its leading bit at 128, so 128 to 255 stands for 1 to 1.99; it is zero where all numbers are.
    """
    length = bit_length(parts.sig)
    order = (parts.ex + length << SIG_BITS) + (parts.sig << SIG_BITS - length)
    order = torch.where((parts.sig > 0) & ~parts.bad, order, torch.iinfo(torch.int32).min)
    best = order.argmax(-1, keepdim=True)
    nonzero = order.gather(-1, best) > torch.iinfo(torch.int32).min
    sig = torch.where(nonzero, parts.sig.gather(-1, best), 0)
    length = bit_length(sig)
    return (parts.ex.gather(-1, best) + length - 1).squeeze(-1), (sig << SIG_BITS - length).squeeze(-1)
