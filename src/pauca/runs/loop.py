"""One loop for every training, from the first step to the last: metrics, validation, the best model, checkpoints.

A training brings what a step of it is (`Training`); everything else is here. Checkpoints are sealed folders that are
whole or not there (`pauca.runs.checkpoints`), so a process may be killed at any moment, and goes on from the last one
as if it had never stopped. Of several ranks all must call, and the first alone writes metrics.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pauca.errors import ConfigError, PaucaError
from pauca.runs.checkpoints import checkpoints, clean_up, load_checkpoint, save_checkpoint
from pauca.runs.divergence import Diverged
from pauca.runs.files import write_text
from pauca.runs.folder import Run
from pauca.runs.processes import OtherStopped, Stopped, first_locks, first_then_all, gather, own_rank, peers_answer
from pauca.runs.progress import Progress
from pauca.runs.watch import Watch


@dataclass(frozen=True)
class Validation:
    """What a validation found."""

    loss: float  # the lower, the better: the model of the lowest is kept
    metrics: Mapping[str, float]  # to log; their names begin with `validation_`


@runtime_checkable
class Training(Protocol):
    """What `run_training` asks of a training. With several ranks it asks all of them, at the same time.

    All randomness must be a function of the seed and `steps_done`: then `state` needs no generators.
    """

    @property
    def steps_done(self) -> int: ...

    def step(self) -> Any:
        """Take one step and return what `check` and `metrics` need of it, without waiting for the device if possible.

        Raises:
            Diverged: here, if the step can look at its loss before it changes the weights; else in `check`.
        """
        ...

    def check(self, steps: Sequence[Any]) -> None:
        """Look at what the latest steps gave, the oldest first; raise `Diverged` at the first that went wrong."""
        ...

    def metrics(self, step: Any) -> tuple[dict[str, Any], str]:
        """What to log of a step, among it `learning_rate`, and a note of a few words for the progress bar."""
        ...

    def measure(self) -> dict[str, Any]:
        """What to log before a step, every `LoopConfig.measure_every`; nothing may change."""
        ...

    def validate(self) -> Validation | None:
        """None where there is nothing to validate on: then the latest model is the best."""
        ...

    def keep_best(self, run: Run | None) -> None:
        """Write the model as it is to `checkpoints/best.safetensors` of the run, or keep it in memory."""
        ...

    def state(self) -> dict[str, Any]:
        """All that decides how training goes on: nested dictionaries of tensors and plain values, always alike."""
        ...

    def load_state(self, state: dict[str, Any]) -> None: ...

    def origin(self) -> dict[str, str]:
        """Settings and data that the state depends on, by name: a run is not resumed with others."""
        ...


@dataclass(frozen=True)
class LoopConfig:
    """When what is due; all in steps."""

    steps: int
    log_every: int
    validate_every: int
    checkpoint_every: int
    keep_checkpoints: int = 2
    measure_every: int = 0  # 0 for never
    check_every: int = 1  # more where a step does not wait for its device; before a checkpoint they are always checked
    tensorboard: bool = False
    checkpoint_async: bool = False  # write checkpoints while training goes on


@dataclass(frozen=True)
class Best:
    """The outcome of a training."""

    loss: float | None  # the lowest of the validations
    step: int  # after which it was reached
    is_finished: bool = True  # False if the time was up before the last step


def check_minutes(minutes: float | None) -> None:
    """Refuse a time in which nothing can be done; commands ask before they make a run's folder, or replace one.

    Raises:
        ConfigError: none is left.
    """
    if minutes is not None and not minutes > 0:
        raise ConfigError(f"minutes {minutes}: give a time above 0, or leave the option out")


def run_training(
    training: Training,
    config: LoopConfig,
    run: Run | None = None,
    resume: bool = False,
    quiet: bool = True,
    minutes: float | None = None,
) -> Best:
    """Take all steps that are left.

    Args:
        training: at its beginning, also to resume.
        config: when to log, validate and write checkpoints.
        run: folder for metrics and checkpoints; without it nothing is written.
        resume: go on from the run's last checkpoint.
        quiet: show no progress.
        minutes: end earlier, after the step during which this time is up, with a checkpoint as after the last step.

    Raises:
        Diverged: the loss is no longer finite or leaps up; the message names the last good checkpoint.
        PaucaError: a checkpoint cannot be written, or the one to go on from is damaged; another rank has stopped.
        ConfigError: the run to go on with has other settings or data.
    """
    check_minutes(minutes)
    if resume and run is None:
        raise ConfigError("resuming needs the folder of the run to resume")
    until = time.monotonic() + 60 * minutes if minutes is not None else None
    with first_locks(run.path) if run is not None else _nothing():
        loop = _Loop(training, config, run)
        if resume:
            loop.resume()
        with (
            Watch(loop.what_is_left) as watch,
            loop,
            Progress("train", config.steps, quiet=quiet or own_rank() > 0) as bar,
        ):
            bar.advance(training.steps_done)
            while training.steps_done < config.steps and not loop.is_over:
                try:
                    with watch.doing(f"step {training.steps_done + 1}"), peers_answer():
                        loop.step(until)
                except (Diverged, OtherStopped, Stopped) as error:
                    if isinstance(error, Diverged):
                        loop.settle()
                    raise type(error)(f"{error}; {loop.what_is_left()}") from error
                except KeyboardInterrupt as error:
                    raise KeyboardInterrupt(f"interrupted; {loop.what_is_left()}") from error
                bar.advance(note=loop.note)
    return Best(loop.best_loss, loop.best_step, training.steps_done == config.steps)


@contextmanager
def opened_run(
    path: Path, config: Any, force: bool, resume: bool, prepare: Callable[[Run], None] = lambda _: None
) -> Iterator[Run]:
    """The run folder of a command that trains: locked and made by the first rank, the same for all.

    Args:
        path: the folder.
        config: what stands in its config.yaml.
        force: replace the run that is there.
        resume: go on with it.
        prepare: what the first rank writes there besides, before the others go on.
    """

    def make() -> Run:
        if own_rank() > 0:
            return Run(path)
        run = Run.create(path, config, force, resume)
        prepare(run)
        return run

    with first_locks(path):
        yield first_then_all(make)


@contextmanager
def reported(write: Callable[[str], None]) -> Iterator[None]:
    """Write the report of a training that fails, too: `write` gets the reason; of several ranks, in the first."""
    try:
        yield
    except BaseException as error:
        if own_rank() == 0:
            with suppress(Exception):  # what went wrong first is what counts
                write(" ".join(str(error).split()) or type(error).__name__)
        raise


@contextmanager
def _nothing() -> Iterator[None]:
    yield


class _Loop:
    """What is due after each step."""

    def __init__(self, training: Training, config: LoopConfig, run: Run | None) -> None:
        self.training, self.config, self.run = training, config, run
        self.note = ""
        self.is_over = False
        self.best_loss: float | None = None
        self.best_step = 0
        self._unchecked: list[Any] = []
        self._origin = training.origin()
        self._board: Any = None
        self._background: Any = None
        self._stack = ExitStack()

    def __enter__(self) -> _Loop:
        if self.config.checkpoint_async and self.run is not None:
            from pauca.runs.background import BackgroundCheckpoints

            self._background = BackgroundCheckpoints()  # all ranks together: before what only the first does
        if self.config.tensorboard and self.run is not None and own_rank() == 0:
            self._board = _tensorboard(self.run.path / "tensorboard", self.training.steps_done)
            self._stack.callback(self._board.close)
        if self._background is not None:
            self._stack.enter_context(self._background)  # last: nothing that fails here leaves warnings changed
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def step(self, until: float | None) -> None:
        """One step, and all that is due before and after it."""
        training, config = self.training, self.config
        if config.measure_every and training.steps_done % config.measure_every == 0:
            self._write(training.measure())
        step = training.step()
        done = training.steps_done
        self.is_over = until is not None and gather(time.monotonic() > until)[0]  # all by the first rank's clock
        is_last = done == config.steps or self.is_over
        logs = done % config.log_every == 0 or is_last
        validates = done % config.validate_every == 0 or is_last
        saves = done % config.checkpoint_every == 0 or is_last
        self._unchecked.append(step)
        if logs or validates or saves or len(self._unchecked) >= config.check_every:
            training.check(self._unchecked)
            self._unchecked = []
        if logs:
            metrics, self.note = training.metrics(step)
            self._write(metrics)
        if validates:
            self._validate()
        if saves and self.run is not None:
            save = save_checkpoint if self._background is None else self._background.save
            save(self.run.checkpoints, done, self._state(), self._origin, config.keep_checkpoints)
        if self._background is not None:
            self._background.check()
            if is_last:
                self._background.wait()

    def settle(self) -> None:
        """Wait for a checkpoint that is being written, so that it counts among those that are left."""
        if self._background is not None:
            with suppress(PaucaError):
                self._background.wait()

    def what_is_left(self) -> str:
        """The checkpoint from before things went wrong, in words."""
        kept = checkpoints(self.run.checkpoints) if self.run is not None else []
        return f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"

    def resume(self) -> None:
        """Load the latest checkpoint and forget the metrics that were logged after it."""
        assert self.run is not None
        found = checkpoints(self.run.checkpoints)
        if found:  # else stopped before the first: begin again
            state = self._state()
            load_checkpoint(found[-1], state, self._origin)
            self.training.load_state(state)
            self.best_loss, self.best_step = state["best"]["loss"], state["best"]["step"]
        if own_rank() == 0:
            clean_up(self.run.checkpoints)
            lines = [json.dumps(line) for line in self.run.metrics() if self._is_before(line)]
            write_text(self.run.metrics_path, "".join(f"{line}\n" for line in lines), force=True)

    def _is_before(self, line: dict[str, Any]) -> bool:
        """Whether a logged line is not logged again: `measure` comes before a step, all else after one."""
        done = self.training.steps_done
        is_after_a_step = "learning_rate" in line or any(name.startswith("validation_") for name in line)
        return line["step"] < done or (line["step"] == done and is_after_a_step)

    def _validate(self) -> None:
        found = self.training.validate()
        if found is not None:
            self._write(dict(found.metrics))
        if found is None or self.best_loss is None or found.loss < self.best_loss:
            self.best_loss, self.best_step = found.loss if found else None, self.training.steps_done
            self.training.keep_best(self.run)

    def _state(self) -> dict[str, Any]:
        return self.training.state() | {"best": {"loss": self.best_loss, "step": self.best_step}}

    def _write(self, metrics: dict[str, Any]) -> None:
        """Log metrics under the number of steps done."""
        if self.run is None or own_rank() > 0 or not metrics:
            return
        try:
            self.run.log(step=self.training.steps_done, **metrics)
        except OSError as error:
            raise PaucaError(
                f"{self.run.metrics_path}: could not be written ({error.strerror or error}); free space and go on from "
                "the last checkpoint with --resume (in Python resume=True)"
            ) from error
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, self.training.steps_done)


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("tensorboard is not installed: pip install tensorboard, or leave the option out") from error
    return SummaryWriter(str(folder), purge_step=step)
