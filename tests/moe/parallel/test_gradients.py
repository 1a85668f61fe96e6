"""Training steps of a model on several ranks against the same steps in one process on all their tokens."""

import copy
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pauca.errors import ConfigError
from pauca.moe.layer.moe import MoE, auxiliary_loss, update_biases
from pauca.moe.layer.recipe import Recipe
from pauca.moe.layer.router import RouterConfig
from pauca.moe.parallel.experts import ParallelExperts
from pauca.moe.parallel.gradients import average_gradients, clip_gradients
from pauca.moe.parallel.model import parallelize

HIDDEN, TOKENS, STEPS, MAX_NORM = 32, 24, 3, 0.5
PRECISIONS = ("bf16", "fp8", "fp4")


def _model(precision: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"recipe": getattr(Recipe, precision)(), "router": RouterConfig(bias_rate=0.1), "shared_experts": 1}
    first = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), MoE(HIDDEN, 32, 8, 2, **options), nn.Softplus())
    return nn.Sequential(first, nn.Sequential(MoE(HIDDEN, 32, 8, 2, **options), nn.Softplus()))


def _batches(place: int, ranks: int) -> list[torch.Tensor]:
    """Of one rank, the same number of tokens each; `ranks` of them are one process's batch."""
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randn(4, TOKENS, HIDDEN, generator=generator)[: 4 // ranks * ranks].chunk(ranks)[place]
        for _ in range(STEPS)
    ]


def _train(model: nn.Module, batches: list[torch.Tensor], alone: bool) -> dict[str, Any]:
    dense, own = [], []
    for name, parameter in model.named_parameters():
        (own if ".experts." in name else dense).append(parameter)
    # Not Adam: its first steps see the signs of gradients, and a last bit can turn a sign.
    optimizer = torch.optim.SGD([{"params": dense}, {"params": own}], lr=0.5, momentum=0.9)
    losses, norms = [], []
    for x in batches:
        loss = (model(x) - x.roll(1, 1)).square().mean()
        loss.backward()
        if alone:
            norm = nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        else:
            average_gradients(model)
            norm = clip_gradients(model, MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
        update_biases(model)
        losses.append(loss.item())
        norms.append(norm.item())
    assert auxiliary_loss(model) > 0
    state = {
        name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in _whole(model).items()
    }
    return {"losses": losses, "norms": norms, "state": {name: value.clone() for name, value in state.items()}}


def _whole(model: nn.Module) -> dict[str, torch.Tensor]:
    return model.state_dict()


def _replicated(rank: int, precision: str) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("ep",))
    model = parallelize(_model(precision), mesh)
    return _train(model, _batches(rank, dist.get_world_size()), alone=False)


def _sharded(rank: int, precision: str) -> dict[str, Any]:
    """The dense part over the same ranks by FSDP2."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("ep",))
    model = parallelize(_model(precision), mesh)
    experts = {p for m in model.modules() if isinstance(m, ParallelExperts) for p in m.parameters()}
    for block in (*model, model):
        fully_shard(block, mesh=mesh, ignored_params=experts)
    assert isinstance(model[1][0].router.weight, DTensor)
    assert not isinstance(model[1][0].experts.down, DTensor)
    return _train(model, _batches(rank, dist.get_world_size()), alone=False)


def _in_two_dimensions(rank: int, precision: str, fsdp: bool) -> dict[str, Any]:
    """Two replicas of two ranks; by FSDP2 the experts are divided over the replicas too, the dense part over all."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "ep"))
    model = parallelize(_model(precision), mesh)
    if fsdp:
        for layer in (model[0][1], model[1][0]):
            fully_shard(layer.experts, mesh=mesh["dp"])
        fully_shard(model, mesh=mesh)
        assert isinstance(model[1][0].experts.down, DTensor)
    return _train(model, _batches(rank, 4), alone=False)


def _check(ranks: list[dict[str, Any]], precision: str) -> None:
    batches = [torch.cat(parts) for parts in zip(*(_batches(r, len(ranks)) for r in range(len(ranks))), strict=True)]
    expected = _train(_model(precision), batches, alone=True)
    losses = torch.tensor([result["losses"] for result in ranks]).mean(0)
    # Sums in another order and BF16 partial sums, which tip some values over to the next FP8 or MXFP4 code.
    torch.testing.assert_close(losses, torch.tensor(expected["losses"]), rtol=2e-3, atol=0)
    for result in ranks:
        assert result["norms"] == ranks[0]["norms"]
        assert result["norms"] == pytest.approx(expected["norms"], rel=0.02)
        for name, value in expected["state"].items():
            actual = result["state"][name]
            assert torch.equal(actual, ranks[0]["state"][name]), name
            if name.endswith("bias"):
                torch.testing.assert_close(actual, value, rtol=0, atol=0.02, msg=name)
            else:
                assert (actual - value).norm() < 0.02 * value.norm(), name


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("work", [_replicated, _sharded])
def test_two_ranks_train_as_one_process(work, precision, together):
    _check(together(work, 2, precision), precision)


