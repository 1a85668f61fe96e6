"""A step: it learns, it adds up over passes and processes, and it says what is wrong."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from pauca.errors import ConfigError, InputError
from pauca.moe import LM_SIZES, MoELM, Recipe, RouterConfig, TokenData
from pauca.moe.training.config import TrainConfig
from pauca.moe.training.fp8_gather import SentInFp8
from pauca.moe.training.trainer import Trainer, TrainStep, check_fit
from pauca.runs.divergence import Diverged

from .smallest import CONFIG, MODEL, fresh, text


@pytest.fixture
def data(tmp_path) -> TokenData:
    return text(tmp_path)


def test_the_learning_rate_rises_and_falls_along_a_cosine():
    config = TrainConfig(steps=1100, warmup=100 / 1100, learning_rate=2.0, final_learning_rate=0.1)
    rates = [config.learning_rate_at(step) for step in range(1100)]
    assert rates[:100] == pytest.approx([0.02 * (step + 1) for step in range(100)])
    assert rates[100] == 2.0
    assert rates[600] == pytest.approx(0.2 + 1.8 / 2)  # half way down
    assert rates[-1] == pytest.approx(0.2, abs=1e-3)
    assert TrainConfig(warmup=0.0, learning_rate=2.0).learning_rate_at(0) == 2.0


@pytest.mark.parametrize(("steps", "rise"), [(60, 30), (200, 50), (2500, 50), (5000, 100), (1, 0)])
def test_the_learning_rate_rises_over_enough_steps_for_the_routers(steps, rise):
    assert TrainConfig(steps=steps).rise == rise
    assert TrainConfig(steps=steps, warmup=0.0).rise == 0


def test_a_learning_rate_that_is_not_given_suits_the_model():
    rates = {name: TrainConfig().suited_to(model).learning_rate for name, model in LM_SIZES.items()}
    assert rates == pytest.approx({"toy": 3e-3, "base": 3e-3, "large": 6e-4, "xl": 3e-4})
    assert TrainConfig(learning_rate=0.1).suited_to(LM_SIZES["large"]).learning_rate == 0.1
    with pytest.raises(ConfigError, match="learning_rate"):
        TrainConfig().learning_rate_at(0)


@pytest.mark.parametrize("recipe", [Recipe.bf16(), Recipe.fp8(), Recipe.fp4()], ids=lambda recipe: recipe.precision)
def test_every_recipe_learns_sums(data, recipe):
    trainer = Trainer(fresh(replace(MODEL, recipe=recipe)), data, replace(CONFIG, steps=60, learning_rate=1e-2))
    losses = [trainer.step().cross_entropy for _ in range(25)]
    assert losses[0] == pytest.approx(math.log(256), rel=0.15)
    assert sum(losses[-5:]) < 0.65 * sum(losses[:5])


def test_a_model_starts_without_knowing_anything(data):
    trainer = Trainer(fresh(), data, CONFIG)
    assert trainer.validate() == pytest.approx(math.log(256), rel=0.15)


def weights_after_a_step(data: TokenData, passes: int) -> tuple[TrainStep, dict[str, torch.Tensor]]:
    config = replace(MODEL, recipe=Recipe.bf16(), balance_weight=0.0)
    trainer = Trainer(fresh(config), data, replace(CONFIG, passes=passes))
    return trainer.step(), trainer.weights()


def test_passes_add_up_to_one_batch(data):
    whole, expected = weights_after_a_step(data, 1)
    parts, weights = weights_after_a_step(data, 4)
    assert parts.cross_entropy == pytest.approx(whole.cross_entropy, rel=1e-5)
    assert parts.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-2)
    # AdamW's first step is the gradient's sign times the rate: weights whose gradient is close to zero may turn.
    agreed = [(weights[name] - value).abs() < 0.1 * CONFIG.learning_rate for name, value in expected.items()]
    assert torch.cat([part.flatten() for part in agreed]).float().mean() > 0.97


def test_a_step_depends_on_seed_and_number_alone(data):
    recipe = Recipe(precision="fp4", kept_z="mxfp4", keep_fc2_input=False, stochastic_rounding=True)
    results = []
    for disturbance in (1, 2):
        trainer = Trainer(fresh(replace(MODEL, recipe=recipe)), data, CONFIG)
        torch.manual_seed(disturbance)
        results.append([trainer.step(), trainer.step()])
    assert results[0] == results[1]
    other = Trainer(fresh(replace(MODEL, recipe=recipe)), data, replace(CONFIG, seed=1))
    assert other.step() != results[0][0]


@pytest.mark.parametrize("masked", [False, True])
def test_documents_of_a_window_see_each_other_unless_masked(data, masked):
    trainer = Trainer(fresh(), data, replace(CONFIG, document_mask=masked))
    losses = []
    for before in (b"first d", b"another"):
        tokens = torch.tensor([[*b"\0", *before, *b"\0second"]])  # byte 0 ends a document
        targets = tokens.roll(-1, 1)
        targets[:, :8] = -100  # of the first document
        losses.append(trainer._losses(tokens, targets).cross_entropy.item())
    assert (losses[0] == losses[1]) == masked


def test_a_masked_training_masks_every_pass_and_its_validation(data, monkeypatch):
    seen = []
    loss = MoELM.loss
    monkeypatch.setattr(
        MoELM, "loss", lambda self, *given, **named: (seen.append(named), loss(self, *given, **named))[1]
    )
    trainer = Trainer(fresh(), data, replace(CONFIG, passes=2, document_mask=True))
    trainer.step()
    assert len(seen) == 2
    trainer.validate()
    assert len(seen) > 2
    assert all("documents" in named for named in seen)


def test_gradients_are_clipped(data):
    trainer = Trainer(fresh(), data, replace(CONFIG, clip=1e-3))
    assert trainer.step().gradient_norm > 0.1
    norms = [parameter.grad.norm() for parameter in trainer.model.parameters()]
    assert float(torch.stack(norms).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_norms_do_not_decay(data):
    trainer = Trainer(fresh(), data, CONFIG)
    decayed = {p for group in trainer.optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        assert (parameter in decayed) == (not name.endswith("norm.weight")), name


def test_biases_move_against_the_load(data):
    config = replace(MODEL, router=RouterConfig(bias_rate=0.5))
    trainer = Trainer(fresh(config), data, CONFIG)
    trainer.step()
    for name, load in trainer.loads.items():
        bias = trainer.model.get_submodule(name).router.bias
        assert torch.equal(bias, 0.5 * torch.sign(load.float().mean() - load))
        assert int(load.sum()) == trainer.tokens_per_step * MODEL.top_k
    assert not trainer.model.blocks[0].feed_forward.router.load.any()


def test_measuring_health_changes_no_step(data):
    measured, plain = (Trainer(fresh(), data, CONFIG) for _ in range(2))
    for _ in range(2):
        health = measured.health()
        measured.validate()
        assert measured.step() == plain.step()
    assert "underflow.x/blocks.1.feed_forward" in health
    for name, value in plain.weights().items():
        assert torch.equal(value, measured.weights()[name]), name


def test_a_loss_that_is_not_finite_names_its_origin_and_spares_the_weights(data):
    trainer = Trainer(fresh(), data, CONFIG)
    trainer.step()
    with torch.no_grad():
        trainer.model.blocks[1].feed_forward.experts.gate_up[3] = math.nan
    before = trainer.weights()
    message = r"step 2: loss nan.*First not finite: weights: blocks\.1\.feed_forward\.experts\.gate_up, expert 3"
    with pytest.raises(Diverged, match=message):
        trainer.step()
    for name, value in trainer.weights().items():
        assert torch.equal(value.isnan(), before[name].isnan()), name
    assert trainer.steps_done == 1


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_names_its_origin(data, value):
    trainer = Trainer(fresh(), data, CONFIG)
    down = trainer.model.blocks[0].feed_forward.experts.down
    down.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([2]), value))
    with pytest.raises(Diverged, match=r"gradients: blocks\.0\.feed_forward\.experts\.down, expert 2"):
        trainer.step()


def test_a_norm_that_overflows_names_the_largest_gradient(data):
    trainer = Trainer(fresh(), data, CONFIG)
    trainer.model.blocks[0].attention.out.weight.register_hook(lambda gradient: torch.full_like(gradient, 1e37))
    with pytest.raises(Diverged, match=r"a sum overflows; the largest gradient is that of blocks\.0\.attention\.out"):
        trainer.step()


def test_validation_reads_the_same_windows_in_however_many_passes(data):
    whole, parts = (Trainer(fresh(), data, replace(CONFIG, passes=passes)).validate() for passes in (1, 4))
    assert parts == pytest.approx(whole, rel=1e-5)


def test_a_leap_of_the_loss_names_the_largest_gradient(data):
    trainer = Trainer(fresh(), data, replace(CONFIG, steps=100, learning_rate=1e-2, spike=0.5))
    _take_steps(trainer, 15)
    with torch.no_grad():
        trainer.model.norm.weight.mul_(30)  # a head that is far too sure of itself
    with pytest.raises(
        Diverged, match=r"the loss leapt from \d\.\d+ to \d+\.\d+ nats.*the largest gradient is that of"
    ):
        _take_steps(trainer, 10)


def _take_steps(trainer: Trainer, count: int) -> None:
    for _ in range(count):
        trainer.step()


def test_text_that_does_not_fit_the_model_is_refused(data):
    with pytest.raises(ConfigError, match="the text has 256 different tokens, the model only 128"):
        check_fit(replace(MODEL, vocabulary=128), data, CONFIG)
    with pytest.raises(InputError, match="too few for one context of 100000"):
        check_fit(replace(MODEL, context=100_000), data, CONFIG)


def test_batches_that_cannot_be_shared_are_refused(data):
    with pytest.raises(ConfigError, match="batch_size 6 cannot be shared evenly by 1 ranks with 4"):
        Trainer(fresh(), data, replace(CONFIG, batch_size=6, passes=4))
    with pytest.raises(ConfigError, match=r"ep 3 must divide both the 6 ranks .* and the 4 experts"):
        check_fit(MODEL, data, replace(CONFIG, ep=3, batch_size=6), ranks=6)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"clip": 0.0}, {"warmup": 1.5}, {"weight_decay": -1.0}, {"health_every": -1}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainConfig(**wrong)


def _steps(rank: int, data: TokenData, config: TrainConfig, recipe: Recipe | None = None) -> dict[str, Any]:
    trainer = Trainer(fresh(replace(MODEL, recipe=recipe or Recipe.bf16())), data, config)
    steps = [trainer.step() for _ in range(3)]
    return {
        "steps": steps,
        "validation": trainer.validate(),
        "loads": {name: load.tolist() for name, load in trainer.loads.items()},
        "weights": trainer.weights(),
    }


@pytest.mark.parametrize(
    ("processes", "how"),
    [(2, {}), (2, {"ep": 2}), (4, {"ep": 2}), (2, {"shard": False}), (4, {"shard": False, "ep": 2})],
    ids=["FSDP", "experts", "both", "whole", "experts of replicas"],
)
def test_processes_train_as_one(data, together, processes, how):
    config = replace(CONFIG, learning_rate=1e-4)  # AdamW's first steps make much of small differences
    alone = _steps(0, data, replace(config, passes=processes))
    ranks = together(_steps, processes, data, replace(config, **how))
    for result in ranks:
        for found, expected in zip(result["steps"], alone["steps"], strict=True):
            # The experts' outputs, and their gradients, are summed in BF16 in another order.
            assert found.cross_entropy == pytest.approx(expected.cross_entropy, rel=1e-3)
            assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-2)
        assert result["validation"] == pytest.approx(alone["validation"], rel=1e-3)
        assert {name: sum(load) for name, load in result["loads"].items()} == {
            name: sum(load) for name, load in alone["loads"].items()
        }
    assert ranks[0]["weights"].keys() == alone["weights"].keys()
    start = fresh(replace(MODEL, recipe=Recipe.bf16())).state_dict()
    for name, value in alone["weights"].items():
        moved = (value - start[name]).norm()
        difference = (ranks[0]["weights"][name] - value).norm()
        assert difference <= 0.02 * moved, name  # 0.008 at most, of the experts; a rank's own gradients: 0.3 to 0.6


def _of_own_seed(rank: int, data: TokenData, config: TrainConfig) -> dict[str, Any]:
    torch.manual_seed(rank)
    trainer = Trainer(MoELM(replace(MODEL, recipe=Recipe.bf16())), data, config)
    trainer.step()
    return {name: weight.detach() for name, weight in trainer.model.named_parameters()}


def test_ranks_that_hold_the_whole_model_train_one_whatever_their_seeds(data, together):
    first, second = together(_of_own_seed, 2, data, replace(CONFIG, shard=False))
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name


@pytest.mark.parametrize(("processes", "ep"), [(2, 1), (4, 2)])
@pytest.mark.parametrize("recipe", [Recipe.bf16(), Recipe.fp4()], ids=["bf16", "fp4"])
def test_experts_weights_that_travel_in_bf16_change_no_bit(data, together, processes, ep, recipe):
    config = replace(CONFIG, ep=ep)
    usual, halved = (
        together(_steps, processes, data, replace(config, gather=gather), recipe) for gather in ("fp32", "bf16")
    )
    for one, other in zip(usual, halved, strict=True):
        assert one["steps"] == other["steps"]
        assert one["validation"] == other["validation"]
    for name, weight in usual[0]["weights"].items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, halved[0]["weights"][name]), name


def _with_what_travels(rank: int, data: TokenData, config: TrainConfig, recipe: Recipe) -> dict[str, Any]:
    """Three steps, the bytes that a rank's first all-gather of experts sends, and the third step after a resumption."""
    sent: dict[str, int] = {}
    tell = SentInFp8.fsdp_pre_all_gather

    def count(shard: SentInFp8, mesh, outer_size, outer_stride, module, mp_policy):
        inputs, nothing = tell(shard, mesh, outer_size, outer_stride, module, mp_policy)
        sent[str(tuple(outer_size))] = sum(tensor.nbytes for tensor in inputs)
        return inputs, nothing

    SentInFp8.fsdp_pre_all_gather = count
    found = _steps(rank, data, config, recipe)
    first, second = (Trainer(fresh(replace(MODEL, recipe=recipe)), data, config) for _ in range(2))
    for _ in range(2):
        first.step()
    second.load_state(copy.deepcopy(first.state()))
    return found | {"sent": sent, "resumed": second.step()}


