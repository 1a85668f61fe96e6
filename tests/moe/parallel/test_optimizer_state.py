"""Checkpoints of divided experts: whole, and loadable on another number of ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from pauca.moe.layer.moe import MoE
from pauca.moe.layer.recipe import Recipe
from pauca.moe.parallel.experts import ParallelExperts
from pauca.moe.parallel.model import parallelize
from pauca.moe.parallel.optimizer_state import load_optimizer_state, optimizer_state

HIDDEN = 32


def _model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(MoE(HIDDEN, 32, 8, 2, recipe=Recipe.fp4(), shared_experts=1), nn.Softplus())


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    experts = list(model[0].experts.parameters())
    others = [p for p in model.parameters() if all(p is not expert for expert in experts)]
    return torch.optim.AdamW([{"params": others}, {"params": experts}], lr=0.01)


def _divided(seed: int, fsdp: bool) -> nn.Module:
    if not fsdp:
        return parallelize(_model(seed), init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("ep",)))
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "ep"))
    model = parallelize(_model(seed), mesh)
    fully_shard(model[0].experts, mesh=mesh["dp"])
    return fully_shard(model, mesh=mesh)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.randn(6, HIDDEN, generator=torch.Generator().manual_seed(3))).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer_state(model, optimizer)}


def _whole(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All tensors of a state, undivided, by a flat name."""
    flat = dict(state["model"])
    for name, values in state["optimizer"]["state"].items():
        flat |= {f"{name}/{key}": value for key, value in values.items()}
    return {k: v.full_tensor() if isinstance(v, DTensor) else v.clone() for k, v in sorted(flat.items())}


def _save(rank: int, folder: Path, fsdp: bool) -> dict[str, torch.Tensor]:
    model = _divided(0, fsdp)
    optimizer = _optimizer(model)
    _step(model, optimizer)
    state = _state(model, optimizer)
    assert state["model"]["0.experts.down"].shape[0] == 8
    for tensor in (state["model"]["0.experts.down"], state["optimizer"]["state"]["0.experts.down"]["exp_avg"]):
        assert len(tensor.to_local()) == 8 // dist.get_world_size()  # nobody holds another rank's experts
    checkpoint.save(state, checkpoint_id=folder)
    whole = _whole(state)
    exported = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:  # the rank that exports gets all experts
        assert all(torch.equal(tensor, whole[name]) for name, tensor in exported.items())
    return whole


def _load(rank: int, folder: Path, fsdp: bool) -> dict[str, torch.Tensor]:
    model = _divided(1, fsdp)
    optimizer = _optimizer(model)
    state = _state(model, optimizer)
    checkpoint.load(state, checkpoint_id=folder)
    model.load_state_dict(state["model"])
    load_optimizer_state(model, optimizer, state["optimizer"])
    loaded = _whole(_state(model, optimizer))
    _step(model, optimizer)  # fits together
    return loaded


@pytest.mark.parametrize(("save", "load"), [((2, False), (4, False)), ((4, True), (2, False)), ((2, False), (4, True))])
def test_a_checkpoint_can_be_loaded_on_another_number_of_ranks(save, load, together, tmp_path):
    saved = together(_save, save[0], tmp_path, save[1])
    loaded = together(_load, load[0], tmp_path, load[1])
    assert {"0.experts.gate_up/exp_avg", "0.router.weight/exp_avg_sq"} < saved[0].keys()
    for other in loaded:
        assert other.keys() == saved[0].keys()
        for name, tensor in saved[0].items():
            assert torch.equal(other[name], tensor), name


def _parts(rank: int, experts: int, names: tuple[str, str]) -> tuple[int, dict[str, torch.Tensor]]:
    model = nn.Sequential(MoE(HIDDEN, 32, experts, 2))
    model.load_state_dict(_of(experts).state_dict())
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=names)
    parallelize(model, mesh)
    fully_shard(model[0].experts, mesh=mesh["dp"])
    state = model.state_dict()
    other = nn.Sequential(MoE(HIDDEN, 32, experts, 2))
    fully_shard(parallelize(other, mesh)[0].experts, mesh=mesh["dp"])
    other.load_state_dict(state)
    again = {name: value.full_tensor() for name, value in other.state_dict().items() if isinstance(value, DTensor)}
    return len(state["0.experts.down"].to_local()), again


def _of(experts: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(MoE(HIDDEN, 32, experts, 2))


@pytest.mark.parametrize("names", [("dp", "ep"), ("ep", "dp")])
def test_experts_divided_twice_are_parts_of_all_in_their_order(together, names):
    """Six experts: three a rank along "ep", of which one rank along "dp" holds two and the other one."""
    found, expected = together(_parts, 4, 6, names), _of(6).state_dict()
    assert sorted(count for count, _ in found) == [1, 1, 2, 2]
    for _, whole in found:
        assert whole.keys() == {"0.experts.gate_up", "0.experts.down"}
        for name, tensor in whole.items():
            assert torch.equal(tensor, expected[name]), name


def _load_plain(rank: int, state: dict[str, torch.Tensor]) -> list[bool]:
    model = _divided(1, fsdp=False)
    model.load_state_dict(state)
    bank = model[0].experts
    assert isinstance(bank, ParallelExperts)
    own = slice(4 * rank, 4 * rank + 4)
    return [torch.equal(getattr(bank, name), state[f"0.experts.{name}"][own]) for name in ("gate_up", "down")]


def test_the_state_of_one_process_can_be_loaded(together):
    assert together(_load_plain, 2, _model(0).state_dict()) == [[True, True], [True, True]]


def test_one_process_loads_what_ranks_have_saved(together, tmp_path):
    saved = together(_save, 2, tmp_path, False)
    model = _model(1)
    state = {"model": model.state_dict()}
    with pytest.warns(UserWarning, match="assuming the intent is to load in a single process"):
        checkpoint.load(state, checkpoint_id=tmp_path)
    for name, tensor in state["model"].items():
        assert torch.equal(tensor, saved[0][name]), name


def _reset(rank: int) -> torch.Tensor:
    with torch.device("meta"):
        model = _model(0)
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("ep",))
    bank = parallelize(model, mesh).to_empty(device="cpu")[0].experts
    torch.manual_seed(5)
    bank.reset_parameters()
    return torch.cat([bank.gate_up.detach().flatten(1), bank.down.detach().flatten(1)], 1)


def test_a_model_built_without_memory_gets_different_experts_on_each_rank(together):
    experts = torch.cat(together(_reset, 2))
    assert len(experts.unique(dim=0)) == 8
    assert experts.std() == pytest.approx(HIDDEN**-0.5, rel=0.05)
