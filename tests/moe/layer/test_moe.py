import copy
import pickle
import subprocess
import sys

import pytest
import torch
import torch.utils.checkpoint

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.moe.layer import experts
from pauca.moe.layer import weights as weights_module
from pauca.moe.layer.experts import Experts
from pauca.moe.layer.moe import MoE, auxiliary_loss, frozen_weights, update_biases
from pauca.moe.layer.recipe import Recipe
from pauca.moe.layer.router import RouterConfig


def _layer(**options) -> MoE:
    torch.manual_seed(0)
    return MoE(**({"hidden": 64, "width": 32, "experts": 8, "top_k": 2} | options))


def _plain(layer: MoE, x: torch.Tensor) -> torch.Tensor:
    """The layer's definition, token by token, in float64, given its routing."""
    routing = layer.router(x.flatten(0, -2))

    def expert(bank: Experts, index: int, token: torch.Tensor) -> torch.Tensor:
        gate, up = (bank.gate_up[index].double() @ token).chunk(2)
        return bank.down[index].double() @ (torch.nn.functional.silu(gate) * up)

    outputs = []
    for token, ids, weights in zip(x.flatten(0, -2).double(), *_decision(routing), strict=True):
        y = sum(w * expert(layer.experts, i, token) for i, w in zip(ids.tolist(), weights.double(), strict=True))
        if layer.shared is not None:
            y = y + expert(layer.shared, 0, token)
        outputs.append(y)
    return torch.stack(outputs).view(x.shape)


def _decision(routing) -> tuple[torch.Tensor, torch.Tensor]:
    return routing.expert_ids, routing.probabilities


@pytest.mark.parametrize("shared_experts", [0, 2])
def test_the_layer_is_the_weighted_sum_of_its_experts_and_the_shared_ones(shared_experts):
    layer, x = _layer(shared_experts=shared_experts), torch.randn(2, 9, 64)
    exact = _plain(layer, x)
    assert (layer(x).double() - exact).norm() / exact.norm() < 0.01