@pytest.mark.parametrize(("processes", "ep"), [(2, 1), (4, 2)])
@pytest.mark.parametrize("recipe", [Recipe.fp8(), Recipe.fp4()], ids=["fp8", "fp4"])
def test_experts_weights_that_travel_in_fp8_change_no_bit_of_forward(data, together, processes, ep, recipe):
    config = replace(CONFIG, ep=ep)
    usual = together(_steps, processes, data, config, recipe)
    ranks = together(_with_what_travels, processes, data, replace(config, gather="fp8"), recipe)
    experts, width, hidden = 4 // ep, MODEL.expert_width, MODEL.hidden
    for one, other in zip(usual, ranks, strict=True):
        assert one["steps"][0].cross_entropy == other["steps"][0].cross_entropy
        for found, expected in zip(other["steps"], one["steps"], strict=True):
            # Backward rounds what is nearly zero beside an expert's largest weight once more.
            assert found.cross_entropy == pytest.approx(expected.cross_entropy, rel=1e-4)
            assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-3)
        assert other["validation"] == pytest.approx(one["validation"], rel=1e-4)
        assert other["resumed"] == other["steps"][2]
        for shape in ((experts, 2 * width, hidden), (experts, hidden, width)):
            assert other["sent"][str(shape)] == math.prod(shape[:2]) * (shape[2] + 1) // 2  # codes, and a scale a row
    for name, weight in usual[0]["weights"].items():
        assert ranks[0]["weights"][name].dtype == torch.float32
        assert type(ranks[0]["weights"][name]) is type(weight)
        assert (ranks[0]["weights"][name] - weight).norm() <= 1e-3 * weight.norm(), name


