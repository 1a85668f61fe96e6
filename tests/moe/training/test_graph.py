"""Steps that are recorded and replayed: what they compute, what forbids them, and what a checkpoint of them holds."""

import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pauca.errors import ConfigError, DeviceError
from pauca.moe import Recipe
from pauca.moe.training import loop
from pauca.moe.training.graph import GraphedStep
from pauca.moe.training.trainer import Trainer

from .smallest import CONFIG, MODEL, fresh, text

ON_GPU = replace(CONFIG, device="cuda", steps=20, learning_rate=1e-3)


class OneRecording(GraphedStep):
    """Of a step, on a device that has no graphs."""

    def __init__(self):
        self._graphs, self.refused = ["a graph"], ""

    def forget(self):
        self._graphs = []


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


@pytest.mark.gpu
@pytest.mark.parametrize("how", [{}, {"document_mask": True}, {"optimizer": "muon"}], ids=str)
def test_one_gpu_records_unless_told_otherwise(tmp_path, how):
    trainers = [Trainer(fresh(), text(tmp_path), replace(ON_GPU, **how, graph=graph)) for graph in (True, False)]
    for _ in range(6):
        found, expected = (trainer.step() for trainer in trainers)
        assert found.cross_entropy == pytest.approx(expected.cross_entropy, rel=0.02)
    assert [trainer._graphed is not None and trainer._graphed.is_recorded for trainer in trainers] == [True, False]


@pytest.mark.gpu
def test_a_step_that_cannot_be_recorded_is_launched(tmp_path):
    launched, trainer = (Trainer(fresh(), text(tmp_path), replace(ON_GPU, graph=graph)) for graph in (False, True))
    losses = trainer._losses

    def waiting(*batch):
        found = losses(*batch)
        assert found.total.item() > 0  # the host waits for the device: no capture can
        return found

    trainer._losses = waiting
    for _ in range(8):
        assert trainer.step().cross_entropy == pytest.approx(launched.step().cross_entropy, rel=0.01)
    assert trainer.not_recorded
    assert not launched.not_recorded
    assert torch.rand(2, device="cuda").max() < 1  # the generator is not left within the capture
    assert trainer.validate() == pytest.approx(launched.validate(), rel=0.01)
    assert trainer.health().keys() == launched.health().keys()


@pytest.mark.gpu
def test_a_recording_makes_room_for_what_does_not_fit_beside_it(tmp_path, monkeypatch):
    trainer = Trainer(fresh(), text(tmp_path), ON_GPU)
    health, calls = trainer._health, []

    def crowded():
        calls.append(trainer._graphed.is_recorded)
        if calls[-1]:
            raise torch.OutOfMemoryError("no room")
        return health()

    monkeypatch.setattr(trainer, "_health", crowded)
    for _ in range(6):
        trainer.step()
    assert trainer.health()
    assert calls == [True, False]
    losses = [trainer.step().cross_entropy for _ in range(6)]
    assert trainer._graphed.is_recorded
    assert all(map(math.isfinite, losses))


@pytest.mark.parametrize("divided", [False, True])
def test_a_recording_that_breaks_off_ends_what_fsdp_divides(monkeypatch, divided):
    """FSDP2 takes weights that the recording was to gather for gathered ones, and computes with what lies there."""
    _without_graphs(monkeypatch)
    if divided:
        monkeypatch.setattr("pauca.moe.training.graph.DTensor", torch.nn.Parameter)
    states = []
    generator = SimpleNamespace(clone_state=lambda: "before", graphsafe_set_state=states.append)
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))

    def compute(batches):
        raise torch.OutOfMemoryError("no room")

    step = GraphedStep(torch.nn.Linear(2, 2), compute, lambda: None)
    if divided:
        with pytest.raises(ConfigError, match=r"cannot be recorded .*\(no room\).*--no-graph"):
            step._capture([])
    else:
        step._capture([])
        assert step.refused == "no room"
        assert not step.is_recorded
    assert states == ["before"]


def _without_graphs(monkeypatch):
    """What is recorded runs at once, without a GPU."""
    for name in ("Stream", "CUDAGraph", "synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: SimpleNamespace(pool=lambda: None))
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: nullcontext())


def _recorded_but_by(rank: int, refusing: int) -> tuple[bool, str]:
    def compute(batches):
        if rank == refusing:
            raise torch.OutOfMemoryError("no room")
        return torch.zeros(4)

    with pytest.MonkeyPatch.context() as monkeypatch:
        _without_graphs(monkeypatch)
        step = GraphedStep(torch.nn.Linear(2, 2), compute, lambda: None)
        step._capture([])
        return step.is_recorded, step.refused


