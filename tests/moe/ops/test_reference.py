"""The reference arithmetic against float64, against the formats' properties, and against torchao."""

import ast
import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pauca.moe import ops
from pauca.moe.ops import arithmetic, reference
from pauca.moe.ops.formats import BLOCK, Fp8Tensor, Granularity, MxFp4Tensor, ScaleRule

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double().numpy()


def float64_exponent(largest: float, rule: ScaleRule) -> int:
    """The block exponent by the rule's definition."""
    mantissa, exponent = math.frexp(largest)  # mantissa in [0.5, 1)
    larger = {
        ScaleRule.FLOOR: False,
        ScaleRule.EVEN: 2 * mantissa >= 1.75,
        ScaleRule.RCEIL: 2 * mantissa > 1.5,
        ScaleRule.CEIL: 2 * mantissa > 1,
    }[rule]
    return exponent - 1 - 2 + larger


def float64_e2m1(values: np.ndarray) -> np.ndarray:
    """The nearest E2M1 magnitude's code, the even one of two as near, by measuring all distances."""
    distance = np.abs(np.abs(values)[:, None] - E2M1[None])
    tie_break = np.arange(8) % 2 * 1e-12  # below any difference of distances that is not zero
    return (distance + tie_break).argmin(1) + np.where(np.signbit(values), 8, 0)


def blocks_of_every_code(largest: int) -> torch.Tensor:
    """One block for each code that is not larger, beside the largest magnitude."""
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[(codes & 0x7F) <= largest]
    blocks = codes[:, None].repeat(1, BLOCK)
    blocks[:, 0] = largest
    return blocks


@pytest.mark.parametrize("rule", [rule for rule in ScaleRule if rule is not ScaleRule.BEST])
def test_fp8_to_mxfp4_of_every_code_beside_every_maximum(rule):
    for largest in range(1, 0x7F):
        codes = blocks_of_every_code(largest)
        scales = torch.full((len(codes),), 131, dtype=torch.uint8)  # 2^4
        packed = reference.fp8_to_mxfp4(Fp8Tensor(codes, scales, Granularity.ROW), rule)
        exponent = float64_exponent(E4M3[largest], rule)
        assert (packed.scales == exponent + 4 + 127).all()
        expected = float64_e2m1(np.ldexp(E4M3[codes[:, 1].numpy()], -exponent))
        np.testing.assert_array_equal(packed.elements()[:, 1].numpy(), expected)


def test_best_takes_the_exponent_with_the_smaller_error():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8 * BLOCK, generator=generator).bfloat16()
    packed = reference.quantize_mxfp4(x, ScaleRule.BEST)
    blocks = x.double().numpy().reshape(-1, BLOCK)
    for block, byte in zip(blocks, packed.scales.flatten().tolist(), strict=True):
        floor = float64_exponent(np.abs(block).max(), ScaleRule.FLOOR)
        errors = []
        for exponent in (floor, floor + 1):
            nearest = E2M1[float64_e2m1(np.ldexp(np.abs(block), -exponent))]
            errors.append(((np.abs(block) - np.ldexp(nearest, exponent)) ** 2).sum())
        assert byte == 127 + floor + (errors[1] < errors[0])


# Signal to noise in dB of Gaussian data, and magnitude ratio, measured for this project when the rules were compared.
@pytest.mark.parametrize(
    ("rule", "decibels"),
    [("floor", 18.80), ("even", 19.02), ("rceil", 18.76), ("ceil", 16.83), ("best", 19.05)],
)
def test_signal_to_noise_of_gaussian_data(rule, decibels):
    x = torch.randn(512, 1024, generator=torch.Generator().manual_seed(0)).bfloat16()
    noise = reference.quantize_mxfp4(x, ScaleRule(rule)).dequantize() - x.float()
    assert 10 * math.log10(x.float().square().sum() / noise.square().sum()) == pytest.approx(decibels, abs=0.1)


bfloat16_bits = st.integers(0, 2**16 - 1).filter(lambda bits: bits & 0x7F80 != 0x7F80)
ordinary_bits = st.integers(0x3000, 0x4FFF) | st.integers(0xB000, 0xCFFF)  # 2^-31 to 2^33
rules = st.sampled_from(list(ScaleRule))