@pytest.mark.parametrize("recipe", [Recipe.bf16(), replace(Recipe.fp4(), rotate=True)], ids=["bf16", "rotate"])
def test_only_weights_that_products_take_in_fp8_travel_in_it(data, recipe):
    with pytest.raises(ConfigError, match=r"--gather fp8 sends weights as products in FP8 take them.*--gather bf16"):
        Trainer(fresh(replace(MODEL, recipe=recipe)), data, replace(CONFIG, gather="fp8"))


def _spoilt(rank: int, data: TokenData, ep: int) -> str:
    trainer = Trainer(fresh(), data, replace(CONFIG, ep=ep))
    if ep == 1:
        trainer.model.blocks[0].attention.qkv.register_forward_hook(
            lambda module, inputs, output: output * math.inf if rank == 1 else output
        )
    elif rank == 1:
        with torch.no_grad():
            trainer.model.blocks[1].feed_forward.experts.down[1] = math.nan
    with pytest.raises(Diverged) as found:
        trainer.step()
    return str(found.value)


def _spoilt_gradient(rank: int, data: TokenData, ep: int) -> str:
    trainer = Trainer(fresh(), data, replace(CONFIG, ep=ep))

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.nan if rank == 1 else gradient

    trainer.model.blocks[0].attention.register_full_backward_hook(lambda module, dx, dy: (spoil(dx[0]), *dx[1:]))
    with pytest.raises(Diverged) as found:
        trainer.step()
    return str(found.value)


@pytest.mark.parametrize("ep", [1, 2])
def test_processes_agree_on_which_gradient_is_not_finite(data, together, ep):
    for message in together(_spoilt_gradient, 2, data, ep):
        assert "gradients: blocks.0.attention_norm.weight" in message


def _measure(rank: int, data: TokenData, ep: int) -> dict[str, float]:
    return Trainer(fresh(), data, replace(CONFIG, ep=ep)).health()


@pytest.mark.parametrize("ep", [1, 2])
def test_health_is_measured_on_several_processes(data, together, ep):
    expected = _measure(0, data, 1)
    for health in together(_measure, 2, data, ep):
        assert set(health) == {name for name in expected if ep == 1 or ".z/" not in name}
        assert health["underflow.x/blocks.0.feed_forward"] == pytest.approx(
            expected["underflow.x/blocks.0.feed_forward"], rel=0.2
        )


@pytest.mark.parametrize(
    ("ep", "where"),
    [
        (1, "activations: the output of blocks.0.attention.qkv"),
        (2, "weights: blocks.1.feed_forward.experts.down, expert 3"),
    ],
)
def test_processes_agree_on_what_is_not_finite(data, together, ep, where):
    for message in together(_spoilt, 2, data, ep):
        assert where in message
