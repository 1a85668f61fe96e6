"""Experts with other gates and with biases: output and all gradients against the formula in FP32."""

import itertools

import pytest
import torch
from torch import Tensor

from pauca.errors import InputError
from pauca.moe import Recipe
from pauca.moe.layer import apply_experts
from pauca.moe.layer.experts import add_down_bias
from pauca.moe.ops.gates import Gate, activate

EXPERTS, HIDDEN, WIDTH, TOKENS, TOP_K = 5, 64, 32, 70, 2
GATES = [
    Gate(),
    Gate(biased=True),
    Gate(alpha=1.702, limit=1.5, offset=1.0, interleaved=True, biased=True),
    Gate("gelu_tanh"),
    Gate("relu_squared", gated=False, biased=True),
]
# Of the output, and of any gradient: what BF16, E4M3 and E2M1 round.
# (A limit is a step in the gradient: a z that rounds across it has all or none.)
BOUNDS = {"bf16": (0.012, 0.06), "fp8": (0.1, 0.16), "fp4": (0.3, 0.45)}


def problem(gate: Gate) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return std * torch.randn(*shape, generator=generator)

    channels = gate.halves * WIDTH
    ids = torch.rand(TOKENS, EXPERTS - 1, generator=generator).topk(TOP_K, 1).indices  # the last has no token
    tensors = {
        "x": normal(TOKENS, HIDDEN).bfloat16(),
        "gate_up": normal(EXPERTS, channels, HIDDEN, std=HIDDEN**-0.5),
        "down": normal(EXPERTS, HIDDEN, WIDTH, std=WIDTH**-0.5),
        "probabilities": torch.rand(TOKENS, TOP_K, generator=generator),
    }
    if gate.biased:
        tensors["bias"] = normal(EXPERTS, channels, std=0.3)
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()} | {"ids": ids}


def exact(tensors: dict[str, Tensor], gate: Gate) -> Tensor:
    y = torch.zeros(TOKENS, HIDDEN)
    for token, choice in itertools.product(range(TOKENS), range(TOP_K)):
        expert = tensors["ids"][token, choice]
        z = tensors["gate_up"][expert] @ tensors["x"][token].float()
        if gate.biased:
            z = z + tensors["bias"][expert]
        out = tensors["down"][expert] @ activate(z[None], gate)[0]
        y = y.index_add(0, torch.tensor([token]), (tensors["probabilities"][token, choice] * out)[None])
    return y


def found(tensors: dict[str, Tensor], gate: Gate, recipe: Recipe, recompute: str = "none") -> Tensor:
    names = ("x", "gate_up", "down", "ids", "probabilities")
    arguments = [tensors[name] for name in names]
    return apply_experts(*arguments, recipe.to_json(), recompute, gate=gate.to_json(), gate_up_bias=tensors.get("bias"))


def gradients(y: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    wanted = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(9))
    return dict(zip(wanted, torch.autograd.grad((y.float() * weight).sum(), list(wanted.values())), strict=True))


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.function + ("+bias" if gate.biased else ""))
def test_output_and_gradients_are_the_formulas_to_the_recipes_rounding(gate):
    tensors = problem(gate)
    y = exact(tensors, gate)
    expected = gradients(y, tensors)
    for name, (of_output, of_gradients) in BOUNDS.items():
        for recompute in ("none", "activation", "experts"):
            result = found(tensors, gate, getattr(Recipe, name)(), recompute)
            assert (result - y).norm() < of_output * y.norm()
            for key, value in gradients(result, tensors).items():
                assert (value - expected[key]).norm() < of_gradients * expected[key].norm(), (name, recompute, key)
                if key in ("gate_up", "down", "bias"):
                    assert not value[-1].any()  # the expert without tokens


def test_frozen_biases_and_weights_get_no_gradient():
    gate = GATES[2]
    tensors = problem(gate)
    tensors["bias"].requires_grad_(False)
    y = found(tensors, gate, Recipe.fp4())
    assert gradients(y, tensors).keys() == {"x", "gate_up", "down", "probabilities"}


def test_the_second_bias_is_weighted_like_its_expert():
    tensors = problem(GATES[0])
    bias = torch.randn(EXPERTS, HIDDEN, requires_grad=True)
    y = torch.zeros(TOKENS, HIDDEN)
    result = add_down_bias(y, tensors["ids"], tensors["probabilities"], bias)
    torch.testing.assert_close(result, (bias[tensors["ids"]] * tensors["probabilities"][..., None]).sum(1))
    assert gradients(result, {"bias": bias, "p": tensors["probabilities"]})["bias"].any()
    assert add_down_bias(y, tensors["ids"], tensors["probabilities"], None) is y


@pytest.mark.parametrize(
    ("gate", "bias", "message"),
    [
        (Gate(biased=True), None, r"gate_up_bias must be \(5, 64\), got none"),
        (Gate(), torch.zeros(EXPERTS, 64), r"gate_up_bias must be none, got \(5, 64\)"),
        (Gate(gated=False), None, r"\[experts, width, hidden\] and \[experts, hidden, width\] are needed"),
    ],
)
def test_what_does_not_fit_is_refused(gate, bias, message):
    tensors = problem(Gate())
    with pytest.raises(InputError, match=message):
        found(tensors | ({} if bias is None else {"bias": bias}), gate, Recipe.bf16())
