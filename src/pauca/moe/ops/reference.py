"""Every operation of `pauca.moe.ops` in plain torch: slow, obvious, and what the kernels are tested against.

Quantization is integer arithmetic on `Parts`: a value is sign, `sig` and `ex`, worth +-sig * 2^ex. Scales are powers of
two, so re-scaling is an exponent shift and only the final rounding (to nearest, ties to even) can lose anything. These
functions run on any device and take and return what `pauca.moe.ops` documents.
"""

import torch
from jaxtyping import BFloat16, Float, Int, Int32, Shaped, UInt8
from torch import Tensor

from pauca.moe.ops.arithmetic import (
    SIG_BITS,
    Parts,
    bit_length,
    encode_e2m1,
    encode_e4m3,
    largest,
    shift_round,
    split_bfloat16,
    split_e2m1,
    split_e4m3,
)
from pauca.moe.ops.formats import (
    BLOCK,
    E8M0_BIAS,
    E8M0_MAX,
    E8M0_NAN,
    TILE,
    Fp8Tensor,
    Granularity,
    MxFp4Tensor,
    ScaleRule,
    Stored,
    row_groups,
)

_E4M3_TOP = 8  # floor(log2(448))
_E2M1_TOP = 2  # floor(log2(6))
_HEADROOM = 6  # MXFP4's largest element, 6, times 2^6 is 384, the largest power of two below E4M3's 448


def _mxfp4_from_parts(parts: Parts, scale: Int[Tensor, "rows blocks"], rule: ScaleRule) -> MxFp4Tensor:
    """Quantize numbers [rows, blocks, 32] times 2^scale.

    A block is NaN, with zero codes, if it has a `bad` number or one beyond FP32's range, whose scale E8M0 cannot hold.
    """
    top, significand = largest(parts)
    bump = {
        ScaleRule.FLOOR: torch.zeros_like(significand, dtype=torch.bool),
        ScaleRule.EVEN: significand >= 224,
        ScaleRule.RCEIL: significand > 192,
        ScaleRule.CEIL: significand > 128,
        ScaleRule.BEST: torch.zeros_like(significand, dtype=torch.bool),
    }[rule]
    byte = (top - _E2M1_TOP + bump.int() + scale + E8M0_BIAS).clamp(min=0)
    bad, zero = parts.bad.any(-1) | (byte > E8M0_MAX), significand == 0
    if rule is ScaleRule.BEST:
        byte = _better_byte(parts, scale, byte)
    elements = encode_e2m1(parts, (byte - E8M0_BIAS - scale)[..., None])
    elements = torch.where((bad | zero)[..., None], 0, elements)
    byte = torch.where(bad, E8M0_NAN, torch.where(zero, 0, byte))
    return MxFp4Tensor.pack(elements.flatten(1), byte.to(torch.uint8))


def _better_byte(
    parts: Parts, scale: Int[Tensor, "rows blocks"], byte: Int[Tensor, "rows blocks"]
) -> Int[Tensor, "rows blocks"]:
    """`byte` or `byte + 1`, whichever leaves the smaller squared error; exact, so that kernels can agree bit for bit.

    Errors are counted in 2^-9 of the smaller scale. Values below a quarter round to zero at both scales and cancel;
    the others are whole multiples of 2^-9, as BF16 has eight significant bits.
    """
    exponent = (byte - E8M0_BIAS - scale)[..., None]
    next_byte = (byte + 1).clamp(max=E8M0_MAX)
    next_exponent = (next_byte - E8M0_BIAS - scale)[..., None]
    counts = parts.ex + bit_length(parts.sig) - 1 - exponent >= -2
    value = shift_round(parts.sig, (exponent - parts.ex - 9).clamp(min=SIG_BITS - 31)).long()
    halves = torch.tensor([0, 1, 2, 3, 4, 6, 8, 12], device=value.device)

    def error(at: Int[Tensor, "..."]) -> Int[Tensor, "rows blocks"]:
        rounded = halves[encode_e2m1(parts, at).long() & 7] << 8 + (at - exponent).long()
        return torch.where(counts, (value - rounded) ** 2, 0).sum(-1)

    return torch.where(error(next_exponent) < error(exponent), next_byte, byte)


