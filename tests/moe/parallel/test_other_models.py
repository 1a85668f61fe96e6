"""Experts of converted transformers models, and of layers of other people's, divided over gloo processes."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.moe import Recipe, convert, parallelize, quantize_once, unconvert
from pauca.moe.layer.experts import ExpertBank, Experts
from pauca.moe.parallel import average_gradients, clip_gradients
from pauca.moe.parallel.experts import ParallelExperts

transformers = pytest.importorskip("transformers")
from ..models.test_families import benchmark  # noqa: E402 - needs transformers

SIZES = {
    **{"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0},
    **{"num_key_value_heads": 4, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2},
    **{"intermediate_size": 96, "moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 3},
}
FAMILIES = {
    "Qwen3Moe": {},
    "Qwen2Moe": {"shared_expert_intermediate_size": 64},
    "Mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "GptOss": {"num_local_experts": 8, "head_dim": 16, "intermediate_size": 32},  # biases
}
TOKENS = torch.arange(4 * 24).reshape(4, 24) * 31 % 61 + 3
PRECISIONS = ("bf16", "fp8", "fp4")


def _converted(family: str, precision: str) -> nn.Module:
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **FAMILIES[family]})
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for weight in model.parameters():  # transformers' own are so small that experts add next to nothing
        if weight.ndim > 1:
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    # A shared expert is a bank of one, which stays whole on all ranks.
    shared = "fp8" if (family, precision) == ("Qwen2Moe", "fp8") else "bf16"
    return convert(model, getattr(Recipe, precision)(), feed_forwards=shared)


class OtherLayer(nn.Module):
    """Somebody's own layer around `Experts`: its router, its way of weighing."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.gate, self.bank = nn.Linear(32, 8, bias=False), Experts(32, 32, 8, recipe)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        weights, ids = self.gate(tokens).sigmoid().topk(2)
        return x + self.bank(tokens, ids, weights).view(x.shape)


def _other(precision: str) -> nn.Module:
    torch.manual_seed(0)
    recipe = getattr(Recipe, precision)()
    return nn.Sequential(nn.Linear(32, 32), OtherLayer(recipe), nn.Tanh(), OtherLayer(recipe), nn.Softplus())


def _loss(model: nn.Module, part: slice) -> Tensor:
    if isinstance(model, nn.Sequential):
        x = torch.randn(4, 24, 32, generator=torch.Generator().manual_seed(2))[part]
        return (model(x) - x.roll(1, 1)).square().mean()
    return model(input_ids=TOKENS[part], labels=TOKENS[part]).loss


def _build(name: str, precision: str) -> nn.Module:
    return _other(precision) if name == "other" else _converted(name, precision)


def _steps(model: nn.Module, part: slice, divided: bool, once: bool = False) -> dict[str, Any]:
    own = {id(w) for m in model.modules() if isinstance(m, ParallelExperts) for w in m.parameters()}
    groups = [[w for w in model.parameters() if (id(w) in own) is mine] for mine in (False, True)]
    optimizer = torch.optim.SGD([{"params": group} for group in groups if group], lr=0.1, momentum=0.9)
    if once:
        quantize_once(model, optimizer)
    losses, norms = [], []
    for _ in range(3):
        loss = _loss(model, part)
        loss.backward()
        if divided:
            average_gradients(model)
            norm = clip_gradients(model, 0.5)
        else:
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        norms.append(norm.item())
    return {"losses": losses, "norms": norms}


def _divided(rank: int, name: str, precision: str, how: str = "") -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("ep",))
    model = parallelize(_build(name, precision), mesh)
    held = {n: tuple(w.shape) for n, w in model.named_parameters()}
    if how == "fsdp":
        experts = {w for m in model.modules() if isinstance(m, ParallelExperts) for w in m.divided().values()}
        fully_shard(model, mesh=mesh, ignored_params=experts)
    result = _steps(model, slice(2 * rank, 2 * rank + 2), divided=True, once=how == "once")
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return result | {"held": held, "weights": whole if rank == 0 else {}}


def test_a_divided_model_is_not_one_process_s_by_accident(together):
    """Without averaging, ranks would part: what the comparison above could not have missed."""
    ranks = together(_divided, 2, "Qwen3Moe", "bf16")
    assert ranks[0]["losses"] != ranks[1]["losses"]  # of other tokens


