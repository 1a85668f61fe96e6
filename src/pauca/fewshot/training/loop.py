"""A meta-training from the first step to the last: metrics, validation on fixed episodes, checkpoints."""

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.fewshot.episodes import sample_episodes
from pauca.fewshot.evaluation import Evaluation, evaluate
from pauca.fewshot.model import MCRNet, read_safetensors, training_data, write_safetensors
from pauca.fewshot.training.config import TrainConfig
from pauca.fewshot.training.trainer import Trainer, Workers, loss_parts
from pauca.fewshot.types import Episodes, ImageSet, TrainingData
from pauca.runs import Progress, Run, resolve_device, seed_of, write_text
from pauca.runs.processes import OtherStopped, Stopped, peers_answer
from pauca.runs.watch import Watch

_LOG_EVERY = 50
_BEST = "pauca.fewshot.best"  # in the metadata of last.safetensors


@runtime_checkable
class Trains(Protocol):
    """What `run_training` asks of a trainer: `Trainer` is one, the recipe `strong` has another."""

    config: TrainConfig
    workers: Workers
    device: torch.device
    bf16: bool
    model: MCRNet
    steps_done: int

    @property
    def total_steps(self) -> int: ...

    @property
    def learning_rate(self) -> float:
        """Of the step that was taken last; before the first, of that one."""
        ...

    def step(self) -> Any:
        """Take a step; a dataclass of scalar tensors, `total` and `accuracy` among them."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that decides how training goes on; what begins with `model.` is the model."""
        ...

    def load_state(self, tensors: dict[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class TrainResult:
    """A finished training."""

    model: MCRNet  # the best on validation, or the last where there is no validation
    validation: Evaluation | None  # of that model
    best_step: int  # after which it was saved


def train(
    model: MCRNet,
    config: TrainConfig,
    train_images: ImageSet,
    validation_images: ImageSet | None = None,
    run: Run | None = None,
    resume: bool = False,
    quiet: bool = True,
) -> TrainResult:
    """Meta-train a model, validate it on fixed episodes, keep the best.

    Args:
        model: freshly made (seed torch before making it); trained in place.
        config: how to train.
        train_images: the classes to learn from.
        validation_images: other classes, to choose the best step by; without them the last step is kept.
        run: folder for metrics and checkpoints; without it nothing is written.
        resume: go on from the run's last checkpoint, bit for bit as if it had never stopped.
        quiet: show no progress.

    Raises:
        PaucaError: the loss is no longer finite; the message names the step.
    """
    return run_training(Trainer(model, train_images, config), validation_images, run, resume, quiet)


def run_training(
    trainer: Trains, validation_images: ImageSet | None, run: Run | None, resume: bool = False, quiet: bool = True
) -> TrainResult:
    """Take all steps of a trainer, validating and writing on the way; arguments and errors as for `train`."""
    keeper = _Keeper(trainer, validation_images, run)
    if resume:
        keeper.resume()
    is_first = trainer.workers.rank == 0
    with (
        Watch(keeper.what_is_left) as watch,
        Progress("train", trainer.total_steps, quiet=quiet or not is_first) as progress,
    ):
        progress.advance(trainer.steps_done)
        note = ""
        while trainer.steps_done < trainer.total_steps:
            try:
                with watch.doing(f"step {trainer.steps_done + 1}"), peers_answer():
                    losses = trainer.step()
                    is_last = trainer.steps_done == trainer.total_steps
                    if trainer.steps_done % _LOG_EVERY == 0 or is_last:
                        note = _log(losses, trainer, run)
                    if trainer.steps_done % trainer.config.validate_every == 0 or is_last:
                        keeper.keep()
            except (OtherStopped, Stopped) as error:
                raise type(error)(f"{error}; {keeper.what_is_left()}") from error
            progress.advance(note=note)
    return keeper.result()


def _log(losses: Any, trainer: Trains, run: Run | None) -> str:
    """Write the losses of the step, averaged over processes, and return them as a short note."""
    together = torch.stack(loss_parts(losses))
    trainer.workers.average([together])
    values = dict(zip((f.name for f in fields(losses)), together.tolist(), strict=True))
    if not all(map(math.isfinite, values.values())):
        raise PaucaError(
            f"the training loss is not finite at step {trainer.steps_done} ({values}); "
            "lower the learning rate, or bound log sigma (latent mode variational)"
        )
    if run is not None and trainer.workers.rank == 0:
        run.log(step=trainer.steps_done, learning_rate=trainer.learning_rate, **values)
    return f"loss {values['total']:.3f}, accuracy {100 * values['accuracy']:.1f} %"


class _Keeper:
    """Validates, keeps the best model and writes the checkpoints; with several processes, the first one alone."""

    def __init__(self, trainer: Trains, images: ImageSet | None, run: Run | None) -> None:
        self.trainer, self.images, self.run = trainer, images, run
        self.best: Evaluation | None = None
        self.best_accuracy = -1.0
        self.best_step = 0
        self.best_weights: dict[str, Tensor] = {}
        if images is not None:
            self.episodes = validation_episodes(images, trainer.config)

    def keep(self) -> None:
        """Validate and write; every process must call, because the running statistics are averaged."""
        state = self.trainer.state()
        if self.trainer.workers.rank == 0:
            self._validate(state)
            if self.run is not None:
                self._write(state)

    def _validate(self, state: dict[str, Tensor]) -> None:
        step = self.trainer.steps_done
        if self.images is None:
            accuracy, evaluation = float(step), None  # without validation the latest is the best
        else:
            model, device = self.trainer.model, self.trainer.device
            evaluation = evaluate(model, self.images, self.episodes, device, bf16=self.trainer.bf16)
            accuracy = evaluation.accuracy.mean
            if self.run is not None:
                self.run.log(step=step, validation_accuracy=accuracy, half_width=evaluation.accuracy.half_width)
        if accuracy > self.best_accuracy:
            self.best, self.best_accuracy, self.best_step = evaluation, accuracy, step
            self.best_weights = {
                name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")
            }
            if self.run is not None:
                self.trainer.model.save(self.run.checkpoints / "best.safetensors")

    def _write(self, state: dict[str, Tensor]) -> None:
        assert self.run is not None
        remembered = self.trainer.model.trained_on
        best = {
            "accuracy": self.best_accuracy,
            "step": self.best_step,
            "trained_on": asdict(remembered) if remembered else None,
        }
        metadata = {_BEST: json.dumps(best)}
        write_safetensors(self.run.checkpoints / "last.safetensors", state, metadata, force=True)

    def what_is_left(self) -> str:
        """The checkpoint to go on from, in words."""
        path = self.run.checkpoints / "last.safetensors" if self.run is not None else None
        return f"go on from {path} with --resume" if path and path.exists() else "there is no checkpoint yet"

    def resume(self) -> None:
        if self.run is None:
            raise ConfigError("resuming needs the folder of the run to resume")
        path = self.run.checkpoints / "last.safetensors"
        if path.exists():  # else stopped before the first checkpoint: begin again
            self._load(path)
        if self.trainer.workers.rank == 0:  # steps after the checkpoint are taken, and logged, again
            lines = [json.dumps(line) for line in self.run.metrics() if line["step"] <= self.trainer.steps_done]
            write_text(self.run.metrics_path, "".join(f"{line}\n" for line in lines), force=True)

    def _load(self, path: Path) -> None:
        state, metadata = read_safetensors(path)
        best = json.loads(metadata[_BEST])
        self._check_data(path, training_data(best.get("trained_on")))
        self.trainer.load_state(state)
        self.best_accuracy, self.best_step = best["accuracy"], best["step"]
        self.best_weights, _ = read_safetensors(path.with_name("best.safetensors"))

    def _check_data(self, path: Path, before: TrainingData | None) -> None:
        """Refuse to go on with other images than those of the steps that were taken."""
        now = self.trainer.model.trained_on
        if now and before and now.fingerprint != before.fingerprint:
            raise InputError(
                f"{path}: was trained on other images: {before.images} of {len(before.class_names)} classes, and now "
                f"the data hold {now.images} of {len(now.class_names)}, or others; bring the data back, or start a new "
                "run without --resume"
            )

    def result(self) -> TrainResult:
        model = self.trainer.model
        if self.best_weights:
            model.load_state_dict(self.best_weights)
        if self.best is None and self.images is not None and self.trainer.workers.rank == 0:  # resumed after the best
            self.best = evaluate(model, self.images, self.episodes, self.trainer.device, bf16=self.trainer.bf16)
        return TrainResult(model.eval(), self.best, self.best_step)


def validation_episodes(images: ImageSet, config: TrainConfig) -> Episodes:
    """The episodes of every validation: always the same ones."""
    shape = replace(config.episode, shot=config.validation_shot, query=15, unbalanced=False)
    return sample_episodes(images, shape, config.validation_episodes, seed_of(config.seed, 2))


def check_settings(config: TrainConfig, train_images: ImageSet, validation_images: ImageSet | None) -> None:
    """Raise before anything is written what `train` would raise for a missing device or images too few."""
    resolve_device(config.device)
    sample_episodes(train_images, config.episode, 1, config.seed)
    if validation_images is not None:
        validation_episodes(validation_images, config)