def quantize_mxfp4(x: BFloat16[Tensor, "rows channels"], rule: ScaleRule = ScaleRule.EVEN) -> MxFp4Tensor:
    """MXFP4 of [rows, channels]: for each block of 32 channels a scale by `rule`, and codes rounded to nearest even."""
    blocks = x.unflatten(1, (-1, BLOCK))
    return _mxfp4_from_parts(split_bfloat16(blocks), torch.zeros_like(blocks[..., 0], dtype=torch.int32), rule)


def quantize_mxfp4_stochastic(
    x: BFloat16[Tensor, "rows channels"], noise: UInt8[Tensor, "rows channels"], rule: ScaleRule = ScaleRule.EVEN
) -> MxFp4Tensor:
    """MXFP4 rounded up with a probability equal to the distance from the code below, `noise` being uniform bytes.

    Unbiased to 1/256 of a step wherever the scale rule does not saturate. For experiments; no kernel.
    """
    nearest = quantize_mxfp4(x, rule)
    exponent = (nearest.scales.int() - E8M0_BIAS).repeat_interleave(BLOCK, 1)
    parts = split_bfloat16(x)
    top = parts.ex + bit_length(parts.sig) - 1 - exponent
    binade = top.clamp(min=0)
    # In 1/256 of a step, cut off at 24 bits: a step is 2^(binade - 1).
    fine = shift_round(parts.sig, (binade - 1 - 8 + exponent - parts.ex).clamp(min=SIG_BITS - 31))
    code = ((fine + noise.int()) >> 8) + (binade << 1)
    code = torch.where(parts.sig > 0, code, 0).clamp(max=7) + 8 * parts.negative.int()
    usable = ((nearest.scales > 0) & (nearest.scales < E8M0_NAN)).repeat_interleave(BLOCK, 1)
    return MxFp4Tensor.pack(torch.where(usable, code, nearest.elements()).to(torch.uint8), nearest.scales)


def _quantize_fp8(parts: Parts) -> tuple[UInt8[Tensor, "... n"], UInt8[Tensor, "..."]]:
    """Codes and scale bytes with one scale along the last axis: the smallest power of two that does not saturate."""
    top, significand = largest(parts)
    byte = (top - _E4M3_TOP + (significand > 224).int() + E8M0_BIAS).clamp(0, E8M0_MAX)
    byte = torch.where(significand > 0, byte, 0)
    return encode_e4m3(parts, (byte - E8M0_BIAS)[..., None]), byte.to(torch.uint8)


def quantize_fp8_rowwise(x: Float[Tensor, "rows channels"]) -> Fp8Tensor:
    """FP8 of [rows, channels] with one scale a row [rows]: the smallest power of two that does not saturate.

    FP32 is rounded to BF16 first.
    """
    return Fp8Tensor(*_quantize_fp8(split_bfloat16(x.bfloat16())), Granularity.ROW)


def quantize_fp8_tilewise(x: BFloat16[Tensor, "rows channels"]) -> Fp8Tensor:
    """FP8 of [rows, channels] with one scale for each 128 channels of a row [rows, channels / 128, rounded up]."""
    channels = x.shape[1]
    padded = torch.nn.functional.pad(x, (0, -channels % TILE))
    codes, scales = _quantize_fp8(split_bfloat16(padded.unflatten(1, (-1, TILE))))
    return Fp8Tensor(codes.flatten(1)[:, :channels].contiguous(), scales, Granularity.TILE)