def _assert_alike(ranks: list[dict[str, Any]], alone: dict[str, Any], model: nn.Module, tolerance: float) -> None:
    both = torch.tensor([result["losses"] for result in ranks]).mean(0)
    torch.testing.assert_close(both, torch.tensor(alone["losses"]), rtol=tolerance, atol=0)
    assert ranks[0]["norms"] == ranks[1]["norms"]
    torch.testing.assert_close(
        torch.tensor(ranks[0]["norms"]), torch.tensor(alone["norms"]), rtol=20 * tolerance, atol=0
    )
    weights, expected = ranks[0]["weights"], model.state_dict()
    assert weights.keys() == expected.keys()  # the family's own names
    for name, value in expected.items():
        assert weights[name].shape == value.shape, name
        assert (weights[name] - value).norm() <= tolerance * value.norm() + 1e-3, name  # biases began at 0


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [*FAMILIES, "other"])
def test_two_ranks_train_as_one_process(name, precision, together):
    """But for each rank's sum, which travels in BF16, and codes of few bits that it may tip over."""
    model = _build(name, precision)
    whole = {n: tuple(w.shape) for n, w in model.named_parameters()}
    alone = _steps(model, slice(0, 4), divided=False)
    ranks = together(_divided, 2, name, precision)
    halved = [n for n, shape in whole.items() if ranks[0]["held"][n] != shape]
    assert len(halved) == (6 if name == "GptOss" else 4)  # two weights in each of two layers, and FC1's bias
    assert all(ranks[0]["held"][n] == (4, *whole[n][1:]) for n in halved)
    _assert_alike(ranks, alone, model, tolerance=2e-3 if precision == "bf16" else 2e-2)


@pytest.mark.parametrize(("family", "how"), [("Qwen3Moe", "fsdp"), ("GptOss", "fsdp"), ("Qwen3Moe", "once")])
def test_the_rest_may_be_sharded_and_weights_quantized_once(family, how, together):
    plain, other = (together(_divided, 2, family, "fp4", way) for way in ("", how))
    for one, two in zip(plain, other, strict=True):
        torch.testing.assert_close(two["losses"], one["losses"], rtol=2e-3 if how == "fsdp" else 0, atol=0)
        assert one["weights"].keys() == two["weights"].keys()


FORMS = [
    *("aria", "gemma4", "gpt_oss", "nemotron_h", "step3p7"),  # transposed; GELU; biases; no gate; limited
    *("dbrx", "llama4", "jetmoe"),  # layers that do more than their experts in one module
]


def _hidden_and_gradients(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    states = model(input_ids=TOKENS, use_cache=False).last_hidden_state
    states.square().mean().backward()
    if any(isinstance(module, ParallelExperts) for module in model.modules()):
        average_gradients(model)
    return states.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def _form(rank: int, family: str) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("ep",))
    model = convert(benchmark.build(family), Recipe.bf16())
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    parallelize(model, mesh)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    model.load_state_dict(weights)  # of one process
    found = _hidden_and_gradients(model)
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return *found, whole


@pytest.mark.parametrize("family", FORMS)
def test_every_form_of_experts_is_computed_where_it_lies(family, together):
    """Both ranks have the same tokens: then the mean is the gradient of one process."""
    model = convert(benchmark.build(family), Recipe.bf16())
    states, gradients = _hidden_and_gradients(model)
    ranks = together(_form, 2, family)
    weights, saved = model.state_dict(), ranks[0][2]
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[name], weight) for name, weight in weights.items())
    for found, _, _ in ranks:
        assert (found - states).norm() < 0.01 * states.norm()
    divided = 0
    for name, whole in gradients.items():
        parts = [own[name] for _, own, _ in ranks]
        together_again = parts[0] if parts[0].shape == whole.shape else torch.cat(parts)
        divided += together_again is not parts[0]
        assert (together_again - whole).norm() <= 0.02 * whole.norm() + 1e-9, name
    assert divided >= 2


def _from_nothing(rank: int, family: str) -> tuple[Tensor, Tensor]:
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("ep",))
    model = convert(benchmark.build(family), Recipe.bf16())
    divided = parallelize(copy.deepcopy(model).to("meta"), mesh).to_empty(device="cpu")
    for empty, buffer in zip(divided.buffers(), model.buffers(), strict=True):
        empty.copy_(buffer)
    divided.load_state_dict(model.state_dict())
    return _hidden_and_gradients(divided)[0], _hidden_and_gradients(model)[0]


@pytest.mark.parametrize("family", ["jetmoe", "qwen3_moe"])
def test_a_model_may_be_divided_before_it_has_memory(family, together):
    for found, whole in together(_from_nothing, 2, family):
        assert (found - whole).norm() < 0.01 * whole.norm()