@pytest.mark.parametrize("fsdp", [False, True])
def test_replicas_of_divided_experts_train_as_one_process(fsdp, together):
    _check(together(_in_two_dimensions, 4, "fp4", fsdp), "fp4")


def test_a_model_on_one_rank_is_refused():
    model = _model("bf16")
    for function in (average_gradients, lambda m: clip_gradients(m, 1.0)):
        with pytest.raises(ConfigError, match="call parallelize first"):
            function(model)


def _copied(rank: int) -> bool:
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("ep",))
    model = parallelize(_model("fp4"), mesh)
    twin, x = copy.deepcopy(model), torch.randn(4, HIDDEN)
    return torch.equal(twin(x), model(x))


def test_a_divided_model_can_be_copied(together):
    assert together(_copied, 2) == [True, True]


def _optimizer_of_before(rank: int, early: bool) -> dict[str, torch.Tensor]:
    """After two steps, by an optimizer that was made before the model was divided or after."""
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("ep",))
    (x, *_), model = _batches(rank, 2), _model("fp4")
    loss = model(x).square().mean()
    loss.backward()  # its graph, which knows the whole weights, is still there
    parameters = list(model.parameters()) if early else []
    parallelize(model, mesh)
    optimizer = torch.optim.AdamW(parameters or model.parameters(), lr=0.1)
    optimizer.zero_grad()
    for _ in range(2):
        model(x).square().mean().backward()
        average_gradients(model)
        optimizer.step()
        optimizer.zero_grad()
    del loss
    return {name: weight.detach() for name, weight in model.named_parameters()}


def test_an_optimizer_that_was_made_before_the_division_trains_the_experts(together):
    """It went on with the whole weights, which nothing used any more."""
    for early, late in zip(*(together(_optimizer_of_before, 2, early) for early in (True, False)), strict=True):
        assert early.keys() == late.keys()
        assert all(torch.equal(weight, late[name]) for name, weight in early.items())
        whole = dict(_model("fp4").named_parameters())
        assert not torch.equal(early["0.1.experts.down"], whole["0.1.experts.down"][:4])
        assert not torch.equal(early["0.1.experts.down"], whole["0.1.experts.down"][4:])


def _averaged_by_others(rank: int) -> list[str]:
    mesh, said = init_device_mesh("cpu", (2,), mesh_dim_names=("ep",)), []
    (x, *_), model = _batches(rank, 2), _model("bf16")
    with pytest.raises(ConfigError) as found:
        parallelize(DistributedDataParallel(model), mesh)
    said.append(str(found.value))
    wrapped = DistributedDataParallel(parallelize(_model("bf16"), mesh))
    with pytest.raises(ConfigError) as found:
        wrapped(x)
    told = parallelize(_model("bf16"), mesh)
    experts = [name for name, _ in told.named_parameters() if ".experts." in name]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(told, experts)
    own = told[0][1].experts.down.clone()
    DistributedDataParallel(told)(x)
    assert torch.equal(told[0][1].experts.down, own)
    return [*said, str(found.value)]


def test_what_would_average_unlike_experts_is_refused(together):
    """DistributedDataParallel gave all ranks the first one's experts, and averaged their gradients, without a word."""
    for around, within in together(_averaged_by_others, 2):
        assert "DistributedDataParallel is around the model already: give parallelize the model itself" in around
        assert "layer '0.1': DistributedDataParallel gives every rank the first one's experts" in within
        assert "call average_gradients after backward, or use fully_shard" in within


def _averaged_copies(rank: int) -> bool:
    """Whether the gradients are those of an undivided model, where ranks hold copies of all experts."""
    (x, *_), whole = _batches(rank, 2), DistributedDataParallel(_model("bf16"))
    divided = DistributedDataParallel(
        parallelize(_model("bf16"), init_device_mesh("cpu", (2, 1), mesh_dim_names=("dp", "ep")))
    )
    for model in (whole, divided):
        model(x).square().mean().backward()
    pairs = zip(whole.parameters(), divided.parameters(), strict=True)
    return all((a.grad - b.grad).norm() <= 0.01 * a.grad.norm() for a, b in pairs)


def test_what_averages_copies_of_experts_is_none_of_our_business(together):
    assert together(_averaged_copies, 2) == [True, True]