def quantize_fp8_columns(
    x: Float[Tensor, "rows channels"], group_scales: UInt8[Tensor, " groups"], offsets: Int32[Tensor, " groups"]
) -> Fp8Tensor:
    """FP8 of [rows, channels] transposed, [channels, rows], with a given scale byte for each group of rows.

    `offsets` says where each group ends; rows of no group become zeros. Scales: [groups, channels], alike in a group.
    FP32 is rounded to BF16 first.
    """
    groups = row_groups(offsets, len(x)).long()
    inside = (groups < len(offsets))[:, None]
    byte = torch.cat([group_scales, group_scales.new_zeros(1)])[groups][:, None].int()
    parts = split_bfloat16(x.bfloat16())
    codes = encode_e4m3(parts._replace(bad=parts.bad | (byte == E8M0_NAN)), byte - E8M0_BIAS)
    scales = group_scales[:, None].expand(-1, x.shape[1]).contiguous()
    return Fp8Tensor(torch.where(inside, codes, 0).T.contiguous(), scales, Granularity.GROUP, offsets)


def _element_scales(x: Fp8Tensor) -> UInt8[Tensor, "rows channels"]:
    """The scale byte of each element of a row- or tile-scaled tensor."""
    if x.granularity is Granularity.ROW:
        return x.scales[:, None].expand(x.shape)
    return x.scales.repeat_interleave(TILE, 1)[:, : x.shape[1]]


def fp8_to_mxfp4(x: Fp8Tensor, rule: ScaleRule = ScaleRule.EVEN) -> MxFp4Tensor:
    """MXFP4 of an FP8 matrix [rows, channels] with scales by row or tile, without going through another float."""
    parts = split_e4m3(x.codes.unflatten(1, (-1, BLOCK)))
    scale = _element_scales(x)[:, ::BLOCK].int()
    parts = parts._replace(bad=parts.bad | (scale == E8M0_NAN)[..., None])
    return _mxfp4_from_parts(parts, scale - E8M0_BIAS, rule)


def _gather(x: Tensor, index: Int32[Tensor, "n"]) -> Tensor:
    """x[index], with zeros where the index names no row of x."""
    inside = (index >= 0) & (index < len(x))
    return torch.cat([x, x.new_zeros(1, *x.shape[1:])])[torch.where(inside, index, len(x)).long()]


def gather_rows(x: BFloat16[Tensor, "rows channels"], index: Int32[Tensor, "n"]) -> BFloat16[Tensor, "n channels"]:
    """Rows of x [rows, channels] by index, [n, channels]; an index outside of x gives a row of zeros."""
    return _gather(x, index)


def gather_fp8_rows(x: Fp8Tensor, index: Int32[Tensor, "n"]) -> Fp8Tensor:
    """Rows of x by index, codes and scales as they are; an index outside of x gives zeros under scale byte 0."""
    return Fp8Tensor(_gather(x.codes, index), _gather(x.scales, index), x.granularity)


def gather_mxfp4(x: MxFp4Tensor, index: Int32[Tensor, "n"] | None) -> MxFp4Tensor:
    """Rows of x by index (all of them where there is none); an index that names no row gives a row of zeros."""
    return x if index is None else MxFp4Tensor(_gather(x.data, index), x.channels)


def _mxfp4_to_e4m3(x: MxFp4Tensor, target: Int[Tensor, "rows blocks"]) -> UInt8[Tensor, "rows channels"]:
    """E4M3 codes of x over 2^(target - 127); NaN blocks become NaN codes."""
    parts = split_e2m1(x.elements().unflatten(1, (-1, BLOCK)))
    parts = parts._replace(bad=parts.bad | (x.scales == E8M0_NAN)[..., None])
    return encode_e4m3(parts, (target - x.scales.int())[..., None]).flatten(1)


