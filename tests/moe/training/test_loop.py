"""Training from end to end: it can be killed, starved of disk and disturbed at any moment, and says what happened."""

import errno
import json
import math
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pauca.errors import ConfigError, PaucaError
from pauca.moe import MoELM, Recipe, RouterConfig, TokenData, load_model
from pauca.moe.training.loop import TrainResult, train
from pauca.moe.training.trainer import Trainer
from pauca.runs import Run
from pauca.runs import checkpoints as checkpoints_module
from pauca.runs.checkpoints import checkpoints
from pauca.runs.divergence import Diverged

from ...runs.killing import CHECKPOINT_MOMENTS, in_another_process, kill_at
from .smallest import CONFIG, MODEL, fresh, text

# Every source of state and of noise that a resumed run must repeat.
NOISY = replace(
    MODEL,
    layers=1,
    recipe=Recipe(precision="fp4", kept_z="mxfp4", keep_fc2_input=False, stochastic_rounding=True),
    router=RouterConfig(bias_rate=0.01),
)


@pytest.fixture
def data(tmp_path) -> TokenData:
    return text(tmp_path)


def run_to_end(path: Path, data: TokenData, resume: bool = False) -> tuple[TrainResult, MoELM, Run]:
    run = Run.create(path, CONFIG, resume=resume)
    model = fresh(NOISY)
    return train(model, CONFIG, data, run, resume), model, run


def lasting(run: Run) -> list[dict[str, Any]]:
    """What was logged, without what depends on the clock and the machine."""
    fleeting = ("time", "tokens_per_second", "model_flops", "memory_bytes")
    return [{name: value for name, value in line.items() if name not in fleeting} for line in run.metrics()]


def assert_same(one: tuple[TrainResult, MoELM, Run], other: tuple[TrainResult, MoELM, Run]) -> None:
    assert one[0] == other[0]
    for name, value in one[1].state_dict().items():
        assert torch.equal(value, other[1].state_dict()[name]), name
    assert lasting(one[2]) == lasting(other[2])
    best = [(result[2].checkpoints / "best.safetensors").read_bytes() for result in (one, other)]
    assert best[0] == best[1]


# When to kill: what is called, which call, before or after it; and the last step whose checkpoint survives.
MOMENTS = {
    "at the first step": ("pauca.moe.training.trainer.Trainer.step", 1, False, 0),
    "between steps": ("pauca.moe.training.trainer.Trainer.step", 4, False, 2),
    "within a step": ("torch.optim.AdamW.step", 4, False, 2),
    "after a step": ("pauca.moe.training.trainer.Trainer.step", 5, True, 4),
    **CHECKPOINT_MOMENTS,
    "while the best weights are written": ("pauca.runs.tensors.save_file", 2, True, 4),
    "after the best weights": ("pauca.moe.training.loop.save_model", 2, True, 4),
}


def _train_until_killed(path: Path, data: TokenData, target: str, call: int, after: bool) -> None:
    kill_at(target, call, after)
    run_to_end(path, data)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[TrainResult, MoELM, Run]:
    folder = tmp_path_factory.mktemp("unbroken")
    return run_to_end(folder / "run", text(folder))


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_bit_for_bit(moment, unbroken, data, tmp_path):
    target, call, after, survives = MOMENTS[moment]
    path = tmp_path / "run"
    assert in_another_process(_train_until_killed, path, data, target, call, after) == -signal.SIGKILL
    left = checkpoints(Run(path).checkpoints)
    assert (int(left[-1].name.removeprefix("step-")) if left else 0) == survives
    again = run_to_end(path, data, resume=True)
    assert_same(again, unbroken)
    hidden = [file.name for file in again[2].checkpoints.iterdir() if file.name.startswith(".step")]
    assert not hidden


