"""The fused forms of SwiGLU against the operations that they fuse: the same bits."""

import pytest
import torch

from pauca.moe.ops.formats import ScaleRule

kernels = pytest.importorskip("pauca.moe.ops.kernels", reason="needs Triton")
pytestmark = pytest.mark.gpu
SHAPES = [(16, 32), (48, 96), (80, 1408), (32, 2048)]


def _problem(rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z, gradient = (torch.randn(rows, n, generator=generator).mul(3).bfloat16() for n in (2 * width, width))
    z[1, 5], z[2, -1], z[3] = float("nan"), float("inf"), 0
    return z.cuda(), torch.rand(rows, generator=generator).cuda(), gradient.cuda()


@pytest.mark.parametrize("rule", list(ScaleRule))
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_forward_that_keeps_z(rows, width, keep, rule):
    z, probability, _ = _problem(rows, width)
    activation, kept_z, kept = kernels.swiglu_fp8_keeping_z(z, probability, rule, keep)
    expected, expected_kept = kernels.swiglu_fp8(z, probability, rule if keep else None)
    expected_z = kernels.quantize_mxfp4(z, rule)
    assert torch.equal(activation.codes, expected.codes)
    assert torch.equal(activation.scales, expected.scales)
    assert torch.equal(kept_z.codes, expected_z.codes)
    assert torch.equal(kept_z.scales, expected_z.scales)
    assert (kept is None) == (expected_kept is None)
    if kept is not None:
        assert torch.equal(kept.codes, expected_kept.codes)
        assert torch.equal(kept.scales, expected_kept.scales)


@pytest.mark.parametrize("form", ["bf16", "fp8", "mxfp4"])
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_backward_that_makes_the_activation_again(rows, width, form):
    z, probability, gradient = _problem(rows, width)
    if form != "bf16":
        z = kernels.quantize_fp8_rowwise(z) if form == "fp8" else kernels.quantize_mxfp4(z, ScaleRule.EVEN)
    offsets = torch.tensor([16, 16, rows], dtype=torch.int32, device="cuda")
    d_rows, d_columns, d_probability, activation = kernels.swiglu_backward_fp8_with_activation(
        z, probability, gradient, offsets
    )
    expected_rows, expected_columns, expected_probability = kernels.swiglu_backward_fp8(
        z, probability, gradient, offsets
    )
    expected = kernels.fp8_rows_to_columns(kernels.swiglu_fp8(z, probability, None)[0], offsets)
    for actual, wanted in ((d_rows, expected_rows), (d_columns, expected_columns), (activation, expected)):
        assert torch.equal(actual.codes, wanted.codes)
        assert torch.equal(actual.scales, wanted.scales)
    torch.testing.assert_close(d_probability, expected_probability, rtol=1e-5, atol=1e-5, equal_nan=True)
