"""torch.compile around the layer, in a process of its own: it cannot trace the type checks of the test suite."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch


@pytest.mark.slow
def test_a_model_that_contains_the_layer_compiles_without_graph_breaks():
    subprocess.run([sys.executable, __file__], check=True, timeout=300)


def _gradients(model: torch.nn.Module, function, x: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    y = function(x)
    y.square().sum().backward()
    return [y.detach(), *(parameter.grad for parameter in model.parameters())]


def _frozen_weights_do_not_break_the_graph() -> None:
    from pauca import PaucaError
    from pauca.moe import MoE, Recipe, frozen_weights

    torch.manual_seed(0)
    model, x = MoE(64, 32, 8, 2, shared_experts=1, recipe=Recipe.fp4()), torch.randn(32, 64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        expected = _gradients(model, model, x)
        with frozen_weights(model, compiled=True):
            made = model.experts._copies
            for _ in range(2):
                found = _gradients(model, compiled, x)
                assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
            assert model.experts._copies is made
        assert torch.equal(compiled(x), expected[0])
        with torch.no_grad():  # the next copies are other ones
            model.experts.down.mul_(1.1)
            model.experts.gate_up.mul_(0.9)
    with pytest.raises(PaucaError, match="changed under frozen_weights"):
        _change_within(model, compiled, x)
    assert model.experts._copies is None
    assert not model.experts._frozen


def _change_within(model: torch.nn.Module, compiled, x: torch.Tensor) -> None:
    from pauca.moe import frozen_weights

    with frozen_weights(model, compiled=True):
        with torch.no_grad():
            model.experts.down.mul_(2)
        compiled(x)


def _bf16_weights_add_up_in_fp32() -> None:
    from pauca.moe import MoE, Recipe, sum_gradients_in_fp32

    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = MoE(64, 32, 8, 2, shared_experts=1, recipe=Recipe.fp4()).bfloat16()
        sum_gradients_in_fp32(model)
        function = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        for _ in range(3):
            function(torch.randn(32, 64).bfloat16()).float().square().sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(gradient.dtype == torch.float32 for gradient in found[1])
    assert all(map(torch.equal, *found))


def main() -> None:
    from pauca.moe import MoE, Recipe
    from pauca.moe.layer import apply_experts
    from pauca.moe.ops.gates import Gate

    for recipe in (Recipe.bf16(), Recipe.fp8(), Recipe.fp4(), replace(Recipe.fp4(), rotate=True)):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Tanh(), MoE(64, 32, 8, 2, shared_experts=1, recipe=recipe))
        x = torch.randn(32, 64)
        eager = _gradients(model, model, x)
        compiled = _gradients(model, torch.compile(model, fullgraph=True), x)
        # What is compiled around the experts may round otherwise, and tip a value over to its other MXFP4 neighbor.
        for actual, expected in zip(compiled, eager, strict=True):
            assert (actual - expected).norm() < 0.02 * expected.norm()

    _frozen_weights_do_not_break_the_graph()
    _bf16_weights_add_up_in_fp32()
    gate, recipe = (
        Gate(limit=2.0, alpha=1.7, offset=1.0, interleaved=True, biased=True).to_json(),
        Recipe.fp4().to_json(),
    )
    shapes = {"x": (32, 64), "gate_up": (8, 64, 64), "down": (8, 64, 32), "bias": (8, 64)}
    tensors = {name: (0.3 * torch.randn(shape)).requires_grad_() for name, shape in shapes.items()}
    ids, weights = torch.randint(8, (32, 2)), torch.rand(32, 2)

    def experts() -> torch.Tensor:
        x, gate_up, down, bias = tensors.values()
        return apply_experts(x.bfloat16(), gate_up, down, ids, weights, recipe, gate=gate, gate_up_bias=bias)

    found = []
    for function in (experts, torch.compile(experts, fullgraph=True, backend="aot_eager")):
        y = function()
        found.append([y, *torch.autograd.grad(y.float().square().sum(), list(tensors.values()))])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


if __name__ == "__main__":
    main()
