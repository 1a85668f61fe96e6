"""BF16 weights add up gradients in FP32: no bit of a micro-batch is lost, and optimizers get the sum rounded once."""

import copy

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from pauca.errors import InputError
from pauca.moe import MoE, Recipe, parallelize, sum_gradients_in_fp32
from pauca.moe.layer import QuantizedLinear
from pauca.moe.ops import products
from pauca.moe.parallel import average_gradients

PASSES = 64


class _Model(nn.Module):
    def __init__(self, recipe: Recipe, checkpointed: bool | None = None) -> None:
        super().__init__()
        self.first = QuantizedLinear(32, 32, Recipe.fp4() if recipe.precision == "bf16" else recipe)
        self.second, self.last = MoE(32, 32, 4, 2, shared_experts=1, recipe=recipe), nn.Linear(32, 32)
        self.reentrant = checkpointed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y = self.second(x) if self.reentrant is None else checkpoint(self.second, x, use_reentrant=self.reentrant)
        return self.last(y)


def _model(recipe: Recipe, checkpointed: bool | None = None) -> _Model:
    torch.manual_seed(0)
    return _Model(recipe, checkpointed).bfloat16()


def _batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(24, 32, generator=generator).bfloat16() for _ in range(PASSES)]


def _backward(model: nn.Module, batches: list[torch.Tensor]) -> None:
    for x in batches:
        (model(x).float() - x.float()).square().mean().backward()


def _gradients(model: nn.Module) -> list[torch.Tensor]:
    return [weight.grad for weight in model.parameters() if weight.grad is not None]


def _exact(model: nn.Module) -> list[torch.Tensor]:
    """Each micro-batch's gradients, added up in FP64."""
    sums: list[torch.Tensor] = []
    for x in _batches():
        model.zero_grad()
        _backward(model, [x])
        found = [gradient.double() for gradient in _gradients(model)]
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
    return sums


def _errors(found: list[torch.Tensor], exact: list[torch.Tensor]) -> list[float]:
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]


@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp4"])
def test_64_micro_batches_add_up_as_in_fp32(precision):
    recipe = getattr(Recipe, precision)()
    exact = _exact(_model(recipe))
    rounded, summed = _model(recipe), _model(recipe)
    sum_gradients_in_fp32(summed)
    for model in (rounded, summed):
        _backward(model, _batches())
    assert all(gradient.dtype == torch.float32 for gradient in _gradients(summed))
    assert max(_errors(_gradients(summed), exact)) < 1e-5
    assert min(_errors(_gradients(rounded), exact)) > 2**-9  # what rounding the finished sum once may cost


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_no_sum(reentrant):
    models = [_model(Recipe.fp4(), checkpointed) for checkpointed in (None, reentrant)]
    for model in models:
        sum_gradients_in_fp32(model)
        _backward(model, _batches()[:4])
    assert all(map(torch.equal, *map(_gradients, models)))


def test_what_a_product_gives_in_fp32_is_not_rounded_on_its_way(monkeypatch):
    """On a GPU the gradient of a lone expert is a sum of pieces in FP32."""
    exact = products.fp8_columns_by_columns
    monkeypatch.setattr(products, "fp8_columns_by_columns", lambda *a: exact(*a).float() * (1 + 2**-12))
    model = _model(Recipe.fp4())
    sum_gradients_in_fp32(model)
    _backward(model, _batches()[:1])
    gradient = model.second.experts.down.grad
    assert not torch.equal(gradient, gradient.bfloat16().float())


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {"fused": True}])
def test_adamw_gets_the_sum_rounded_once(options):
    model, twin = _model(Recipe.fp4()), _model(Recipe.fp4())
    optimizer, other = (torch.optim.AdamW(m.parameters(), **options) for m in (model, twin))
    sum_gradients_in_fp32(model, optimizer)
    for step in range(3):
        _backward(model, _batches()[4 * step : 4 * step + 4])
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        before = [gradient.clone() for gradient in _gradients(model)]
        for weight, gradient in zip(twin.parameters(), before, strict=True):
            weight.grad = gradient.bfloat16()
        optimizer.step()
        other.step()
        assert all(map(torch.equal, model.parameters(), twin.parameters()))
        assert all(map(torch.equal, _gradients(model), before))  # as they were, in FP32
        optimizer.zero_grad()


