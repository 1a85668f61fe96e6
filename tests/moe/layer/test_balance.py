"""Routers that several processes share keep one bias, whatever wraps the model."""

import copy
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from pauca.moe.layer.moe import MoE, update_biases
from pauca.moe.layer.recipe import Recipe
from pauca.moe.layer.router import RouterConfig
from pauca.moe.parallel.model import parallelize

STEPS, PASSES, RATE = 5, 2, 1e-2


def _model() -> nn.Module:
    torch.manual_seed(0)
    router = RouterConfig(bias_rate=RATE)
    layers = [MoE(32, 32, 8, 2, router=router, recipe=Recipe.bf16()) for _ in range(2)]
    return nn.Sequential(*layers, nn.Softplus())


def _batches(rank: int) -> torch.Tensor:
    """Of each rank other tokens, which prefer other experts."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(STEPS, PASSES, 48, 32, generator=generator) + torch.randn(32, generator=generator)


def _wrap(model: nn.Module, how: str) -> nn.Module:
    if how == "ddp":
        return DistributedDataParallel(model)
    if how == "fsdp2":
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        return fully_shard(model, mesh=mesh)
    if how == "parallelize":
        return parallelize(model, init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("ep",)))
    return model


def _biases(model: nn.Module) -> torch.Tensor:
    return torch.cat([value for name, value in model.named_buffers() if name.endswith("router.bias")]).clone()


def _train(rank: int, how: str) -> torch.Tensor:
    """Only the biases move, so that nothing but the loads decides where they go."""
    model = _wrap(_model(), how)
    for passes in _batches(rank):
        for x in passes:
            model(x).square().mean().backward()
        update_biases(model)
    return _biases(model)


def _alone() -> torch.Tensor:
    """The same in one process, which sees the tokens of both ranks."""
    model = _model()
    for passes in torch.cat([_batches(0), _batches(1)], dim=2):
        for x in passes:
            model(x)
        update_biases(model)
    return _biases(model)


@pytest.mark.parametrize("how", ["plain", "ddp", "fsdp2", "parallelize"])
def test_biases_are_those_of_one_process_that_sees_all_tokens(together, how):
    first, second = together(_train, 2, how)
    assert torch.equal(first, second)
    assert torch.equal(first, _alone())
    assert first.abs().max() > RATE  # they have moved


def _in_groups(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two models trained side by side: each process belongs to a group of its own."""
    group = [dist.new_group([0]), dist.new_group([1])][rank]
    model = _model()
    for passes in _batches(rank):
        for x in passes:
            model(x)
        update_biases(model, group)
    twin = _model()
    for passes in _batches(rank):
        for x in passes:
            twin(x)
        for layer in (twin[0], twin[1]):
            layer.router.update_bias()
    return _biases(model), _biases(twin)


def test_a_group_says_which_processes_share_the_routers(together):
    results = together(_in_groups, 2)
    for found, expected in results:
        assert torch.equal(found, expected)
    assert not torch.equal(results[0][0], results[1][0])


def _only_one_calls(rank: int) -> Any:
    if rank == 0:  # a model that does not balance by bias asks nothing of the others
        model = nn.Sequential(MoE(32, 32, 8, 2))
        model(torch.randn(9, 32))
        update_biases(copy.deepcopy(model))
    return rank


def test_without_a_bias_rate_nothing_is_exchanged(together):
    assert together(_only_one_calls, 2, timeout_s=20) == [0, 1]