def _refusals(rank: int) -> list[str]:
    mesh, said = init_device_mesh("cpu", (2,), mesh_dim_names=("ep",)), []
    with pytest.raises(ConfigError) as found:
        parallelize(convert(benchmark.build("longcat_flash"), Recipe.bf16()), mesh)
    said.append(str(found.value))
    with pytest.raises(ConfigError) as found:
        parallelize(nn.Linear(2, 2), mesh)
    said.append(str(found.value))
    model = parallelize(_converted("Qwen3Moe", "bf16"), mesh)
    with pytest.raises(InputError) as refused:
        unconvert(model)
    said.append(str(refused.value))
    with pytest.raises(ConfigError) as found:
        parallelize(model, mesh)
    said.append(str(found.value))
    with pytest.raises(InputError) as refused:
        convert(parallelize(convert(benchmark.build("llama4"), Recipe.bf16()), mesh), Recipe.fp4())
    return [*said, str(refused.value)]


def test_what_cannot_be_divided_says_why(together):
    idle, none, divided, twice, late = together(_refusals, 2)[0]
    assert "rows for the experts that do nothing" in idle
    assert "but by fully_shard" in idle
    assert "no pauca.moe.MoE layer, Experts or converted experts" in none
    assert "mlp.experts is divided over ranks" in divided
    assert "call parallelize once" in twice
    assert "is divided over ranks: convert before parallelize" in late


def _other_seeds(rank: int) -> str:
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("ep",))
    model = _other("bf16")
    with torch.no_grad():
        model[1].gate.weight += rank
    with pytest.raises(PaucaError) as found:
        parallelize(model, mesh)
    return str(found.value)


def test_ranks_with_other_routers_are_refused(together):
    for message in together(_other_seeds, 2):
        assert "'1.bank', checksum of the experts and what stands beside them" in message


def _one_of_four(rank: int) -> str:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "ep"))
    model = _other("bf16")
    with torch.no_grad():
        model[1].gate.weight += rank == 3
    with pytest.raises(PaucaError) as found:
        parallelize(model, mesh)
    return str(found.value)


def test_a_difference_is_told_on_ranks_that_have_none_with_it(together):
    """They waited for those that had stopped, or went on without them."""
    messages = together(_one_of_four, 4, timeout_s=10)
    assert all("'1.bank', checksum of the experts and what stands beside them" in message for message in messages)
    assert "rank 3 has" in messages[0]


def _failing_alone(rank: int, how: str) -> str:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "ep"))
    model = _other("bf16")
    weights, dispatch = dict(model.named_parameters()), None
    with pytest.MonkeyPatch.context() as patch:
        if rank == 3:
            if how == "none":
                model = nn.Sequential(model[0])
            elif how == "dispatch":
                dispatch: Any = "fp8"
            else:

                def clone(tensor: Tensor, **options: Any) -> Tensor:
                    raise torch.OutOfMemoryError("no memory is left\nmore lines")

                patch.setattr(Tensor, "clone", clone)
        with pytest.raises((ConfigError, PaucaError, torch.OutOfMemoryError)) as found:
            parallelize(model, mesh, dispatch=dispatch)
    assert all(weight is weights[name] for name, weight in model.named_parameters())
    return f"{type(found.value).__name__}: {found.value}"


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("none", "Sequential has no pauca.moe.MoE layer"),
        ("dispatch", "tokens of the bf16 recipe travel in bf16"),
        ("memory", "no memory is left"),
    ],
)
def test_a_rank_that_fails_alone_is_named_on_the_others(how, why, together):
    """They waited for it until the timeout."""
    *others, failed = together(_failing_alone, 4, how, timeout_s=10)
    assert why in failed
    assert not failed.startswith("PaucaError")
    for message in others:
        assert message.startswith("PaucaError: expert parallelism: rank 3 failed: ")
        assert why in message
        assert "\n" not in message