def test_a_closure_is_refused_and_none_is_not():
    model = _model(Recipe.bf16())
    optimizer = torch.optim.AdamW(model.parameters())
    sum_gradients_in_fp32(model, optimizer)
    for step in (lambda: optimizer.step(lambda: 0.0), lambda: optimizer.step(closure=lambda: 0.0)):
        with pytest.raises(InputError, match="a closure makes them within: call it yourself"):
            step()
    _backward(model, _batches()[:1])
    optimizer.step(None)  # as accelerate does
    assert all(gradient.dtype == torch.float32 for gradient in _gradients(model))


def test_a_step_that_fails_leaves_no_rounded_sum_behind():
    model = _model(Recipe.bf16())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sum_gradients_in_fp32(model, optimizer)
    _backward(model, _batches()[:2])
    before = [gradient.clone() for gradient in _gradients(model)]

    def fail(*_: object) -> None:
        raise ValueError("full")

    hook = optimizer.register_step_pre_hook(fail)
    with pytest.raises(ValueError, match="full"):
        optimizer.step()
    hook.remove()
    optimizer.step()
    assert all(map(torch.equal, _gradients(model), before))


def test_optimizers_that_take_fp32_need_not_be_given():
    for make in (
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9),
        torch.optim.Adafactor,
        lambda weights: torch.optim.Muon([weight for weight in weights if weight.ndim == 2]),
    ):
        model = _model(Recipe.fp4())
        sum_gradients_in_fp32(model)
        _backward(model, _batches()[:2])
        before = model.last.weight.detach().clone()
        make(list(model.parameters())).step()
        assert not torch.equal(model.last.weight, before)


def test_what_was_begun_can_be_ended():
    model = _model(Recipe.fp4())
    optimizer = torch.optim.AdamW(model.parameters())
    handle = sum_gradients_in_fp32(model, optimizer)
    _backward(model, _batches()[:2])
    sums = [gradient.bfloat16() for gradient in _gradients(model)]
    handle.remove()
    assert all(map(torch.equal, _gradients(model), sums))
    _backward(model, _batches()[2:3])
    assert all(gradient.dtype == torch.bfloat16 for gradient in _gradients(model))
    optimizer.step()


def test_frozen_weights_and_weights_in_fp32_are_left_alone():
    model = _model(Recipe.fp4())
    model.last.float()
    model.first.requires_grad_(False)
    sum_gradients_in_fp32(model)
    x = _batches()[0]
    model.last(model.second(x).float()).square().mean().backward()
    assert model.first.weight.grad is None
    assert {gradient.dtype for gradient in _gradients(model)} == {torch.float32}
    with pytest.raises(InputError, match="found no BF16 weight"):
        sum_gradients_in_fp32(nn.Linear(4, 4))


@pytest.fixture
def one_rank(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_what_has_its_own_sums_is_refused(one_rank):
    model = _model(Recipe.fp4())
    with pytest.raises(InputError, match="DistributedDataParallel sends gradients"):
        sum_gradients_in_fp32(DistributedDataParallel(copy.deepcopy(model)))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(InputError, match="fully_shard adds up gradients itself"):
        sum_gradients_in_fp32(model)


def test_gradients_of_divided_experts_are_averaged_in_fp32(one_rank):
    model = _model(Recipe.fp4())
    parallelize(model, init_device_mesh("cpu", (1,), mesh_dim_names=("ep",)))
    sum_gradients_in_fp32(model)
    average_gradients(model)  # zeros, where a weight has none
    assert [gradient.dtype for gradient in _gradients(model)] == [torch.float32] * len(list(model.parameters()))
    _backward(model, _batches()[:2])
    average_gradients(model)
    assert [gradient.dtype for gradient in _gradients(model)] == [torch.float32] * len(list(model.parameters()))


def test_a_converted_model_adds_up_in_fp32():
    transformers = pytest.importorskip("transformers")
    from pauca.moe import convert

    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(
        hidden_size=32, moe_intermediate_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, num_experts=4, num_experts_per_tok=2, vocab_size=64,
    )  # fmt: skip
    model = convert(transformers.Qwen3MoeForCausalLM(config).bfloat16(), Recipe.fp4())
    batches = [torch.randint(64, (2, 16)) for _ in range(8)]

    def sums(each: bool) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        for ids in batches:
            model(input_ids=ids, labels=ids).loss.backward()
            if each:
                now = [gradient.double() for gradient in _gradients(model)]
                found = [a + b for a, b in zip(found, now, strict=True)] if found else now
                model.zero_grad()
        return found if each else _gradients(model)

    exact = sums(each=True)
    optimizer = torch.optim.AdamW(model.parameters())
    sum_gradients_in_fp32(model, optimizer)
    assert max(_errors(sums(each=False), exact)) < 1e-5
    optimizer.step()
