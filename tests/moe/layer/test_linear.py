"""A linear layer in few bits against its definition, against exact arithmetic, and what it keeps."""

import subprocess
import sys

import pytest
import torch

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.moe.layer.linear import QuantizedLinear, apply_linear
from pauca.moe.layer.recipe import Recipe
from pauca.moe.ops import reference
from pauca.moe.ops.formats import mxfp4_row_bytes

TOKENS, INPUTS, OUTPUTS = 37, 96, 64  # 37: no multiple of 16, which sums over tokens are padded to
KEPT = ["bf16", "fp8", "mxfp4"]


def _problem(tokens: int = TOKENS, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, INPUTS, generator=generator).bfloat16()
    weight = torch.randn(OUTPUTS, INPUTS, generator=generator) * INPUTS**-0.5
    dy = torch.randn(tokens, OUTPUTS, generator=generator).bfloat16()
    return x.to(device).requires_grad_(), weight.to(device).requires_grad_(), dy.to(device)


def _gradients(kept: str, from_kept: bool = False, tokens: int = TOKENS, device: str = "cpu") -> list[torch.Tensor]:
    x, weight, dy = _problem(tokens, device)
    y = apply_linear(x, weight, Recipe.fp4().to_json(), kept, from_kept)
    return [y.detach(), *torch.autograd.grad(y, [x, weight], dy)]


def _error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(("kept", "from_kept"), [*((kept, False) for kept in KEPT), ("mxfp4", True)])
def test_it_is_the_product_of_what_its_operands_were_rounded_to(kept, from_kept):
    x, weight, dy = (tensor.detach() for tensor in _problem())
    rounded = {
        "bf16": reference.quantize_fp8_rowwise,
        "fp8": reference.quantize_fp8_rowwise,
        "mxfp4": reference.quantize_mxfp4,
    }[kept](x).dequantize()
    rows = rounded if from_kept else reference.quantize_fp8_rowwise(x).dequantize()
    w = reference.quantize_fp8_rowwise(weight.bfloat16())
    turned = reference.quantize_fp8_columns(
        weight.bfloat16(), w.scales.amax().reshape(1), torch.tensor([OUTPUTS], dtype=torch.int32)
    )
    gradient = reference.quantize_fp8_rowwise(dy)
    padded = torch.cat([gradient.codes, gradient.codes.new_zeros(11, OUTPUTS)])
    scales = torch.cat([gradient.scales, gradient.scales.new_zeros(11)])
    columns = reference.fp8_rows_to_columns(
        type(gradient)(padded, scales, gradient.granularity), torch.tensor([TOKENS + 11], dtype=torch.int32)
    )
    y, dx, d_weight = _gradients(kept, from_kept)
    exact = rows.double() @ w.dequantize().double().t()
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=1e-6)  # BF16's half step
    exact = gradient.dequantize().double() @ turned.dequantize().double()
    torch.testing.assert_close(dx.double(), exact, rtol=2**-8, atol=1e-6)
    exact = columns.dequantize()[:TOKENS].double().t() @ rounded.double()  # channels under one scale lose nothing here
    torch.testing.assert_close(d_weight.double(), exact, rtol=2**-7, atol=2e-2)
    assert d_weight.dtype == torch.float32


# Relative error in the norm: one rounding costs 2.6 % in E4M3 and 11 % in MXFP4 (19 dB), see test_autograd.
@pytest.mark.parametrize(
    ("kept", "from_kept", "bounds"),
    [
        ("bf16", False, (0.05, 0.05, 0.05)),
        ("fp8", False, (0.05, 0.05, 0.05)),
        ("mxfp4", False, (0.05, 0.05, 0.14)),
        ("mxfp4", True, (0.14, 0.05, 0.14)),
    ],
)
def test_errors_are_those_of_the_formats(kept, from_kept, bounds):
    x, weight, dy = (tensor.detach().double() for tensor in _problem())
    exact = x @ weight.t(), dy @ weight, dy.t() @ x
    errors = [_error(*pair) for pair in zip(_gradients(kept, from_kept), exact, strict=True)]
    assert all(error < bound for error, bound in zip(errors, bounds, strict=True)), errors