def as_block(bits: list[int]) -> torch.Tensor:
    return torch.tensor([bits], dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


def same_values(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.nan_to_num(1e39), b.nan_to_num(1e39))


@settings(deadline=None, max_examples=60)
@given(st.lists(ordinary_bits, min_size=BLOCK, max_size=BLOCK), rules)
def test_mxfp4_of_its_own_values_is_exact(bits, rule):
    once = reference.quantize_mxfp4(as_block(bits), rule).dequantize()
    assert torch.equal(reference.quantize_mxfp4(once.bfloat16(), rule).dequantize(), once)


@settings(deadline=None, max_examples=60)
@given(st.lists(bfloat16_bits, min_size=BLOCK, max_size=BLOCK), rules)
def test_mxfp4_is_monotone_and_symmetric(bits, rule):
    x = as_block(bits)
    values = reference.quantize_mxfp4(x, rule).dequantize()
    order = x.float().flatten().argsort()
    assert (values.flatten()[order].diff() >= 0).all()
    assert torch.equal(reference.quantize_mxfp4(-x, rule).dequantize(), -values)


@settings(deadline=None, max_examples=60)
@given(st.lists(ordinary_bits, min_size=BLOCK, max_size=BLOCK), rules, st.integers(-60, 60))
def test_a_power_of_two_moves_the_scales_alone(bits, rule, shift):
    x = as_block(bits)
    plain, moved = reference.quantize_mxfp4(x, rule), reference.quantize_mxfp4(x * 2.0**shift, rule)
    assert torch.equal(plain.codes, moved.codes)
    assert (moved.scales.int() - plain.scales.int() == shift).all()


@settings(deadline=None, max_examples=60)
@given(st.lists(bfloat16_bits, min_size=48, max_size=48))
def test_fp8_rows_do_not_saturate_and_round_to_nearest(bits):
    x = as_block(bits)
    quantized = reference.quantize_fp8_rowwise(x)
    scaled = (x.double() * 2.0 ** (127 - quantized.scales.double())).float()
    assert scaled.abs().max() <= 448
    assert torch.equal(quantized.codes, scaled.to(torch.float8_e4m3fn).view(torch.uint8))
    largest_is_full = scaled.abs().max() > 224 or quantized.scales[0] == 0
    assert largest_is_full, "a smaller scale would have held the row"


def test_fp8_tiles_are_scaled_one_by_one():
    x = torch.ones(2, 160).bfloat16()
    x[:, 128:] = 2**-20
    assert reference.quantize_fp8_tilewise(x).scales.tolist() == [[119, 99]] * 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_never_become_numbers(bad):
    x = torch.ones(2, 64).bfloat16()
    x[0, 40] = bad
    values = reference.quantize_mxfp4(x).dequantize()
    assert values.isnan()[0].tolist() == [False] * 32 + [True] * 32
    assert (values[1] == 1).all()
    fp8 = reference.quantize_fp8_rowwise(x)
    assert fp8.dequantize().isnan().nonzero().tolist() == [[0, 40]]
    assert (fp8.dequantize()[1] == 1).all()
    assert reference.fp8_to_mxfp4(fp8).dequantize().isnan()[0].tolist() == [False] * 32 + [True] * 32
    packed = reference.quantize_mxfp4(x)
    assert reference.gather_mxfp4_to_fp8_rows(packed).dequantize().isnan().sum() == 32
    ends = torch.tensor([2], dtype=torch.int32)
    assert reference.gather_mxfp4_to_fp8_columns(packed, None, ends).dequantize().isnan().sum() == 32
    assert reference.fp8_rows_to_columns(fp8, ends).dequantize().isnan().nonzero().tolist() == [[0, 40]]


def test_zeros_have_zero_bytes_and_codes():
    x = -torch.zeros(1, 64).bfloat16()
    packed, fp8 = reference.quantize_mxfp4(x), reference.quantize_fp8_rowwise(x)
    assert (packed.codes == 0).all()
    assert (packed.scales == 0).all()
    assert fp8.scales.tolist() == [0]
    assert (fp8.dequantize() == 0).all()


def test_the_smallest_subnormals_keep_their_value_if_the_scale_can():
    x = torch.full((1, 32), 2.0**-128).bfloat16()  # half of the smallest scale
    assert (reference.quantize_mxfp4(x).dequantize() == 2.0**-128).all()
    x = torch.full((1, 32), 2.0**-133).bfloat16()  # BF16's smallest number is below a quarter of it
    assert (reference.quantize_mxfp4(x).dequantize() == 0).all()


def test_a_block_beyond_fp32_is_nan():
    codes = torch.full((1, 32), 0x7E, dtype=torch.uint8)  # 448 * 2^127
    packed = reference.fp8_to_mxfp4(Fp8Tensor(codes, torch.tensor([254], dtype=torch.uint8), Granularity.ROW))
    assert packed.dequantize().isnan().all()


@pytest.mark.parametrize("gap", range(22))
def test_a_gap_of_block_exponents_is_exact_up_to_14(gap):
    """E2M1 spans 0.5 to 6; at 2^(6 - gap) it fits E4M3's 2^-9 to 448 as long as 0.5 * 2^(6 - gap) >= 2^-9."""
    elements = torch.arange(16, dtype=torch.uint8).repeat(1, 4)
    packed = MxFp4Tensor.pack(elements, torch.tensor([[140, 140 - gap]], dtype=torch.uint8))
    fp8 = reference.gather_mxfp4_to_fp8_rows(packed)
    exact = torch.equal(fp8.dequantize(), packed.dequantize())
    assert exact == (gap <= 14)
    inexact, nonzero = reference.count_inexact(packed, None)
    assert (inexact == 0) == exact
    assert nonzero == 2 * 28
    # What is not exact is rounded to nearest even, as torch's own conversion does.
    scaled = packed.dequantize() * 2.0 ** (127 - fp8.scales.item())
    assert torch.equal(fp8.codes, scaled.to(torch.float8_e4m3fn).view(torch.uint8))


@pytest.mark.parametrize("gap", [0, 1, 6, 9, 15, 30, 120])
def test_lowering_fp8_codes_rounds_as_torch_does(gap):
    """Every code under a scale `gap` below the group's largest; subnormals rounded, neither flushed nor lost."""
    codes = torch.arange(256, dtype=torch.uint8).repeat(2, 1)
    codes[:, 0x7F], codes[:, 0xFF] = 0, 0
    codes = codes.repeat_interleave(8, 0)
    scales = torch.tensor([200] * 8 + [200 - gap] * 8, dtype=torch.uint8)
    x = Fp8Tensor(codes, scales, Granularity.ROW)
    columns = reference.fp8_rows_to_columns(x, torch.tensor([16], dtype=torch.int32))
    assert (columns.scales == 200).all()
    numbers = torch.from_numpy(E4M3).nan_to_num(0).float()
    expected = (numbers * 2.0**-gap).to(torch.float8_e4m3fn).view(torch.uint8)
    assert torch.equal(columns.codes[:, 8] & 0x7F, expected & 0x7F)
    assert torch.equal(columns.codes[1:0x7F, 8] & 0x80, expected[1:0x7F] & 0x80)


def test_columns_have_the_values_of_the_gathered_rows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 96, generator=generator).bfloat16()
    index = torch.randint(-1, 21, (64,), dtype=torch.int32, generator=generator)
    ends = torch.tensor([16, 16, 48], dtype=torch.int32)
    inside = ((index >= 0) & (index < 20) & (torch.arange(64) < 48))[:, None]
    packed, fp8 = reference.quantize_mxfp4(x), reference.quantize_fp8_rowwise(x)
    for source, columns in (
        (packed, reference.gather_mxfp4_to_fp8_columns(packed, index, ends)),
        (fp8, reference.fp8_rows_to_columns(fp8, ends, index)),
    ):
        expected = torch.where(inside, source.dequantize()[index.clamp(0, 19).long()], 0.0)
        assert torch.equal(columns.dequantize(), expected)  # gaps are small here, so nothing is lost
        assert columns.shape == (64, 96)
        assert (columns.scales[1] == 0).all()  # an expert without rows


