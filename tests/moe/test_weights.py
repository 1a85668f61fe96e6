import torch

from pauca.moe.weights import backward_weights, forward_weights, prepare_weights, quantize_weights


def test_both_orientations_hold_the_same_numbers_and_one_of_26_thousandths_of_error():
    # E4M3 with a power-of-two scale rounds Gaussian values with a relative error of 2.6 % (root mean square).
    torch.manual_seed(0)
    weights = torch.randn(3, 64, 96)
    codes = quantize_weights(weights)
    forward, backward = forward_weights(codes, 3), backward_weights(codes, 3)
    values = forward.values.float() * forward.scales[..., None]
    transposed = backward.values.float() * backward.scales[..., None]
    assert torch.equal(values, transposed.transpose(1, 2))
    error = (values - weights).norm() / weights.norm()
    assert 0.02 < error.item() < 0.03


def test_an_output_far_smaller_than_the_others_keeps_its_precision_forward():
    torch.manual_seed(0)
    weights = torch.randn(1, 64, 96)
    weights[0, 5] *= 2.0**-30
    forward = forward_weights(quantize_weights(weights), 1)
    values = forward.values.float() * forward.scales[..., None]
    assert ((values - weights)[0, 5].norm() / weights[0, 5].norm()).item() < 0.03


def test_prepared_weights_are_contiguous_along_the_sum():
    values = prepare_weights(torch.randn(2, 64, 96), torch.randn(2, 96, 32))[::2]
    assert [tuple(v.shape) for v in values] == [(2, 64, 96), (2, 96, 64), (2, 96, 32), (2, 32, 96)]
    assert all(v.stride(2) == 1 for v in values)
