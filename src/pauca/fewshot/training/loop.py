"""A meta-training from end to end: what it logs, validates on fixed episodes and keeps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import load, save
from torch import Tensor

from pauca.errors import ConfigError, PaucaError
from pauca.fewshot.episodes import sample_episodes
from pauca.fewshot.evaluation import Evaluation, evaluate
from pauca.fewshot.model import MCRNet, read_safetensors
from pauca.fewshot.random_state import own_random_state
from pauca.fewshot.training.config import TrainConfig
from pauca.fewshot.training.diagnosis import first_not_finite
from pauca.fewshot.training.trainer import Trainer, Workers, describe_divergence, loss_parts
from pauca.fewshot.types import Episodes, ImageSet
from pauca.runs import Run, resolve_device, seed_of, to_dict
from pauca.runs.checkpoints import checkpoints, read_part
from pauca.runs.divergence import STEPS_OF_A_RISE, Diverged, Rise
from pauca.runs.loop import LoopConfig, Validation
from pauca.runs.loop import run_training as run_loop
from pauca.runs.processes import gather

# On a GPU: so many steps may be queued before the host waits for their losses. At 32 pixels a step takes 10 ms.
_STEPS_BETWEEN_CHECKS = 16


@runtime_checkable
class Trains(Protocol):
    """What `run_training` asks of a trainer: `Trainer` is one, the recipe `strong` has another."""

    config: TrainConfig
    workers: Workers
    device: torch.device
    bf16: bool
    model: MCRNet
    images: ImageSet
    steps_done: int

    @property
    def total_steps(self) -> int: ...

    @property
    def learning_rate(self) -> float:
        """The learning rate of the step that was taken last; before the first step, of that one."""
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
    is_finished: bool = True  # False if the time was up before the last step


def train(
    model: MCRNet,
    config: TrainConfig,
    train_images: ImageSet,
    validation_images: ImageSet | None = None,
    run: Run | None = None,
    resume: bool = False,
    quiet: bool = True,
    minutes: float | None = None,
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
        minutes: end when this time is up, with a checkpoint to go on from.

    Raises:
        Diverged: the loss is no longer finite or leaps up; the message says at which step and where that comes from.
        PaucaError: a checkpoint cannot be written, or the one to go on from is damaged; another rank has stopped.
        ConfigError: the run to go on with has other settings or data.
    """
    with own_random_state():
        return run_training(Trainer(model, train_images, config), validation_images, run, resume, quiet, minutes)


def run_training(
    trainer: Trains,
    validation_images: ImageSet | None,
    run: Run | None,
    resume: bool = False,
    quiet: bool = True,
    minutes: float | None = None,
) -> TrainResult:
    """Take all steps of a trainer, validating and writing on the way; arguments and errors as for `train`."""
    old = run.checkpoints / "last.safetensors" if run is not None else None
    if resume and run is not None and old is not None and old.exists() and not checkpoints(run.checkpoints):
        raise ConfigError(
            f"{old}: a checkpoint of pauca 0.1, which this version cannot go on from; start a new run, or replace this "
            "one with --force (in Python force=True of `Run.create`)"
        )
    training = _MetaTraining(trainer, validation_images)
    config = LoopConfig(
        trainer.total_steps,
        trainer.config.log_every,
        trainer.config.validate_every,
        trainer.config.validate_every,
        check_every=_STEPS_BETWEEN_CHECKS if trainer.device.type == "cuda" else 1,
        tensorboard=trainer.config.tensorboard,
    )
    best = run_loop(training, config, run, resume, quiet, minutes)
    return training.result(run, best.step, best.is_finished)


def last_state(run: Run) -> dict[str, Tensor]:
    """What the trainer's `state` gave at a run's latest checkpoint.

    Raises:
        PaucaError: there is none, or it is damaged.
    """
    found = checkpoints(run.checkpoints)
    if not found:
        raise PaucaError(f"{run.checkpoints}: there is no checkpoint yet")
    return load(read_part(found[-1], "trainer"))