def test_stochastic_rounding_is_unbiased():
    """With every noise byte once, the mean is the number itself, to 1/256 of the largest step, 2."""
    x = torch.linspace(0.1, 5.9, 32).bfloat16()
    x[0] = 4.0
    noise = torch.arange(256, dtype=torch.uint8)[:, None].repeat(1, 32)
    values = reference.quantize_mxfp4_stochastic(x.repeat(256, 1), noise).dequantize()
    assert (values.mean(0) - x.float()).abs().max() <= 2 / 256
    assert (values[0] <= x.float()).all()  # no noise rounds down


def test_swiglu_gradients_agree_with_autograd():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(8, 64, generator=generator).bfloat16()
    probability = torch.rand(8, generator=generator)
    grad = torch.randn(8, 32, generator=generator).bfloat16()
    z64, p64 = z.double().requires_grad_(), probability.double().requires_grad_()
    gate, up = z64.chunk(2, 1)
    (torch.nn.functional.silu(gate) * up * p64[:, None]).backward(grad.double())
    d_z, d_probability = reference.swiglu_backward(z, probability, grad)
    torch.testing.assert_close(d_z.double(), z64.grad, rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(d_probability.double(), p64.grad, rtol=1e-5, atol=1e-5)


def test_combine_and_its_gradient_agree_with_autograd():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(12, 16, generator=generator).bfloat16()
    inverse = torch.randperm(12, generator=generator).int().view(4, 3)
    inverse[0, 0] = -1
    weights = torch.rand(4, 3, generator=generator)
    rows64, weights64 = rows.double().requires_grad_(), weights.double().requires_grad_()
    terms = rows64[inverse.clamp(min=0).long()] * weights64[:, :, None] * (inverse >= 0)[:, :, None]
    grad = torch.randn(4, 16, generator=generator).bfloat16()
    terms.sum(1).backward(grad.double())
    total = reference.combine(rows, inverse, weights)
    torch.testing.assert_close(total.double(), terms.sum(1).detach(), rtol=2**-8, atol=1e-6)
    token, row_weights = torch.full((12,), -1, dtype=torch.int32), torch.zeros(12)
    for (t, k), row in np.ndenumerate(inverse.numpy()):
        if row >= 0:
            token[row], row_weights[row] = t, weights[t, k]
    d_rows, d_weights = reference.combine_backward(grad, rows, token, row_weights)
    torch.testing.assert_close(d_rows.double(), rows64.grad, rtol=2**-8, atol=1e-6)
    by_copy = torch.where(inverse >= 0, d_weights[inverse.clamp(min=0).long()], 0.0)
    torch.testing.assert_close(by_copy.double(), weights64.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", [ScaleRule.FLOOR, ScaleRule.EVEN, ScaleRule.RCEIL, ScaleRule.CEIL])
def test_agrees_with_torchao(rule):
    mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor", reason="torchao is not installed")
    config = pytest.importorskip("torchao.prototype.mx_formats.config")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 256, generator=generator)
    x = (x * torch.exp2(torch.randint(-30, 30, x.shape, generator=generator).float())).bfloat16()
    mode = config.ScaleCalculationMode[rule.name]
    scales, codes = mx.to_mx(x, torch.float4_e2m1fn_x2, BLOCK, scaling_mode=mode)
    packed = reference.quantize_mxfp4(x, rule)
    assert torch.equal(packed.scales, scales.view(torch.uint8))
    assert torch.equal(packed.codes, codes.view(torch.uint8))


def test_every_function_says_what_it_means():
    homes = {module.__name__ for module in (reference, arithmetic)}
    both = {**vars(arithmetic), **vars(reference)}.values()
    functions = [f for f in both if inspect.isfunction(f) and f.__module__ in homes]
    assert len(functions) > 30
    assert [f.__name__ for f in functions if not f.__doc__] == []


def test_every_operation_has_a_definition_and_every_kernel_is_of_an_operation():
    operations = {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
    assert operations <= vars(reference).keys()
    face = Path(reference.__file__).parent / "kernels" / "__init__.py"  # read, as importing it needs Triton
    (listed,) = [node for node in ast.parse(face.read_text()).body if isinstance(node, ast.Assign)]
    assert set(ast.literal_eval(listed.value)) == operations - {"count_inexact"}  # a debugging aid without a kernel
