"""Steps that are recorded and replayed: what they compute, what they refuse, and what a checkpoint of them holds."""

from dataclasses import replace

import pytest
import torch

from pauca.errors import ConfigError
from pauca.moe import Recipe, TrainConfig
from pauca.moe.training.trainer import Trainer, check_fit

from .smallest import CONFIG, MODEL, fresh, text

ON_GPU = replace(CONFIG, device="cuda", steps=20, learning_rate=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp4"])
@pytest.mark.parametrize("passes", [1, 2])
def test_replayed_steps_learn_what_launched_ones_do(tmp_path, precision, passes):
    data, model = text(tmp_path), replace(MODEL, hidden=64, expert_width=64, recipe=getattr(Recipe, precision)())
    config = replace(ON_GPU, passes=passes)
    launched, replayed = (Trainer(fresh(model), data, replace(config, graph=graph)) for graph in (False, True))
    for number in range(8):
        expected, found = launched.step(), replayed.step()
        # Sums in another order, and rounding to a neighboring code after them.
        assert found.cross_entropy == pytest.approx(expected.cross_entropy, rel=0.01), number
        assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=0.1), number
        assert found.balance == pytest.approx(expected.balance, rel=0.1), number
    for name, load in launched.loads.items():
        assert replayed.loads[name].sum() == load.sum()
    assert replayed.health().keys() == launched.health().keys()
    assert replayed.validate() == pytest.approx(launched.validate(), rel=0.01)
    after = replayed.step()  # the measurements have left the recording as it was
    assert after.cross_entropy == pytest.approx(launched.step().cross_entropy, rel=0.01)


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
def test_a_state_goes_on_with_and_without_a_graph(tmp_path, graph):
    data = text(tmp_path)
    first = Trainer(fresh(), data, replace(ON_GPU, graph=not graph))
    for _ in range(6):
        first.step()
    state = first.state()
    assert all(group["lr"].__class__ is float for group in state["optimizer"]["param_groups"])
    second = Trainer(fresh(), data, replace(ON_GPU, graph=graph))
    for _ in range(5 if graph else 0):  # a recording that must not be gone on with
        second.step()
    second.load_state(state)
    for _ in range(6):
        expected, found = first.step(), second.step()
        assert found.cross_entropy == pytest.approx(expected.cross_entropy, rel=0.01)


def test_a_cpu_records_nothing(tmp_path):
    with pytest.raises(ConfigError, match="one CUDA GPU alone, not on device cpu"):
        Trainer(fresh(), text(tmp_path), replace(CONFIG, graph=True))


def test_several_ranks_and_random_rounding_are_refused(tmp_path, monkeypatch):
    data, config = text(tmp_path), TrainConfig(graph=True, batch_size=4, device="cuda")
    monkeypatch.setattr("pauca.moe.training.trainer.resolve_device", torch.device)
    check_fit(MODEL, data, config)
    with pytest.raises(ConfigError, match="not on 2 ranks"):
        check_fit(MODEL, data, config, ranks=2)
    with pytest.raises(ConfigError, match="stochastic_rounding"):
        check_fit(replace(MODEL, recipe=replace(Recipe.fp4(), stochastic_rounding=True)), data, config)