def _failing(rank: int, family: str, how: str) -> None:
    """A model whose last layer cannot be divided, or only the other rank's first, is what it was before."""
    mesh, model = init_device_mesh("cpu", (2,), mesh_dim_names=("ep",)), convert(benchmark.build(family), Recipe.bf16())
    banks = [module for module in model.modules() if isinstance(module, ExpertBank)]
    before = [dict(vars(bank)) | {"class": type(bank)} for bank in banks]
    weights, expected = dict(model.named_parameters()), _hidden_and_gradients(model)
    dispatch: Any = None
    with pytest.MonkeyPatch.context() as patch:
        if how == "uneven":
            down = property(lambda bank: bank.views(bank, bank._kind)[1][bank is banks[-1] :])
            patch.setattr(type(banks[-1]), "down", down)
        elif how == "dispatch":  # the last layer's recipe does not allow it
            banks[0].recipe, dispatch = Recipe.fp8(), "fp8"
            before[0], expected = dict(vars(banks[0])) | {"class": type(banks[0])}, _hidden_and_gradients(model)
        elif how == "memory":

            def clone(tensor: Tensor, **options: Any) -> Tensor:
                raise torch.OutOfMemoryError("no memory is left")

            patch.setattr(Tensor, "clone", clone)
        elif rank:  # "other"
            with torch.no_grad():
                next(iter(banks[-1].parameters())).view(-1)[0] += 1
            expected = _hidden_and_gradients(model)
        with pytest.raises((ConfigError, PaucaError, torch.OutOfMemoryError)):
            parallelize(model, mesh, dispatch=dispatch)
    for bank, attributes in zip(banks, before, strict=True):
        assert dict(vars(bank)) | {"class": type(bank)} == attributes
        assert not bank._state_dict_hooks
        assert not bank._load_state_dict_pre_hooks
    after = dict(model.named_parameters())
    assert after.keys() == weights.keys()
    assert all(after[name] is weight for name, weight in weights.items())
    model.zero_grad()
    assert torch.equal(_hidden_and_gradients(model)[0], expected[0])


@pytest.mark.parametrize(
    ("family", "how"),
    [
        *((family, "uneven") for family in ("dbrx", "llama4", "jetmoe", "qwen3_moe")),
        *(("llama4", how) for how in ("dispatch", "other", "memory")),
    ],
)
def test_a_division_that_fails_changes_nothing(family, how, together):
    """Earlier layers of these families stayed divided, and their model could neither compute nor be divided."""
    together(_failing, 2, family, how)


def _held(model: nn.Module) -> int:
    """Bytes of a model's weights, each counted once."""
    storages = {weight.untyped_storage().data_ptr(): weight.untyped_storage() for weight in model.parameters()}
    return sum(storage.nbytes() for storage in storages.values())


def _while_dividing(rank: int, family: str) -> dict[str, Any]:
    model = convert(benchmark.build(family), Recipe.bf16())
    before, most, clone = _held(model), 0, Tensor.clone
    with pytest.MonkeyPatch.context() as patch:

        def counted(tensor: Tensor, **options: Any) -> Tensor:
            nonlocal most
            most = max(most, _held(model) + tensor.nbytes)
            return clone(tensor, **options)

        patch.setattr(Tensor, "clone", counted)
        parallelize(model, init_device_mesh("cpu", (2,), mesh_dim_names=("ep",)))
    parts = [weight for m in model.modules() if isinstance(m, ParallelExperts) for weight in m.divided().values()]
    sizes = sorted(weight.nbytes for weight in parts)
    return {"more": most - before, "less": before - _held(model), "part": sizes[-1], "parts": sum(sizes)}


@pytest.mark.parametrize("family", ["dbrx", "llama4", "jetmoe", "qwen3_moe"])
def test_no_more_than_one_part_is_held_beside_the_model(family, together):
    """All parts were, of all layers."""
    for found in together(_while_dividing, 2, family):
        assert found["more"] == found["part"] < found["parts"]
        assert found["less"] == found["parts"]


class Sharing(nn.Module):
    """Two layers that call the same experts, and two whose experts share their weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = (OtherLayer(Recipe.bf16()) for _ in range(3))
        self.second.bank = self.first.bank
        self.third.bank.down = self.first.bank.down

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x)))


def _sharing(rank: int) -> tuple[Tensor, dict[str, Tensor]]:
    model = parallelize(Sharing(), init_device_mesh("cpu", (2,), mesh_dim_names=("ep",)))
    assert model.second.bank is model.first.bank
    assert model.third.bank.down is model.first.bank.down
    y = model(torch.linspace(-1, 1, 24 * 32).view(1, 24, 32))
    y.square().mean().backward()
    average_gradients(model)
    return y.detach(), {name: weight.grad for name, weight in model.named_parameters()}


def test_what_layers_share_they_go_on_sharing(together):
    """Only the first of two layers with the same experts had them divided, and weights that were one became two."""
    alone = Sharing()
    y = alone(torch.linspace(-1, 1, 24 * 32).view(1, 24, 32))
    y.square().mean().backward()
    ranks = together(_sharing, 2)
    for found, _ in ranks:
        assert (found - y).norm() < 0.01 * y.norm()
    for name, weight in alone.named_parameters():
        parts = [gradients[name] for _, gradients in ranks]
        assert weight.grad is not None
        whole = parts[0] if parts[0].shape == weight.shape else torch.cat(parts)
        assert (whole - weight.grad).norm() < 0.02 * weight.grad.norm(), name