def test_a_finished_run_has_nothing_to_resume(unbroken, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(unbroken[2].path, path)
    assert_same(run_to_end(path, text(tmp_path), resume=True), unbroken)


def test_metrics_say_everything(unbroken):
    result, model, run = unbroken
    lines = list(run.metrics())
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    for line in steps:
        names = [f"{measure}/blocks.0.feed_forward" for measure in ("load_imbalance", "load_entropy")]
        usual = ["cross_entropy", "balance", "gradient_norm", "learning_rate", "tokens_per_second", "memory_bytes"]
        assert {*usual, *names} <= set(line)
        flops = line["tokens_per_second"] * model.config.flops_per_token
        assert line["model_flops"] == pytest.approx(flops)
    assert [line["step"] for line in lines if "underflow.x/blocks.0.feed_forward" in line] == [0, 2, 4]
    validations = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    assert set(validations) == {3, 6}
    assert result.validation_loss == min(validations.values()) == validations[result.best_step]
    bits = [line["validation_bits_per_byte"] for line in lines if "validation_bits_per_byte" in line]
    assert bits[-1] == pytest.approx(validations[6] / math.log(2), rel=0.02)  # bytes: a token more a document


def test_the_best_weights_are_those_of_the_best_step(unbroken, data):
    result, _, run = unbroken
    best = load_model(run.checkpoints / "best.safetensors")
    assert best.config == NOISY
    assert Trainer(best, data, CONFIG).validate() == pytest.approx(result.validation_loss, rel=1e-6)


def test_without_validation_the_last_weights_are_kept(data, tmp_path):
    run = Run.create(tmp_path / "run", CONFIG)
    model = fresh()
    result = train(model, CONFIG, replace(data, validation=None), run)
    assert result == TrainResult(None, 6)
    kept = load_model(run.checkpoints / "best.safetensors").state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_without_a_run_folder_nothing_is_written(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert train(fresh(), CONFIG, data).validation_loss is not None
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(ConfigError, match="resuming needs the folder"):
        train(fresh(), CONFIG, data, resume=True)


@pytest.fixture
def broken(data, tmp_path, monkeypatch) -> Run:
    """A run that stopped after step 5."""
    run = Run.create(tmp_path / "run", CONFIG)
    with monkeypatch.context() as patch:
        step = Trainer.step
        patch.setattr(Trainer, "step", lambda trainer: step(trainer) if trainer.steps_done < 5 else _stop())
        with pytest.raises(KeyboardInterrupt):
            train(fresh(), CONFIG, data, run)
    return run


def _stop() -> None:
    raise KeyboardInterrupt


def test_a_corrupt_checkpoint_is_refused_and_the_one_before_works(broken, data):
    latest = checkpoints(broken.checkpoints)[-1]
    part = latest / "__0_0.distcp"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(PaucaError, match=r"__0_0\.distcp is damaged.*remove that folder to go on from step-00000002"):
        train(fresh(), CONFIG, data, broken, resume=True)
    shutil.rmtree(latest)
    assert train(fresh(), CONFIG, data, broken, resume=True).validation_loss is not None


def test_other_settings_cannot_be_resumed(broken, data):
    with pytest.raises(ConfigError, match=r"train\.learning_rate 0\.003, but now train\.learning_rate is 1"):
        train(fresh(), replace(CONFIG, learning_rate=1.0), data, broken, resume=True)
    with pytest.raises(ConfigError, match=r"model\.top_k 2, but now model\.top_k is 1"):
        train(fresh(replace(MODEL, top_k=1)), CONFIG, data, broken, resume=True)


def test_other_text_cannot_be_resumed(broken, data, tmp_path):
    (tmp_path / "text.txt").write_text("Something else. " * 200)
    from pauca.moe import DataConfig, prepare_tokens

    other = prepare_tokens(DataConfig(sources=(str(tmp_path / "text.txt"),)), tmp_path / "tokens")
    with pytest.raises(ConfigError, match="written with the text"):
        train(fresh(), CONFIG, other, broken, resume=True)


def test_what_decides_nothing_may_change(broken, data):
    config = replace(CONFIG, log_every=3, checkpoint_every=6, keep_checkpoints=1)
    assert train(fresh(), config, data, broken, resume=True).best_step


def test_a_full_disk_stops_in_one_line_and_leaves_a_checkpoint(data, tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run", CONFIG)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module, "_seal", _after(1, checkpoints_module._seal, full))
        with pytest.raises(PaucaError, match=r"step-00000004: could not be written \(No space left on device\)"):
            train(fresh(), CONFIG, data, run)
    assert [path.name for path in checkpoints(run.checkpoints)] == ["step-00000002"]
    assert train(fresh(), CONFIG, data, run, resume=True).best_step


def _after(calls: int, first: Callable[..., Any], then: Callable[..., Any]) -> Callable[..., Any]:
    functions = iter([first] * calls)
    return lambda *arguments: next(functions, then)(*arguments)


def _train_with_small_files(path: Path, data: TokenData) -> None:
    import resource

    run = Run.create(path, CONFIG)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing fails with EFBIG, as it does on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        train(fresh(), CONFIG, data, run)
    except PaucaError as error:
        (path / "error.txt").write_text(str(error))


def test_files_that_the_system_refuses_stop_in_one_line(data, tmp_path):
    path = tmp_path / "run"
    assert in_another_process(_train_with_small_files, path, data) == 0
    message = (path / "error.txt").read_text()
    assert "could not be written (File too large)" in message
    assert "\n" not in message
    assert not list((path / "checkpoints").iterdir())


def test_metrics_that_cannot_be_written_stop_in_one_line(data, tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run", CONFIG)

    def full(self: Run, **metrics: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Run, "log", full)
    with pytest.raises(PaucaError, match=r"metrics\.jsonl: could not be written \(No space left.*--resume"):
        train(fresh(), CONFIG, data, run)


def test_a_line_that_a_full_disk_cut_short_is_forgotten(broken, data):
    with broken.metrics_path.open("a") as file:
        file.write('{"time": 1, "ste')
    train(fresh(), CONFIG, data, broken, resume=True)
    assert [line["step"] for line in broken.metrics() if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert all(json.loads(line) for line in broken.metrics_path.read_text().splitlines())


def test_a_divergence_names_the_last_good_checkpoint(data, tmp_path):
    run = Run.create(tmp_path / "run", CONFIG)
    model = fresh()
    calls = iter(range(100))
    model.norm.register_forward_hook(
        lambda module, inputs, output: output * math.inf if module.training and next(calls) >= 4 else output
    )
    message = r"step 5: loss nan.*the last good checkpoint is .*step-00000004"
    with pytest.raises(Diverged, match=message) as found:
        train(model, CONFIG, data, run)
    assert found.value.exit_code == 1
    weights = Trainer(fresh(), data, CONFIG).state()
    checkpoints_module.load_checkpoint(checkpoints(run.checkpoints)[-1], weights, _origin_of(run))
    assert all(value.isfinite().all() for value in weights["model"].values())


def _origin_of(run: Run) -> dict[str, str]:
    return json.loads((checkpoints(run.checkpoints)[-1] / "origin.json").read_text())


def test_tensorboard_gets_the_same_metrics(data, tmp_path):
    pytest.importorskip("tensorboard")
    run = Run.create(tmp_path / "run", CONFIG)
    train(fresh(), replace(CONFIG, steps=2, tensorboard=True), data, run)
    (file,) = (run.path / "tensorboard").iterdir()
    content = file.read_bytes()
    for name in next(line for line in run.metrics() if "loss" in line).keys() - {"time", "step"}:
        assert name.encode() in content, name


def _resume_on_two(rank: int, path: Path, data: TokenData, ep: int) -> TrainResult:
    return train(fresh(), replace(CONFIG, ep=ep), data, Run(path), resume=True)


@pytest.mark.parametrize("ep", [1, 2])
def test_a_run_goes_on_with_another_number_of_processes(broken, data, together, ep):
    results = together(_resume_on_two, 2, broken.path, data, ep)
    assert results[0] == results[1]
    # And back: what two processes wrote, one can read.
    again = train(fresh(), CONFIG, data, broken, resume=True)
    assert again.best_step == results[0].best_step
    assert [line["step"] for line in broken.metrics() if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_a_collapse_of_the_routing_is_said_while_it_lasts(data, capsys):
    model = fresh(replace(MODEL, experts=8, top_k=1))
    model.blocks[1].feed_forward.router.bias[5] = 100.0
    train(model, CONFIG, data, quiet=False)
    said = capsys.readouterr().err
    assert said.count("warning: step 3: the routing of 1 of 2 layers has collapsed") == 1
    assert "the busiest expert of blocks.1.feed_forward gets 8.0 times its share of the tokens, of at most 8.0" in said
    model.blocks[1].feed_forward.router.bias.zero_()
    train(model, CONFIG, data, quiet=False)
    assert "warning" not in capsys.readouterr().err
