"""Weights quantized once per change: how often, that no pass uses a stale copy unseen, and when it stands aside."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from pauca.errors import InputError, PaucaError
from pauca.moe import MoE, Recipe, frozen_weights, quantize_once
from pauca.moe.layer import once as once_module
from pauca.moe.layer import weights as weights_module

Optimizer = Callable[..., torch.optim.Optimizer]


def _layer(recipe: Recipe | None = None) -> MoE:
    torch.manual_seed(0)
    return MoE(64, 32, 8, 2, shared_experts=1, recipe=recipe or Recipe.fp4())


def _batches(steps: int, passes: int) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(20, 64, generator=generator) for _ in range(passes)] for _ in range(steps)]


def _train(layer: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: list[list[torch.Tensor]]) -> list[float]:
    losses = []
    for passes in batches:
        optimizer.zero_grad()
        for x in passes:
            loss = layer(x).square().mean()
            loss.backward()
            losses.append(loss.item())
        optimizer.step()
    return losses


@pytest.fixture
def quantizations(monkeypatch) -> list[int]:
    """Grows by one whenever a matrix of experts is quantized for forward."""
    calls, quantize = [], weights_module.forward_weights
    monkeypatch.setattr(weights_module, "forward_weights", lambda w: calls.append(1) or quantize(w))
    return calls


class _Unseen(torch.optim.Optimizer):
    """Steps past what autograd counts, as fused kernels of other libraries do."""

    def __init__(self, params) -> None:
        super().__init__(params, {})

    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.data.add_(weight.grad.data, alpha=-1.0)


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=1e-2),
    "foreach": lambda weights: torch.optim.AdamW(weights, lr=1e-2, foreach=True),
    "fused": lambda weights: torch.optim.AdamW(weights, lr=1e-2, fused=True),
    "unseen": _Unseen,
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("recipe", [Recipe.fp8(), Recipe.fp4()], ids=["fp8", "fp4"])
def test_a_training_is_the_same_bit_for_bit_with_fewer_quantizations(recipe, make, quantizations):
    batches, found = _batches(steps=4, passes=3), []
    for once in (False, True):
        layer = _layer(recipe)
        optimizer = make(layer.parameters())
        if once:
            quantize_once(layer, optimizer)
        quantizations.clear()
        found.append((_train(layer, optimizer, batches), list(layer.parameters()), len(quantizations)))
    (losses, weights, often), (same_losses, same_weights, seldom) = found
    assert losses == same_losses
    assert all(torch.equal(one, other) for one, other in zip(weights, same_weights, strict=True))
    assert (often, seldom) == (4 * 3 * 4, 4 * 4)  # two banks of two matrices


def _ready(passes: int = 2) -> tuple[MoE, torch.optim.Optimizer, torch.Tensor]:
    """A layer with copies in use, in the middle of a step."""
    layer, x = _layer(), torch.randn(20, 64)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    quantize_once(layer, optimizer)
    for _ in range(passes):
        layer(x).sum().backward()
    return layer, optimizer, x


def _in_place(layer: MoE) -> None:
    with torch.no_grad():
        layer.experts.down.mul_(2)


def _load(layer: MoE) -> None:
    layer.load_state_dict({name: value * 2 for name, value in layer.state_dict().items()})


def _assign(layer: MoE) -> None:
    layer.load_state_dict({name: value * 2 for name, value in layer.state_dict().items()}, assign=True)


def _point_elsewhere(layer: MoE) -> None:
    layer.experts.down.data = layer.experts.down.data * 2


def _replace(layer: MoE) -> None:
    layer.experts.down = torch.nn.Parameter(layer.experts.down.detach() * 2)


@pytest.mark.parametrize("change", [_in_place, _load, _assign, _point_elsewhere, _replace])
def test_the_pass_after_a_change_uses_what_the_weights_are(change):
    layer, optimizer, x = _ready()
    change(layer)
    assert torch.equal(layer(x), copy.deepcopy(layer)(x))
    optimizer.step()


def _unseen_all(layer: MoE) -> None:
    layer.experts.down.data.mul_(2)


def _unseen_one(layer: MoE) -> None:
    layer.experts.gate_up.data[3, 5, 7] += 1e-3


def _unseen_swap(layer: MoE) -> None:
    layer.experts.down.data[1] = layer.experts.down.data[1].flip(0)


def _unseen_shared(layer: MoE) -> None:
    assert layer.shared is not None
    layer.shared.down.data[0, 0, 0].neg_()


UNSEEN = [_unseen_all, _unseen_one, _unseen_swap, _unseen_shared]


@pytest.mark.parametrize("change", UNSEEN)
def test_a_change_that_nothing_counts_is_refused_before_the_step(change):
    layer, optimizer, x = _ready()
    change(layer)
    layer(x).sum().backward()  # of the old weights
    before = [weight.detach().clone() for weight in layer.parameters()]
    with pytest.raises(PaucaError, match="past what autograd counts"):
        optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, layer.parameters(), strict=True))
    assert torch.equal(layer(x), copy.deepcopy(layer)(x))  # and the next pass uses the new ones
    optimizer.step()


@pytest.mark.parametrize("change", UNSEEN)
def test_passes_without_gradients_or_in_evaluation_never_use_a_copy(change):
    layer, _, x = _ready()
    change(layer)
    expected = copy.deepcopy(layer)(x)
    with torch.no_grad():
        assert torch.equal(layer(x), expected)
    with torch.inference_mode():
        assert torch.equal(layer(x), expected)
    layer.eval()
    assert torch.equal(layer(x), copy.deepcopy(layer)(x))


def test_a_change_that_is_undone_before_the_next_training_pass_is_none():
    layer, optimizer, x = _ready()
    own = layer.experts.down.detach().clone()
    layer.experts.down.data.mul_(0.5)  # as a swap to averaged weights does, for validation
    with torch.no_grad():
        layer(x)
    layer.experts.down.data.copy_(own)
    layer(x).sum().backward()
    optimizer.step()


def test_a_copy_of_the_layer_and_a_removed_handle_quantize_in_each_pass(quantizations):
    layer, x = _layer(), torch.randn(20, 64)
    handle = quantize_once(layer, torch.optim.SGD(layer.parameters(), lr=0.1))
    layer(x)
    for each in (copy.deepcopy(layer), layer):
        if each is layer:
            handle.remove()
        quantizations.clear()
        for _ in range(3):
            each(x)
        assert len(quantizations) == 3 * 4


def test_frozen_weights_inside_have_the_last_word():
    layer, optimizer, x = _ready()
    with frozen_weights(layer):
        layer(x)
        _in_place(layer)
        with pytest.raises(PaucaError, match="frozen_weights"):
            layer(x)
    optimizer.step()


def test_the_copies_are_gone_after_a_step():
    layer, optimizer, _ = _ready()
    assert layer.experts._once._kept
    optimizer.step()
    assert not layer.experts._once._kept


class _Scaled(torch.nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 2


def test_weights_that_an_adapter_computes_are_quantized_in_each_pass(quantizations):
    layer, x = _layer(), torch.randn(20, 64)
    torch.nn.utils.parametrize.register_parametrization(layer.experts, "down", _Scaled())
    quantize_once(layer, torch.optim.SGD(layer.parameters(), lr=0.1))  # of the shared expert alone
    layer(x)
    quantizations.clear()
    layer(x)
    assert len(quantizations) == 2


def test_experts_that_the_optimizer_does_not_step_are_refused():
    layer = _layer()
    with pytest.raises(InputError, match="quantize_once found no experts"):
        quantize_once(layer, torch.optim.SGD(layer.router.parameters(), lr=0.1))


def test_an_optimizer_that_is_captured_ends_it(monkeypatch, quantizations):
    layer, optimizer, x = _ready()
    monkeypatch.setattr(once_module, "is_capturing", lambda: True)
    quantizations.clear()
    layer(x)
    assert len(quantizations) == 4  # a graph that is replayed must quantize, too
    optimizer.step()
    monkeypatch.undo()
    assert layer.experts._once is None
    assert torch.equal(layer(x), copy.deepcopy(layer)(x))


def test_a_captured_step_goes_on_through_the_hooks_of_others(monkeypatch):
    layer, optimizer, x = _ready()
    steps = []
    optimizer.register_step_pre_hook(lambda *_: steps.append("before"))
    optimizer.register_step_post_hook(lambda *_: steps.append("after"))
    monkeypatch.setattr(once_module, "is_capturing", lambda: True)
    optimizer.step()
    monkeypatch.undo()
    layer(x).sum().backward()
    optimizer.step()
    assert steps == ["before", "after"] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_anywhere_in_a_flat_buffer_are_summed(dtype):
    flat = torch.randn(9).to(dtype)
    weight = flat[1:].view(2, 4)
    before = once_module._row_sums(weight)
    assert torch.equal(once_module._row_sums(weight), before)
    flat[6] *= 2
    assert (once_module._row_sums(weight) != before).tolist() == [False, True]


def _sharded(rank: int, when: str) -> list[float]:
    """Losses of a layer that `fully_shard` divides, before or after `quantize_once`."""
    layer, mesh = torch.nn.Sequential(_layer(), torch.nn.Tanh()), init_device_mesh("cpu", (2,))
    handle = None
    if when == "before":
        handle = quantize_once(layer, torch.optim.SGD(layer.parameters(), lr=0.1))
    fully_shard(layer, mesh=mesh)
    optimizer = torch.optim.SGD(layer.parameters(), lr=10.0)
    if when == "after":
        with pytest.raises(InputError, match="whole on this rank"):
            quantize_once(layer, optimizer)
    losses = _train(layer, optimizer, _batches(steps=3, passes=2))
    if handle is not None:
        assert not handle._kept
    return losses


def test_weights_that_fully_shard_gathers_are_quantized_in_each_pass(together):
    never, before, after = (together(_sharded, 2, when) for when in ("never", "before", "after"))
    assert never == before == after
    assert never[0][0] != never[0][-2]


@pytest.mark.gpu
def test_bits_are_the_same_on_a_gpu():
    found = []
    for once in (False, True):
        layer = _layer().cuda()
        optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2, fused=True)
        if once:
            quantize_once(layer, optimizer)
        batches = [[x.cuda() for x in passes] for passes in _batches(steps=4, passes=3)]
        found.append((_train(layer, optimizer, batches), list(layer.parameters())))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(one, other) for one, other in zip(found[0][1], found[1][1], strict=True))


@pytest.mark.gpu
def test_a_captured_step_is_replayed_with_the_weights_that_it_finds():
    plain, kept = (_replayed(once) for once in (False, True))
    assert plain == kept
    assert len(set(plain)) > 1


def _replayed(once: bool) -> list[float]:
    """Losses of the replays of a captured step, and of the weights after them."""
    layer, x = _layer().cuda(), torch.randn(20, 64, generator=torch.Generator().manual_seed(2)).cuda()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2, fused=True, capturable=True)
    if once:
        quantize_once(layer, optimizer)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=False)
        loss = layer(x).square().mean() + layer(-x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):  # autograd remembers the stream of the first gradients
        loss = step()
    losses = []
    for _ in range(4):
        graph.replay()
        losses.append(loss.item())
    return [*losses, layer(x).square().mean().item()]