class _MetaTraining:
    """A trainer of few-shot models as the loop of the house wants it; the first rank alone validates."""

    def __init__(self, trainer: Trains, images: ImageSet | None) -> None:
        self.trainer, self.images = trainer, images
        self.rise = Rise(trainer.config.spike)
        self.best: Evaluation | None = None
        self.best_weights: dict[str, Tensor] = {}
        self._latest: Evaluation | None = None
        self._values: dict[str, float] = {}  # of the latest step that was checked
        self._taken: tuple[int, dict[str, Tensor]] | None = None  # steps done, and the trainer's state then
        if images is not None:
            self.episodes = validation_episodes(images, trainer.config)

    @property
    def steps_done(self) -> int:
        return self.trainer.steps_done

    def step(self) -> Any:
        return self.trainer.step()

    def check(self, steps: Sequence[Any]) -> None:
        names = [part.name for part in fields(steps[0])]
        together = torch.stack([torch.stack(loss_parts(losses)) for losses in steps])
        self.trainer.workers.average([together])
        for number, row in enumerate(together.tolist(), self.steps_done - len(steps) + 1):
            self._values = dict(zip(names, row, strict=True))
            if not all(map(math.isfinite, row)):
                raise Diverged(describe_divergence(number, self._values, first_not_finite(self.trainer.model)))
            if self.rise.is_leap(self._values.get("cross_entropy", 0.0)):
                raise Diverged(
                    f"step {number}: the cross entropy leapt from {self.rise.lowest:.3f} to {self.rise.mean:.3f} nats "
                    f"(means of {STEPS_OF_A_RISE} steps). Lower the learning rate in a new run"
                )

    def metrics(self, step: Any) -> tuple[dict[str, Any], str]:
        values = self._values
        note = f"loss {values['total']:.3f}, accuracy {100 * values['accuracy']:.1f} %"
        return {"learning_rate": self.trainer.learning_rate} | values, note

    def measure(self) -> dict[str, Any]:
        return {}

    def validate(self) -> Validation | None:
        self._state_now()  # which readies the model: running statistics are averaged over the ranks
        if self.images is None:
            return None
        found = (0.0, 0.0)
        if self.trainer.workers.rank == 0:
            self._latest = self._evaluate(self.images)
            found = self._latest.accuracy.mean, self._latest.accuracy.half_width
        accuracy, half_width = gather(found)[0]
        return Validation(1 - accuracy, {"validation_accuracy": accuracy, "half_width": half_width})

    def keep_best(self, run: Run | None) -> None:
        state = self._state_now()
        self.best = self._latest
        self.best_weights = {
            name.removeprefix("model."): value.clone() for name, value in state.items() if name.startswith("model.")
        }
        if run is not None and self.trainer.workers.rank == 0:
            self.trainer.model.save(run.checkpoints / "best.safetensors")

    def state(self) -> dict[str, Any]:
        # As one piece: which tensors there are differs from trainer to trainer, and from step to step.
        return {"trainer": save(self._state_now()), "rise": self.rise.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.rise.load_state(state["rise"])
        self.trainer.load_state(load(state["trainer"]))
        self._taken = None

    def origin(self) -> dict[str, str]:
        """What a training's state depends on."""
        config = {name: value for name, value in to_dict(self.trainer.config).items() if name not in _FREE}
        settings = {f"train.{name}": value for name, value in config.items()}
        settings |= {f"model.{name}": value for name, value in to_dict(self.trainer.model.config).items()}
        strong = getattr(self.trainer, "strong", None)
        settings |= {f"strong.{name}": value for name, value in to_dict(strong).items()} if strong is not None else {}
        data = {"the training images": self.trainer.images.fingerprint}
        if self.images is not None:
            data["the validation images"] = self.images.fingerprint
        return {name: str(value) for name, value in settings.items()} | data

    def result(self, run: Run | None, best_step: int, is_finished: bool) -> TrainResult:
        """The best model, also where an earlier part of the run has found it."""
        model = self.trainer.model
        if not self.best_weights and run is not None:
            self.best_weights, _ = read_safetensors(run.checkpoints / "best.safetensors")
        model.load_state_dict(self.best_weights)
        if self.best is None and self.images is not None and self.trainer.workers.rank == 0:
            self.best = self._evaluate(self.images)
        return TrainResult(model.eval(), self.best, best_step, is_finished)

    def _state_now(self) -> dict[str, Tensor]:
        if self._taken is None or self._taken[0] != self.steps_done:
            self._taken = self.steps_done, self.trainer.state()
        return self._taken[1]

    def _evaluate(self, images: ImageSet) -> Evaluation:
        return evaluate(self.trainer.model, images, self.episodes, self.trainer.device, bf16=self.trainer.bf16)


# What may change between a run and its continuation.
_FREE = {"device", "compile", "cuda_graph", "log_every", "tensorboard"}


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