def _finite(scales: UInt8[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Scale bytes for a maximum: NaN blocks do not count."""
    return torch.where(scales == E8M0_NAN, 0, scales.int())


def gather_mxfp4_to_fp8_rows(x: MxFp4Tensor, index: Int32[Tensor, "n"] | None = None) -> Fp8Tensor:
    """FP8 with one scale a row from rows of x by index (all, if None): [n, channels].

    A row's scale is 2^-6 times that of its largest block, so that no element of that block loses a bit.
    """
    rows = gather_mxfp4(x, index)
    scales = (_finite(rows.scales).amax(1) - _HEADROOM).clamp(min=0)
    codes = _mxfp4_to_e4m3(rows, scales[:, None].expand(-1, rows.scales.shape[1]))
    return Fp8Tensor(codes, scales.to(torch.uint8), Granularity.ROW)


def _group_maximum(
    scales: Int[Tensor, "rows parts"], offsets: Int32[Tensor, "groups"]
) -> tuple[Int[Tensor, "groups parts"], Int[Tensor, "rows parts"]]:
    """The largest scale of each group, and the same spread to the rows; rows of no group keep their own."""
    groups = row_groups(offsets, len(scales)).long()[:, None].expand_as(scales)
    largest = torch.cat([scales.new_zeros(len(offsets), scales.shape[1]), scales.new_full((1, scales.shape[1]), 255)])
    largest = largest.scatter_reduce(0, groups, scales, "amax")
    return largest[:-1], largest.gather(0, groups)


def gather_mxfp4_to_fp8_columns(
    x: MxFp4Tensor, index: Int32[Tensor, "n"] | None, offsets: Int32[Tensor, "groups"]
) -> Fp8Tensor:
    """FP8 transposed, [channels, n], from rows of x by index (all, if None), with scales [groups, channels].

    A group's scale for a channel is 2^-6 times the largest of that channel's blocks in the group's rows. Rows past the
    last of the `offsets` become zeros.
    """
    rows = gather_mxfp4(x, index)
    largest, spread = _group_maximum(_finite(rows.scales), offsets)
    scales = (largest - _HEADROOM).clamp(min=0).to(torch.uint8).repeat_interleave(BLOCK, 1)
    codes = _mxfp4_to_e4m3(rows, (spread - _HEADROOM).clamp(min=0))
    codes = torch.where((row_groups(offsets, len(codes)) < len(offsets))[:, None], codes, 0)
    return Fp8Tensor(codes.T.contiguous(), scales, Granularity.GROUP, offsets)


def count_inexact(
    x: MxFp4Tensor, index: Int32[Tensor, "n"] | None, offsets: Int32[Tensor, "groups"] | None = None
) -> tuple[Int[Tensor, ""], Int[Tensor, ""]]:
    """How many elements the shared scale of a gather to FP8 could not hold exactly, and how many are not zero.

    Rows share a scale each, or with `offsets` the groups do. For debugging: it keeps several FP32 copies of the rows,
    but never synchronizes. Elements of NaN blocks count as neither.
    """
    rows = gather_mxfp4(x, index)
    converted = (
        gather_mxfp4_to_fp8_rows(x, index) if offsets is None else gather_mxfp4_to_fp8_columns(x, index, offsets)
    )
    wanted = rows.dequantize()
    if offsets is not None:
        wanted = torch.where((row_groups(offsets, len(wanted)) < len(offsets))[:, None], wanted, 0.0)
    number = ~wanted.isnan()
    return ((converted.dequantize() != wanted) & number).sum(), ((wanted != 0) & number).sum()


def fp8_rows_to_columns(
    x: Fp8Tensor, offsets: Int32[Tensor, "groups"], index: Int32[Tensor, "n"] | None = None
) -> Fp8Tensor:
    """An FP8 matrix transposed, [channels, n], from rows of x by index (all, if None): scales [groups, channels].

    A group's scale for a channel is the largest scale of that channel in the group's rows. Rows past the last of the
    `offsets` become zeros.
    """
    rows = x if index is None else gather_fp8_rows(x, index)
    by_tile = rows.scales[:, None] if rows.granularity is Granularity.ROW else rows.scales
    width = rows.shape[1] if rows.granularity is Granularity.ROW else TILE
    largest, spread = _group_maximum(_finite(by_tile), offsets)

    def widen(scales: Shaped[Tensor, "_ parts"]) -> Shaped[Tensor, "_ channels"]:
        return scales.repeat_interleave(width, 1)[:, : rows.shape[1]]

    parts = split_e4m3(rows.codes)
    parts = parts._replace(bad=parts.bad | widen(by_tile == E8M0_NAN))
    codes = encode_e4m3(parts, widen(spread) - widen(by_tile.int()))
    codes = torch.where((row_groups(offsets, len(codes)) < len(offsets))[:, None], codes, 0)
    return Fp8Tensor(codes.T.contiguous(), widen(largest).to(torch.uint8).contiguous(), Granularity.GROUP, offsets)


def _gate_and_up(z: Stored) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "rows width"]]:
    """The two halves of z [rows, 2 width], each [rows, width] in FP32."""
    gate, up = (z.float() if isinstance(z, Tensor) else z.dequantize()).chunk(2, 1)
    return gate, up


def swiglu(z: Stored, probability: Float[Tensor, "rows"]) -> BFloat16[Tensor, "rows width"]:
    """silu(gate) * up * probability, [rows, width] in BF16, of z = [gate, up] [rows, 2 width]."""
    gate, up = _gate_and_up(z)
    return (gate * gate.sigmoid() * up * probability[:, None]).bfloat16()


def swiglu_fp8(
    z: Stored, probability: Float[Tensor, "rows"], rule: ScaleRule | None = None
) -> tuple[Fp8Tensor, MxFp4Tensor | None]:
    """`swiglu` [rows, width] in FP8 with one scale a row; and in MXFP4, by `rule`, unless that is None."""
    activation = swiglu(z, probability)
    return quantize_fp8_rowwise(activation), None if rule is None else quantize_mxfp4(activation, rule)


def swiglu_backward(
    z: Stored, probability: Float[Tensor, "rows"], grad: BFloat16[Tensor, "rows width"]
) -> tuple[BFloat16[Tensor, "rows channels"], Float[Tensor, "rows"]]:
    """The gradients of z [rows, 2 width] in BF16 and of probability [rows] in FP32, from the output's [rows, width]."""
    gate, up = _gate_and_up(z)
    sigmoid, grad32 = gate.sigmoid(), grad.float()
    silu = gate * sigmoid
    d_probability = (grad32 * (silu * up)).sum(1)
    weighted = grad32 * probability[:, None]
    d_gate = weighted * up * (sigmoid + silu * (1 - sigmoid))
    return torch.cat([d_gate, weighted * silu], 1).bfloat16(), d_probability


def swiglu_backward_fp8(
    z: Stored,
    probability: Float[Tensor, "rows"],
    grad: BFloat16[Tensor, "rows width"],
    offsets: Int32[Tensor, "groups"],
) -> tuple[Fp8Tensor, Fp8Tensor, Float[Tensor, "rows"]]:
    """`swiglu_backward` with z's gradient in FP8 twice: by rows [rows, 2 width], and transposed [2 width, rows].

    The transposed one has scales [groups, 2 width]: what the weight gradient's product takes.
    """
    d_z, d_probability = swiglu_backward(z, probability, grad)
    rows = quantize_fp8_rowwise(d_z)
    return rows, fp8_rows_to_columns(rows, offsets), d_probability


def swiglu_fp8_keeping_z(
    z: BFloat16[Tensor, "rows channels"], probability: Float[Tensor, " rows"], rule: ScaleRule, keep: bool
) -> tuple[Fp8Tensor, MxFp4Tensor, MxFp4Tensor | None]:
    """`swiglu_fp8`, and z [rows, 2 width] in MXFP4 by `rule`; the activation in MXFP4 only if `keep`."""
    activation, kept = swiglu_fp8(z, probability, rule if keep else None)
    return activation, quantize_mxfp4(z, rule), kept


def swiglu_backward_fp8_with_activation(
    z: Stored,
    probability: Float[Tensor, " rows"],
    grad: BFloat16[Tensor, "rows width"],
    offsets: Int32[Tensor, " groups"],
) -> tuple[Fp8Tensor, Fp8Tensor, Float[Tensor, " rows"], Fp8Tensor]:
    """`swiglu_backward_fp8`, and the activation in FP8 transposed, [width, rows]: what FC2's weight gradient takes."""
    rows, columns, d_probability = swiglu_backward_fp8(z, probability, grad, offsets)
    activation, _ = swiglu_fp8(z, probability)
    return rows, columns, d_probability, fp8_rows_to_columns(activation, offsets)


def combine(
    rows: BFloat16[Tensor, "n channels"],
    inverse: Int32[Tensor, "tokens k"],
    weights: Float[Tensor, "tokens k"] | None = None,
) -> BFloat16[Tensor, "tokens channels"]:
    """Sum each token's rows of [n, channels] in FP32, by `inverse` [tokens, k] and times `weights`: [tokens, channels].

    An index that names no row adds nothing. The order of the sum is that of `inverse`.
    """
    total = torch.zeros(len(inverse), rows.shape[1], device=rows.device)
    for copy in range(inverse.shape[1]):
        term = _gather(rows, inverse[:, copy]).float()
        total += term if weights is None else term * weights[:, copy, None]
    return total.bfloat16()


def combine_backward(
    grad: BFloat16[Tensor, "tokens channels"],
    rows: BFloat16[Tensor, "n channels"],
    token: Int32[Tensor, "n"],
    row_weights: Float[Tensor, "n"],
) -> tuple[BFloat16[Tensor, "n channels"], Float[Tensor, "n"]]:
    """The gradients of `combine`: of its rows [n, channels] in BF16, and of its weights as one number a row [n].

    `token` [n] is the token that a row was added to, or one outside for none; `row_weights` [n] its weight.
    """
    gathered = _gather(grad, token).float()
    inside = (token >= 0) & (token < len(grad))
    d_weights = torch.where(inside, (gathered * rows.float()).sum(1), 0.0)
    return torch.where(inside[:, None], gathered * row_weights[:, None], 0.0).bfloat16(), d_weights


def rms_norm(x: Float[Tensor, "..."], weight: Float[Tensor, " channels"], epsilon: float) -> tuple[Tensor, Tensor]:
    """Rows [..., channels] over their root mean square, times the weight; and the factor of each row [..., 1]."""
    values = x.float()
    inverse = torch.rsqrt(values.square().mean(-1, keepdim=True) + epsilon)
    return (values * inverse * weight.float()).to(x.dtype), inverse


def rms_norm_backward(
    grad: Float[Tensor, "..."],
    x: Float[Tensor, "..."],
    weight: Float[Tensor, " channels"],
    inverse: Float[Tensor, "..."],
) -> tuple[Tensor, Tensor]:
    """The gradients of x [..., channels] and of the weight [channels]."""
    gradient, normal = grad.float(), x.float() * inverse
    scaled = gradient * weight.float()
    d_x = inverse * (scaled - normal * (scaled * normal).mean(-1, keepdim=True))
    return d_x.to(x.dtype), (gradient * normal).reshape(-1, x.shape[-1]).sum(0).to(weight.dtype)


def rotate_heads(
    source: Float[Tensor, "batch time heads channels"],
    cosine: Float[Tensor, "time half"],
    sine: Float[Tensor, "time half"],
    turn: int,
) -> Float[Tensor, "batch time heads channels"]:
    """Channel i and channel i + half of each head [batch, time, heads, channels] turned together: 1, -1, or 0 times."""
    if turn == 0:
        return source
    cosine, sine = cosine[:, None], turn * sine[:, None]  # the same for all heads
    first, second = source.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).to(source.dtype)