@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp4"])
def test_every_parameter_learns(precision):
    layer = _layer(shared_experts=1, recipe=getattr(Recipe, precision)())
    x, target = torch.randn(256, 64), torch.randn(256, 64)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(layer(x), target)
        loss.backward()
        assert all(p.grad.any() for p in layer.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_the_recipe_can_be_changed_and_the_state_holds_master_weights_alone():
    layer, x = _layer(), torch.randn(20, 64)
    first, names = layer(x), set(layer.state_dict())
    layer.experts.recipe = Recipe.fp4()
    assert not torch.equal(layer(x), first)
    layer.experts.recipe = Recipe.bf16()
    assert torch.equal(layer(x), first)
    assert set(layer.state_dict()) == names == {"router.weight", "router.bias", "experts.gate_up", "experts.down"}


@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp4"])
def test_frozen_weights_are_quantized_once_and_forgotten_afterwards(precision, monkeypatch):
    layer, x = _layer(shared_experts=1, recipe=getattr(Recipe, precision)()), torch.randn(20, 64)
    calls, quantize = [], weights_module.forward_weights
    monkeypatch.setattr(weights_module, "forward_weights", lambda w: calls.append(1) or quantize(w))
    expected = layer(x)
    with frozen_weights(layer):
        calls.clear()
        for _ in range(3):
            y = layer(x)
            assert torch.equal(y, expected)
            y.sum().backward()
        assert len(calls) == (0 if precision == "bf16" else 4)
    with torch.no_grad():
        layer.experts.down.mul_(2)
    assert not torch.equal(layer(x), expected)


def test_a_copy_of_a_frozen_layer_is_not_frozen():
    layer, x = _layer(recipe=Recipe.fp4()), torch.randn(20, 64)
    with frozen_weights(layer):
        y = layer(x)
        twin = copy.deepcopy(layer)
    assert torch.equal(twin(x), y)
    with torch.no_grad():
        twin.experts.down.mul_(2)
    assert not torch.equal(twin(x), y)


def test_an_inner_frozen_weights_leaves_the_outer_one_in_force():
    layer, x = _layer(recipe=Recipe.fp4()), torch.randn(20, 64)
    with frozen_weights(layer):
        with frozen_weights(layer):
            layer(x)
        layer(x)
        with torch.no_grad():
            layer.experts.down.mul_(2)
        with pytest.raises(PaucaError, match="frozen_weights"):
            layer(x)


def test_a_change_of_frozen_weights_is_noticed():
    layer, x = _layer(recipe=Recipe.fp4()), torch.randn(20, 64)
    with frozen_weights(layer):
        layer(x)
        with torch.no_grad():
            layer.experts.down.mul_(2)
        with pytest.raises(PaucaError, match="frozen_weights"):
            layer(x)
    layer(x)


def _replace_parameter(bank: Experts) -> None:
    bank.down = torch.nn.Parameter(bank.down.detach() * 2)


def _point_elsewhere(bank: Experts) -> None:  # as a swap to averaged weights does
    bank.down.data = bank.down.data * 2


def _change_unseen(bank: Experts) -> None:  # counts no version
    bank.down.data.mul_(2)


@pytest.mark.parametrize("change", [_replace_parameter, _point_elsewhere])
def test_another_tensor_in_the_place_of_frozen_weights_is_noticed(change):
    layer, x = _layer(recipe=Recipe.fp4()), torch.randn(20, 64)
    with frozen_weights(layer):
        layer(x)
        change(layer.experts)
        with pytest.raises(PaucaError, match="frozen_weights"):
            layer(x)
        layer.eval()
    layer(x)


def test_a_change_of_frozen_weights_that_no_pass_can_see_shows_at_the_end():
    layer, x = _layer(shared_experts=1, recipe=Recipe.fp4()), torch.randn(20, 64)

    def change_inside() -> None:
        with frozen_weights(layer):
            layer(x)
            _change_unseen(layer.experts)

    with pytest.raises(PaucaError, match="past what autograd counts"):
        change_inside()
    assert not layer.experts._frozen
    before = layer(x)
    with frozen_weights(layer):  # nothing is left over
        assert torch.equal(layer(x), before)


@pytest.mark.parametrize("change", [_replace_parameter, _point_elsewhere])
def test_weights_may_change_after_the_last_frozen_pass(change):
    layer, x = _layer(recipe=Recipe.fp4()), torch.randn(20, 64)
    with frozen_weights(layer):
        before = layer(x)
        change(layer.experts)
    assert not torch.equal(layer(x), before)


def test_an_error_inside_frozen_weights_is_not_hidden_by_theirs():
    layer = _layer(recipe=Recipe.fp4())

    def go_wrong() -> None:
        with frozen_weights(layer):
            layer(torch.randn(20, 64))
            _change_unseen(layer.experts)
            raise KeyError("what went wrong")

    with pytest.raises(KeyError):
        go_wrong()
    assert not layer.experts._frozen


class _Adapter(torch.nn.Module):
    """A LoRA-like addition to a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.scale


def test_weights_that_an_adapter_computes_anew_are_not_frozen():
    layer, x = _layer(recipe=Recipe.fp4()), torch.randn(20, 64)
    torch.nn.utils.parametrize.register_parametrization(layer.experts, "down", _Adapter())
    with frozen_weights(layer):
        first = layer(x)
        assert torch.equal(layer(x), first)
        with torch.no_grad():
            layer.experts.parametrizations.down[0].scale.mul_(2)
        torch.testing.assert_close(layer(x), 2 * first)


def test_frozen_weights_under_inference_mode():
    layer, x = _layer(recipe=Recipe.fp4()), torch.randn(20, 64)
    expected = layer(x)
    with torch.inference_mode(), frozen_weights(layer):
        assert torch.equal(layer(x), expected)
    with frozen_weights(layer):
        with torch.inference_mode():  # the first pass, which quantizes, is one without gradients
            layer(x)
        layer(x).sum().backward()
        assert layer.experts.down.grad.any()
    with torch.inference_mode():
        made_inside = _layer(recipe=Recipe.fp4())  # counts no versions at all
        with frozen_weights(made_inside):
            assert torch.equal(made_inside(x), expected)
            made_inside.experts.down.data = made_inside.experts.down.data * 2
            with pytest.raises(PaucaError, match="frozen_weights"):
                made_inside(x)
            made_inside.experts._freeze(False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_output_has_the_dtype_of_the_input(dtype):
    assert _layer()(torch.randn(3, 64, dtype=dtype)).dtype == dtype


def test_autocast_changes_nothing():
    layer, x = _layer(recipe=Recipe.fp4()), torch.randn(20, 64)
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), expected)


def test_losses_and_biases_of_a_whole_model():
    model = torch.nn.Sequential(_layer(), torch.nn.Linear(64, 64), _layer(router=RouterConfig(bias_rate=0.1)))
    assert auxiliary_loss(model) == 0
    model(torch.randn(50, 64))
    total = model[0].auxiliary_loss + model[2].auxiliary_loss
    assert auxiliary_loss(model).item() == pytest.approx(total.item())
    update_biases(model)
    assert model[2].router.bias.abs().max() == pytest.approx(0.1)
    assert not model[0].router.bias.any()


def test_inexact_shares_count_what_a_shared_scale_cannot_hold():
    layer, x = _layer(recipe=Recipe.fp4()), torch.randn(200, 64)
    assert {name: float(share) for name, share in layer.inexact_shares(x).items()} == {"fc1_rows": 0, "fc1_columns": 0}
    small_channels, small_tokens = x.clone(), x.clone()
    small_channels[:, :32] *= 2.0**-20  # half of each row, more than 14 binades below the other half
    small_tokens[:100] *= 2.0**-20  # half of each column
    for tokens, hurt, unhurt in (
        (small_channels, "fc1_rows", "fc1_columns"),
        (small_tokens, "fc1_columns", "fc1_rows"),
    ):
        shares = layer.inexact_shares(tokens)
        assert float(shares[hurt]) == pytest.approx(0.5, abs=0.02)
        assert float(shares[unhurt]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 72, "recipe": Recipe.fp4()}, "hidden must be a multiple of 32 under the fp4 recipe, got 72"),
        ({"width": 40, "recipe": Recipe.fp8()}, "width must be a multiple of 32"),
        ({"width": 4}, "width must be a multiple of 8 under the bf16 recipe, got 4"),
        ({"top_k": 9}, "top_k"),
        ({"shared_experts": -1}, "shared_experts"),
        ({"hidden": 0}, "hidden"),
        ({"width": -32}, "width must be a multiple of 8"),
    ],
)
def test_impossible_layers_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        _layer(**options)


WRONG_TYPES = """
from pauca.errors import ConfigError
from pauca.moe import MoE
for options in ({"recompute": "all"}, {"recipe": "fp4"}, {"router": {"scoring": "sigmoid"}}):
    try:
        MoE(hidden=64, width=32, experts=8, top_k=2, **options)
    except ConfigError as error:
        print(error)
"""


def test_arguments_of_the_wrong_type_are_refused():
    # In a process of its own: the test suite's type checks would come first.
    run = subprocess.run([sys.executable, "-c", WRONG_TYPES], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "recompute must be none, activation or experts, got 'all'",
        "recipe must be a Recipe, such as Recipe.fp4(), got 'fp4'",
        "router must be a RouterConfig, got {'scoring': 'sigmoid'}",
    ]


def test_a_recipe_that_does_not_fit_the_sizes_is_refused():
    layer = _layer(width=40)
    with pytest.raises(ConfigError, match="width must be a multiple of 32"):
        layer.experts.recipe = Recipe.fp4()
    assert layer.experts.recipe == Recipe.bf16()


def test_tokens_of_the_wrong_kind_are_refused():
    bank = _layer().experts
    ids, weights = torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1)
    with pytest.raises(InputError, match="63 channels"):
        bank(torch.randn(2, 63), ids, weights)
    with pytest.raises(InputError, match="float64"):
        bank(torch.randn(2, 64).double(), ids, weights)
    with pytest.raises(InputError, match="tokens are on meta, but the experts are on cpu"):
        bank(torch.randn(2, 64, device="meta"), ids, weights)


@pytest.mark.parametrize("method", ["__call__", "inexact_shares"])
def test_the_layer_refuses_wrong_tokens_before_it_routes_them(method):
    layer = _layer()
    with pytest.raises(InputError, match="63 channels, but the experts were built for 64"):
        getattr(layer, method)(torch.randn(2, 63))
    with pytest.raises(InputError, match="float16"):
        getattr(layer, method)(torch.randn(2, 64).half())
    assert not layer.router.load.any()


def test_one_token_is_enough_and_none_is_allowed():
    layer = _layer(shared_experts=1, recipe=Recipe.fp4())
    assert layer(torch.randn(64)).shape == (64,)
    y = layer(torch.randn(2, 0, 64))
    assert y.shape == (2, 0, 64)
    (y.sum() + layer.auxiliary_loss).backward()
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp4"])
def test_all_tokens_may_choose_the_same_experts(precision):
    layer, x = _layer(recipe=getattr(Recipe, precision)()), torch.randn(40, 64)
    layer.router.bias[[3, 5]] = 10.0
    exact, y = _plain(layer, x), layer(x)
    assert (y.double() - exact).norm() / exact.norm() < 0.28  # MXFP4's rounding, see test_experts.py
    y.sum().backward()
    assert layer.experts.down.grad.any((1, 2)).nonzero().flatten().tolist() == [3, 5]


def test_frozen_experts_get_no_gradient_and_pass_on_that_of_their_input():
    layer, x = _layer(recipe=Recipe.fp4()), torch.randn(20, 64, requires_grad=True)
    layer(x).sum().backward()
    expected, x.grad = x.grad, None
    layer.zero_grad()
    layer.experts.requires_grad_(False)
    layer(x).sum().backward()
    assert torch.equal(x.grad, expected)
    assert layer.experts.down.grad is None


def test_second_derivatives_are_refused():
    for loss in (lambda y: y.square().sum(), lambda y: y.sum()):
        x = torch.randn(3, 64, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(_layer()(x)), x, create_graph=True)
        with pytest.raises(PaucaError, match="no second derivatives"):
            (x.sum() + gradient.square().sum()).backward()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_layer_can_be_copied_and_stored_between_forward_and_backward(duplicate):
    layer, x = _layer(shared_experts=1, recipe=Recipe.fp4()), torch.randn(20, 64)
    y = layer(x)
    twin = duplicate(layer)
    assert twin.auxiliary_loss is None
    assert torch.equal(twin(x), y)
    (y.sum() + layer.auxiliary_loss).backward()


def test_counting_inexact_elements_does_not_count_as_load():
    layer = _layer()
    layer.inexact_shares(torch.randn(20, 64))
    assert not layer.router.load.any()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp4"])
def test_the_gpu_computes_what_the_cpu_computes(precision):
    layer, x = _layer(shared_experts=1, recipe=getattr(Recipe, precision)()), torch.randn(300, 64)
    results = []
    for device in ("cpu", "cuda"):
        layer.to(device).zero_grad()
        y = layer(x.to(device))
        y.square().sum().backward()
        # Cloned: moving the layer moves its gradients too.
        results.append([y.detach().cpu(), *(p.grad.clone().cpu() for p in layer.parameters())])
    # Sums in another order move a few values over to a neighboring FP8 or MXFP4 code.
    for actual, expected in zip(results[1], results[0], strict=True):
        assert ((actual - expected).norm() / expected.norm()).item() < 0.05


@pytest.mark.parametrize("shared_experts", [0, 1])
def test_a_tensor_is_checked_once_on_its_way_in(monkeypatch, shared_experts):
    layer = MoE(64, 32, 4, 2, shared_experts=shared_experts)
    seen = []
    for module, name in ((experts.ExpertBank, "check_tokens"), (experts, "check_routing")):
        check = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, name=name, check=check: (seen.append(name), check(*given))[1])
    x = torch.randn(3, 64)
    layer(x)
    assert seen == ["check_tokens"]
    seen.clear()
    layer.experts(x, torch.zeros(3, 1, dtype=torch.int64), torch.ones(3, 1))
    assert seen == ["check_tokens", "check_routing"]


@pytest.mark.parametrize(
    ("ids", "probabilities", "message"),
    [
        (torch.zeros(3, 1), torch.ones(3, 1), "int32 or int64"),
        (torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1), "for 3 tokens"),
        (torch.zeros(3, 2, dtype=torch.int64), torch.ones(3, 1), "for 3 tokens"),
    ],
)
def test_a_bank_that_is_called_by_itself_checks_the_routing(ids, probabilities, message):
    bank = Experts(64, 32, 4)
    with pytest.raises(InputError, match=message):
        bank._check_call(torch.randn(3, 64), ids, probabilities)  # below the type checks of the test suite
    with pytest.raises(InputError, match=r"\[tokens, hidden\], got \(1, 3, 64\)"):
        bank._check_call(torch.randn(1, 3, 64), ids, probabilities)


def test_sequences_are_the_rows_of_the_input():
    x = torch.randn(2, 3, 5, 64)
    layer, plain = _layer(router=RouterConfig(balance="sequence")), _layer()
    layer(x)
    of_each = []
    for sequence in x.flatten(0, 1):
        plain(sequence)
        of_each.append(plain.auxiliary_loss)
    torch.testing.assert_close(layer.auxiliary_loss, torch.stack(of_each).mean())


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_z_loss_has_its_gradient_through_a_checkpoint_too(reentrant):
    x = torch.randn(6, 64, requires_grad=True)
    found = {}
    for name, run in {
        "plain": lambda layer: layer(x),
        "checkpoint": lambda layer: torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant),
    }.items():
        layer = _layer(router=RouterConfig(z_weight=0.5, balance="sequence"))
        loss = run(layer).sum() + layer.auxiliary_loss
        assert layer.z_loss is not None
        assert not layer.z_loss.requires_grad
        loss.backward()
        found[name] = layer.router.weight.grad
    torch.testing.assert_close(found["checkpoint"], found["plain"])
    layer = _layer()
    (layer(x).sum() + layer.auxiliary_loss).backward()
    assert not torch.allclose(found["plain"], layer.router.weight.grad)
