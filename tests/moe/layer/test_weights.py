import pytest
import torch

from pauca.moe import ops
from pauca.moe.layer.weights import FrozenWeights, backward_weights, forward_weights, prepare_weights
from pauca.moe.ops import reference


def _values(weights) -> torch.Tensor:
    return weights.values.float() * weights.scales[..., None]


def test_both_orientations_round_as_e4m3_does():
    # E4M3 with a power-of-two scale rounds Gaussian values with a relative error of 2.6 % (root mean square).
    torch.manual_seed(0)
    weights = torch.randn(3, 64, 96)
    forward, largest = forward_weights(weights)
    for values in (_values(forward), _values(backward_weights(weights, largest)).transpose(1, 2)):
        assert 0.02 < ((values - weights).norm() / weights.norm()).item() < 0.03


def test_the_orientations_differ_only_where_the_expert_scale_makes_numbers_subnormal():
    torch.manual_seed(0)
    weights = torch.randn(3, 64, 96)
    forward, largest = forward_weights(weights)
    backward = backward_weights(weights, largest)
    normal = backward.values.float().abs() >= 2.0**-6
    assert normal.float().mean() > 0.99
    assert torch.equal(_values(forward).transpose(1, 2)[normal], _values(backward)[normal])


def test_an_output_far_smaller_than_the_others_keeps_its_precision_forward():
    torch.manual_seed(0)
    weights = torch.randn(1, 64, 96)
    weights[0, 5] *= 2.0**-30
    values = _values(forward_weights(weights)[0])
    assert ((values - weights)[0, 5].norm() / weights[0, 5].norm()).item() < 0.03


def test_prepared_weights_are_contiguous_along_the_sum():
    prepared = prepare_weights(torch.randn(2, 64, 96), torch.randn(2, 96, 32))
    values = [prepared[i] for i in (0, 3, 5, 8)]
    assert [tuple(v.shape) for v in values] == [(2, 64, 96), (2, 96, 64), (2, 96, 32), (2, 32, 96)]
    assert all(v.stride(2) == 1 for v in values)


def test_fp32_is_rounded_to_bf16_on_its_way():
    torch.manual_seed(0)
    weights = torch.randn(3, 32, 64)
    operand, largest = forward_weights(weights)
    rounded, rounded_largest = forward_weights(weights.bfloat16())
    assert torch.equal(operand.values.view(torch.uint8), rounded.values.view(torch.uint8))
    assert torch.equal(operand.scales, rounded.scales)
    assert torch.equal(largest, rounded_largest)
    columns, expected = backward_weights(weights, largest), backward_weights(weights.bfloat16(), largest)
    assert torch.equal(columns.values.view(torch.uint8), expected.values.view(torch.uint8))
    assert torch.equal(columns.scales, expected.scales)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_fp16_and_fp64_are_quantized_as_bf16(dtype):
    torch.manual_seed(0)
    pair = torch.randn(1, 800, 32).to(dtype), torch.randn(1, 32, 400).to(dtype)  # of which 4,267 are sampled
    kept = FrozenWeights(pair, *pair)
    expected = prepare_weights(*(weight.bfloat16() for weight in pair))
    assert all(torch.equal(own.float(), other.float()) for own, other in zip(kept.copies, expected, strict=True))
    assert not kept.have_changed()
    pair[1][0, 0] = 1
    assert kept.have_changed()


@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "channels"), [(64, 16), (192, 160), (4096, 1408)])
def test_the_kernel_gives_the_bits_of_its_reference(rows, channels):
    torch.manual_seed(0)
    x = (torch.randn(rows, channels) * 2.0 ** torch.randint(-20, 20, (rows, 1))).bfloat16()
    x[3, 5], x[4, 6], x[5, 7] = float("nan"), float("inf"), 0.0
    offsets = torch.tensor([16, 16, rows - 16], dtype=torch.int32)  # one group without rows, 16 rows of no group
    scales = torch.tensor([130, 0, 140], dtype=torch.uint8)
    expected = reference.quantize_fp8_columns(x, scales, offsets)
    actual = ops.quantize_fp8_columns(x.cuda(), scales.cuda(), offsets.cuda())
    assert torch.equal(actual.codes.cpu(), expected.codes)
    assert torch.equal(actual.scales.cpu(), expected.scales)
