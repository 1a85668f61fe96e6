"""Diagnosis: the tensor that was spoilt is the one that is named."""

from dataclasses import replace

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from pauca.moe import LM_SIZES, MoELM, Recipe, parallelize
from pauca.moe.training.diagnosis import diagnose, largest_gradient

CONFIG = replace(LM_SIZES["toy"], hidden=32, heads=2, kv_heads=1, experts=4, expert_width=32, context=16)


@pytest.fixture(params=["bf16", "fp4"])
def model(request) -> MoELM:
    torch.manual_seed(0)
    return MoELM(replace(CONFIG, recipe=getattr(Recipe, request.param)())).eval()


def batch() -> torch.Tensor:
    return torch.arange(64).view(4, 16)


def diagnosis(model: MoELM) -> str:
    def forward() -> torch.Tensor:
        return model.loss(batch(), batch()).total

    if not any(parameter.grad is not None for parameter in model.parameters()):
        forward().backward()
    return diagnose(model, forward)


def test_spoilt_weights_are_named_with_their_expert(model):
    with torch.no_grad():
        model.blocks[1].feed_forward.experts.down[2, 3, 4] = float("nan")
    assert diagnosis(model) == "weights: blocks.1.feed_forward.experts.down, expert 2"


def test_spoilt_weights_without_experts_are_named(model):
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight[0, 0] = float("inf")
    assert diagnosis(model) == "weights: blocks.0.attention.qkv.weight"


def test_an_expert_that_overflows_is_named(model):
    experts = model.blocks[1].feed_forward.experts
    with torch.no_grad():
        experts.gate_up[3] *= 1e19  # z is still finite in BF16, silu(gate) * up is not
    assert diagnosis(model) == "activations: the output of blocks.1.feed_forward.experts, expert 3"


def test_an_activation_that_overflows_is_named(model):
    with torch.no_grad():
        model.blocks[1].attention.out.weight *= 3e38
    assert diagnosis(model).startswith("activations: the output of blocks.1.attention.out")


def test_a_spoilt_gradient_is_named_with_its_expert(model):
    diagnosis(model)
    model.blocks[0].feed_forward.experts.gate_up.grad[1, 0, 0] = float("nan")
    assert diagnosis(model) == "gradients: blocks.0.feed_forward.experts.gate_up, expert 1"
    # Backward meets the last layer first.
    model.blocks[1].attention_norm.weight.grad[0] = float("inf")
    assert diagnosis(model) == "gradients: blocks.1.attention_norm.weight"


def test_a_sum_that_overflows_names_its_largest_part(model):
    diagnosis(model)
    model.blocks[0].feed_forward.experts.down.grad[2] = 3e38
    assert "every tensor is finite" in diagnosis(model)
    assert "blocks.0.feed_forward.experts.down, expert 2" in diagnosis(model)


def _largest(rank: int) -> str:
    torch.manual_seed(0)
    model = MoELM(CONFIG)
    parallelize(model, init_device_mesh("cpu", (2,), mesh_dim_names=("ep",)))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model.norm.weight.grad[0] = 3
    if rank == 1:
        model.blocks[0].feed_forward.experts.down.grad[1] = 1
    return largest_gradient(model)


def test_processes_agree_on_the_largest_gradient(together):
    for message in together(_largest, 2):
        assert "blocks.0.feed_forward.experts.down, expert 3" in message


def test_looking_leaves_no_hooks(model):
    diagnosis(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_largest_gradient_is_named(model):
    assert largest_gradient(model) == "there are no gradients"
    diagnosis(model)
    for parameter in model.parameters():
        parameter.grad.zero_()
    model.blocks[1].feed_forward.experts.gate_up.grad[3, 0, 0] = 4
    model.norm.weight.grad[0] = 3
    expected = "the largest gradient is that of blocks.1.feed_forward.experts.gate_up, expert 3 (norm 4 of 5 in all)"
    assert largest_gradient(model) == expected