@pytest.mark.parametrize(
    ("kept", "bytes_kept"),
    [("bf16", 0), ("fp8", TOKENS * (INPUTS + 1)), ("mxfp4", TOKENS * mxfp4_row_bytes(INPUTS))],
)
def test_backward_is_given_exactly_the_bytes_that_the_format_says(kept, bytes_kept):
    x, weight, _ = _problem()
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: seen.append(tensor) or tensor, lambda tensor: tensor):
        apply_linear(x, weight, Recipe.fp4().to_json(), kept)
    own = {x.data_ptr(), weight.data_ptr()}
    assert sum(t.numel() * t.element_size() for t in seen if t.data_ptr() not in own) == bytes_kept + 1
    assert any(t.data_ptr() == x.data_ptr() for t in seen) == (kept == "bf16")


@pytest.mark.parametrize("kept", KEPT)
def test_of_a_frozen_weight_nothing_is_kept_of_the_input(kept):
    x, weight, dy = _problem()
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: seen.append(tensor) or tensor, lambda tensor: tensor):
        y = apply_linear(x, weight.detach(), Recipe.fp4().to_json(), kept)
    assert sum(t.numel() for t in seen) == weight.numel() + 1
    (dx,) = torch.autograd.grad(y, [x], dy)
    assert torch.equal(dx, _gradients(kept)[1])


def test_no_token_is_no_error():
    x, weight, dy = _problem(0)
    y = apply_linear(x, weight, Recipe.fp4().to_json())
    d_weight = torch.autograd.grad(y, [weight], dy)[0]
    assert y.shape == (0, OUTPUTS)
    assert not d_weight.any()


def test_any_batch_and_either_type():
    layer = QuantizedLinear(INPUTS, OUTPUTS, Recipe.fp4())
    x = torch.randn(2, 3, INPUTS)
    y = layer(x)
    assert (y.shape, y.dtype) == ((2, 3, OUTPUTS), torch.float32)
    assert torch.equal(y, layer(x.bfloat16()).float())
    assert "96 to 64, fp4, keeps mxfp4" in repr(layer)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((INPUTS, OUTPUTS, Recipe.bf16()), "needs an fp8 or fp4 recipe"),
        ((INPUTS, 40, Recipe.fp4()), "outputs of a quantized linear layer must be a multiple of 32, got 40"),
        ((0, OUTPUTS, Recipe.fp4()), "inputs"),
        ((INPUTS, OUTPUTS, Recipe.fp8(), "fp8", True), "from_kept .* keeps fp8"),
    ],
)
def test_impossible_layers_are_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        QuantizedLinear(*arguments)


def test_wrong_input_is_refused():
    layer = QuantizedLinear(INPUTS, OUTPUTS, Recipe.fp4())
    for x in (torch.randn(2, 64), torch.randn(2, INPUTS).double()):
        with pytest.raises(InputError, match="with 96 channels, got"):
            layer(x)


def test_second_derivatives_are_refused():
    x, weight, _ = _problem()
    y = apply_linear(x, weight, Recipe.fp4().to_json())
    (dx,) = torch.autograd.grad(y.sum(), [x], create_graph=True)
    with pytest.raises(PaucaError, match="no second derivatives"):
        dx.square().sum().backward()


@pytest.mark.gpu
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("tokens", [TOKENS, 64])
def test_a_gpu_finds_what_a_cpu_finds(kept, tokens):
    pairs = zip(_gradients(kept, tokens=tokens, device="cuda"), _gradients(kept, tokens=tokens), strict=True)
    assert all(_error(actual.cpu(), expected.double()) < 0.01 for actual, expected in pairs)


@pytest.mark.slow
def test_it_compiles_without_graph_breaks_to_the_same_bits():
    """In a process of its own: the compiler cannot trace the type checks of the test suite."""
    subprocess.run([sys.executable, __file__], check=True, timeout=300)


def main() -> None:
    compiled = torch.compile(apply_linear, fullgraph=True, backend="aot_eager")
    for kept in KEPT:
        x, weight, dy = _problem()
        y = compiled(x, weight, Recipe.fp4().to_json(), kept)
        found = [y.detach(), *torch.autograd.grad(y, [x, weight], dy)]
        assert all(torch.equal(a, b) for a, b in zip(found, _gradients(kept), strict=True)), kept


if __name__ == "__main__":
    main()