def test_ranks_record_together_or_not_at_all(together):
    """One that launches asks for the others' numbers of tokens, and one that replays does not answer."""
    assert together(_recorded_but_by, 2, 1) == [(False, "no room"), (False, "no room")]
    assert together(_recorded_but_by, 2, 2) == [(True, ""), (True, "")]


@pytest.mark.parametrize("recipe", [Recipe.fp4(), replace(Recipe.fp4(), stochastic_rounding=True)])
def test_a_cpu_launches_its_steps(tmp_path, recipe):
    trainer = Trainer(fresh(replace(MODEL, recipe=recipe)), text(tmp_path), CONFIG)
    assert trainer.config.graph  # as on any device: the run may go on on another
    assert trainer._graphed is None
    assert not trainer.not_recorded


@pytest.mark.parametrize(
    ("ep", "random", "recorded"), [(1, False, True), (2, False, True), (4, False, False), (1, True, False)]
)
def test_experts_divided_by_many_and_random_rounding_are_launched(tmp_path, monkeypatch, ep, random, recorded):
    trainer = Trainer(
        fresh(replace(MODEL, recipe=replace(MODEL.recipe, stochastic_rounding=random))), text(tmp_path), CONFIG
    )
    monkeypatch.setattr("pauca.moe.training.trainer.GraphedStep", lambda *_: OneRecording())
    trainer.device, trainer.config = torch.device("cuda"), replace(trainer.config, ep=ep)
    assert (trainer._new_graph() is not None) == recorded


@pytest.mark.parametrize("verb", ["_validate", "_health"])
def test_memory_that_a_recording_takes_is_given_back_where_work_beside_it_needs_it(tmp_path, monkeypatch, verb):
    trainer = Trainer(fresh(), text(tmp_path), CONFIG)
    trainer._graphed = recording = OneRecording()

    def crowded():
        if recording.is_recorded:
            raise torch.OutOfMemoryError("no room")
        return found

    found = 1.0 if verb == "_validate" else {}
    monkeypatch.setattr(trainer, verb, crowded)
    assert getattr(trainer, verb.strip("_"))() == found
    assert not recording.is_recorded


def test_a_training_that_has_ended_keeps_no_recording(tmp_path, monkeypatch):
    """NCCL's end waits for graphs that hold its exchanges: of several ranks, none would ever leave."""
    recording = OneRecording()

    def ended(training, *_):
        training.trainer._graphed = recording
        return SimpleNamespace(loss=None, step=0, is_finished=True)

    monkeypatch.setattr(loop, "run_training", ended)
    loop.train(fresh(), CONFIG, text(tmp_path))
    assert not recording.is_recorded


@pytest.mark.parametrize("ranks", [1, 2])
def test_memory_that_is_lacking_without_a_recording_or_of_several_ranks_is_said(tmp_path, monkeypatch, ranks):
    """Other ranks would not repeat what only one lacks memory for."""
    trainer = Trainer(fresh(), text(tmp_path), CONFIG)
    trainer.ranks = ranks
    if ranks > 1:
        trainer._graphed = OneRecording()
    monkeypatch.setattr(trainer, "_validate", crowded)
    remedy = r"TrainConfig\(graph=False\)\)$" if ranks > 1 else "--resume --recompute experts .*--passes"
    with pytest.raises(DeviceError, match=rf"^step 1: memory is lacking \(CUDA.*Tried to allocate 2 GiB\); .*{remedy}"):
        trainer.validate()


def test_memory_that_is_lacking_in_a_step_or_still_without_a_recording_is_said(tmp_path, monkeypatch):
    trainer = Trainer(fresh(), text(tmp_path), CONFIG)
    monkeypatch.setattr(trainer, "_gradients", crowded)
    with pytest.raises(DeviceError, match=r"^step 1: memory is lacking .*--passes"):
        trainer.step()
    monkeypatch.undo()
    monkeypatch.setattr(trainer.optimizer, "step", crowded)  # makes its state in the first step
    with pytest.raises(DeviceError, match=r"^step 1: memory is lacking .*--passes"):
        trainer.step()
    trainer._graphed = OneRecording()
    monkeypatch.setattr(trainer, "_validate", crowded)
    with pytest.raises(DeviceError, match=r"^step 1: memory is lacking .*--passes"):
        trainer.validate()
    assert not trainer._graphed.is_recorded


def crowded(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has a total of 79 GiB.\nMore")
