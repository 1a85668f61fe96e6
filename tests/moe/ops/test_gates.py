"""Gates besides SwiGLU: their values and gradients, written down a second time, and what they are quantized to."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from pauca.errors import ConfigError
from pauca.moe import ops
from pauca.moe.ops.formats import ScaleRule
from pauca.moe.ops.gates import Gate, activate, activate_backward, operations

# Each gate as its family's source has it.
GATES = {
    "swiglu": (Gate(), lambda g, u: silu(g) * u),
    "gpt-oss": (
        Gate(alpha=1.702, limit=7.0, offset=1.0),
        lambda g, u: (u.clamp(-7, 7) + 1) * g.clamp(max=7) * torch.sigmoid(1.702 * g.clamp(max=7)),
    ),
    "deepseek-v4": (Gate(limit=2.0), lambda g, u: silu(g.clamp(max=2)) * u.clamp(-2, 2)),
    "step": (Gate(limit=2.0, limit_after=True), lambda g, u: silu(g).clamp(max=2) * u.clamp(-2, 2)),
    "gelu": (Gate("gelu"), lambda g, u: gelu(g) * u),
    "gemma": (Gate("gelu_tanh"), lambda g, u: gelu(g, approximate="tanh") * u),
    "relu": (Gate("relu"), lambda g, u: g.relu() * u),
    "nemotron": (Gate("relu_squared", gated=False), lambda g, _: g.relu() ** 2),
}


def numbers(rows: int = 48, channels: int = 64) -> Tensor:
    return 3 * torch.randn(rows, channels, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("name", GATES)
def test_values_and_gradients_are_those_of_the_formula(name, interleaved):
    gate, formula = GATES[name]
    if interleaved and not gate.gated:
        pytest.skip("has no halves")
    gate = Gate(**{**vars(gate), "interleaved": interleaved})
    z = numbers().requires_grad_()
    halves = (z[:, ::2], z[:, 1::2]) if interleaved else z.chunk(2, 1)
    expected = formula(*(halves if gate.gated else (z, None)))
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    expected.backward(grad)
    torch.testing.assert_close(activate(z.detach(), gate), expected.detach())
    torch.testing.assert_close(activate_backward(z.detach(), grad, gate), z.grad, rtol=1e-4, atol=1e-5)


def test_operations_of_swiglu_written_out_are_the_kernels_twins():
    """The same gate by way of the general code and by way of `ops`: the same bits, but for BF16's rounding."""
    z, probability = numbers(64, 128).bfloat16(), torch.rand(64)
    grad, offsets = numbers(64, 64).bfloat16(), torch.tensor([16, 48, 64], dtype=torch.int32)
    general = operations(Gate(limit=1e6))
    assert operations(Gate(biased=True)) is not general
    assert operations(Gate()).swiglu is ops.swiglu
    rule = ScaleRule.EVEN
    pairs = [
        (general.swiglu(z, probability), ops.swiglu(z, probability)),
        (
            general.swiglu_fp8_keeping_z(z, probability, rule, True)[0].dequantize(),
            ops.swiglu_fp8_keeping_z(z, probability, rule, True)[0].dequantize(),
        ),
        *zip(general.swiglu_backward(z, probability, grad), ops.swiglu_backward(z, probability, grad), strict=True),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found.float(), expected.float(), rtol=0.01, atol=1e-4)
    kept = ops.quantize_mxfp4(z, rule)
    found = general.swiglu_backward_fp8_with_activation(kept, probability, grad, offsets)
    expected = ops.swiglu_backward_fp8_with_activation(kept, probability, grad, offsets)
    for one, other in zip(found, expected, strict=True):
        one, other = (x if isinstance(x, Tensor) else x.dequantize() for x in (one, other))
        assert (one - other).norm() < 0.01 * other.norm()


def test_many_rows_are_computed_as_few_are(monkeypatch):
    gate, z, probability = GATES["gpt-oss"][0], numbers().bfloat16(), torch.rand(48)
    grad = numbers(48, 32).bfloat16()
    whole = [operations(gate).swiglu(z, probability), *operations(gate).swiglu_backward(z, probability, grad)]
    monkeypatch.setattr("pauca.moe.ops.gates._ROWS", 10)
    parts = [operations(gate).swiglu(z, probability), *operations(gate).swiglu_backward(z, probability, grad)]
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 0.0}, "limit must be positive, got 0.0"),
        ({"function": "gelu", "alpha": 2.0}, "alpha belongs to silu, not to gelu"),
        ({"gated": False, "offset": 1.0}, "experts without a gate have no up"),
    ],
)
def test_gates_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Gate(**settings)


def test_a_gate_survives_its_text():
    for gate, _ in GATES.values():
        assert Gate.from_json(gate.to_json()) == gate
    assert Gate.from_json("") == Gate()
    assert Gate().limit == math.inf
