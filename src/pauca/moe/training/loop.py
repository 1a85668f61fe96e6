"""Training of a mixture-of-experts language model from the first step to the last: metrics, validation, checkpoints."""

import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pauca.errors import ConfigError, PaucaError
from pauca.moe.data.token_files import TokenData
from pauca.moe.models.lm import MoELM
from pauca.moe.training.checkpoints import checkpoints, clean_up, load_checkpoint, save_checkpoint, save_model
from pauca.moe.training.health import collapse
from pauca.moe.training.trainer import Diverged, TrainConfig, Trainer, TrainStep
from pauca.runs import Progress, Run, write_text
from pauca.runs.processes import OtherStopped, Stopped, peers_answer
from pauca.runs.watch import Watch


@dataclass(frozen=True)
class TrainResult:
    """A finished training; the model that was given has its last weights."""

    validation_loss: float | None  # the lowest, nats per token; None without validation text
    best_step: int  # after which it was reached; its weights are in checkpoints/best.safetensors


def train(
    model: MoELM, config: TrainConfig, data: TokenData, run: Run | None = None, resume: bool = False, quiet: bool = True
) -> TrainResult:
    """Train a language model, validate it on fixed batches, keep checkpoints and the best weights.

    Args:
        model: freshly made (seed torch before making it); trained in place.
        config: how to train.
        data: from `prepare_tokens` or `TokenData.open`.
        run: folder for metrics and checkpoints; without it nothing is written.
        resume: go on from the run's last checkpoint; on a CPU, bit for bit as if it had never stopped.
        quiet: show no progress.

    Raises:
        Diverged: the loss is no longer finite or leaps up; the message says where that comes from.
        PaucaError: a checkpoint cannot be written, or the one to go on from is damaged.
        ConfigError: the run to go on with has other settings or data.
    """
    trainer = Trainer(model, data, config)
    keeper = _Keeper(trainer, run)
    if resume:
        keeper.resume()
    with (
        Watch(keeper.what_is_left) as watch,
        _Log(trainer, run, quiet) as log,
        Progress("train", config.steps, quiet=quiet or trainer.rank > 0) as progress,
    ):
        progress.advance(trainer.steps_done)
        while trainer.steps_done < config.steps:
            try:
                with watch.doing(f"step {trainer.steps_done + 1}"), peers_answer():
                    if config.health_every and trainer.steps_done % config.health_every == 0:
                        log.write(trainer.health())
                    log.step(trainer.step())
                    keeper.keep(log)
            except (Diverged, OtherStopped, Stopped) as error:
                raise type(error)(f"{error}; {keeper.what_is_left()}") from error
            progress.advance(note=log.note)
    return TrainResult(keeper.best_loss, keeper.best_step)


class _Log:
    """Metrics of a run, in metrics.jsonl and for TensorBoard; of several processes, only the first writes."""

    def __init__(self, trainer: Trainer, run: Run | None, quiet: bool = True) -> None:
        self.trainer, self.run, self.quiet = trainer, run, quiet or trainer.rank > 0
        self.note = self.warning = ""
        self._lines: list[dict[str, Any]] = []  # the latest
        self._tokens = 0  # since the last line
        self._seconds = trainer.seconds
        self._peak = _matrix_rate(trainer.device) if trainer.device.type == "cuda" else None
        self._board: Any = None

    def __enter__(self) -> "_Log":
        if self.trainer.config.tensorboard and self.run is not None and self.trainer.rank == 0:
            self._board = _tensorboard(self.run.path / "tensorboard", self.trainer.steps_done)
        return self

    def __exit__(self, *error: object) -> None:
        if self._board is not None:
            self._board.close()

    def step(self, step: TrainStep) -> None:
        """Count a step, and write its metrics if it is time to."""
        trainer, config = self.trainer, self.trainer.config
        self._tokens += trainer.tokens_per_step
        if trainer.steps_done % config.log_every and trainer.steps_done < config.steps:
            return
        metrics: dict[str, Any] = asdict(step)
        metrics["learning_rate"] = config.learning_rate_at(trainer.steps_done - 1)
        metrics |= self._rates() | trainer.load_metrics()
        self.note = f"loss {step.cross_entropy:.3f}, {metrics['tokens_per_second']:,.0f} tokens/s"
        self.write(metrics)
        self._warn(metrics)

    def _warn(self, metrics: dict[str, Any]) -> None:
        """Say when routing collapses, once, and show it as long as it lasts."""
        self._lines = [*self._lines, metrics][-10:]
        model, before = self.trainer.model.config, self.warning
        self.warning = collapse(self._lines, model.experts, model.top_k)
        if self.warning:
            self.note += "; routing has collapsed"
        if self.warning and not before and not self.quiet:
            print(f"warning: step {self.trainer.steps_done}: {self.warning}", file=sys.stderr, flush=True)

    def write(self, metrics: dict[str, Any]) -> None:
        """Write metrics under the number of steps done."""
        if self.run is None or self.trainer.rank > 0 or not metrics:
            return
        try:
            self.run.log(step=self.trainer.steps_done, **metrics)
        except OSError as error:
            raise PaucaError(
                f"{self.run.metrics_path}: could not be written ({error.strerror or error}); free space and go on from "
                "the last checkpoint with --resume"
            ) from error
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, self.trainer.steps_done)

    def _rates(self) -> dict[str, float]:
        trainer = self.trainer
        tokens_per_second = self._tokens / max(1e-9, trainer.seconds - self._seconds)
        self._tokens, self._seconds = 0, trainer.seconds
        flops = tokens_per_second * trainer.model.config.flops_per_token
        rates = {"tokens_per_second": tokens_per_second, "model_flops": flops, "memory_bytes": _memory(trainer.device)}
        if self._peak is not None:
            rates["share_of_matrix_rate"] = flops / (self._peak * trainer.processes)
        return rates


class _Keeper:
    """Validates, keeps the best weights and writes checkpoints."""

    def __init__(self, trainer: Trainer, run: Run | None) -> None:
        self.trainer, self.run = trainer, run
        self.best_loss: float | None = None
        self.best_step = 0
        self.origin = _origin(trainer)

    def keep(self, log: _Log) -> None:
        """After each step: what is due. All processes must call it."""
        config, step = self.trainer.config, self.trainer.steps_done
        is_last = step == config.steps
        if step % config.validate_every == 0 or is_last:
            self._validate(log)
        if self.run is not None and (step % config.checkpoint_every == 0 or is_last):
            save_checkpoint(self.run.checkpoints, step, self._state(), self.origin, config.keep_checkpoints)

    def what_is_left(self) -> str:
        """The checkpoint from before things went wrong, in words."""
        kept = checkpoints(self.run.checkpoints) if self.run is not None else []
        return f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"

    def resume(self) -> None:
        """Load the latest checkpoint and forget the metrics that were logged after it."""
        if self.run is None:
            raise ConfigError("resuming needs the folder of the run to resume")
        found = checkpoints(self.run.checkpoints)
        if found:  # else stopped before the first: begin again
            state = self._state()
            load_checkpoint(found[-1], state, self.origin)
            self.trainer.load_state(state)
            self.best_loss, self.best_step = state["best"]["loss"], state["best"]["step"]
        if self.trainer.rank == 0:
            clean_up(self.run.checkpoints)
            lines = [json.dumps(line) for line in self.run.metrics() if self._is_before(line)]
            write_text(self.run.metrics_path, "".join(f"{line}\n" for line in lines), force=True)

    def _is_before(self, line: dict[str, Any]) -> bool:
        """Whether a logged line is not logged again: health is measured before a step, all else after one."""
        done = self.trainer.steps_done
        return line["step"] < done or (line["step"] == done and ("loss" in line or "validation_loss" in line))

    def _validate(self, log: _Log) -> None:
        loss = self.trainer.validate()
        if loss is not None:
            bits = loss / math.log(2) / self.trainer.data.bytes_per_token
            log.write({"validation_loss": loss, "validation_bits_per_byte": bits})
        if loss is None or self.best_loss is None or loss < self.best_loss:  # without validation the latest is the best
            self.best_loss, self.best_step = loss, self.trainer.steps_done
            if self.run is not None:
                weights = self.trainer.weights()
                if self.trainer.rank == 0:
                    save_model(self.run.checkpoints / "best.safetensors", weights, self.trainer.model.config)

    def _state(self) -> dict[str, Any]:
        return self.trainer.state() | {"best": {"loss": self.best_loss, "step": self.best_step}}


# What may change between a run and its continuation.
_FREE = {"device", "compile", "log_every", "checkpoint_every", "keep_checkpoints", "tensorboard", "ep"}


def _origin(trainer: Trainer) -> dict[str, str]:
    """What a training's state depends on."""
    settings = {f"train.{name}": value for name, value in asdict(trainer.config).items() if name not in _FREE}
    settings |= {f"model.{name}": value for name, value in asdict(trainer.model.config).items() if name != "recompute"}
    return {name: str(value) for name, value in settings.items()} | {"the text": trainer.data.train.checksum}


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("tensorboard is not installed: pip install tensorboard, or leave the option out") from error
    return SummaryWriter(str(folder), purge_step=step)


def _memory(device: torch.device) -> int:
    """The most memory so far: allocated on the GPU, or resident of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _matrix_rate(device: torch.device) -> float:
    """Operations per second that one large BF16 product reaches here: what a model's are compared with."""
    size, repeats = 8192, 10
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for repeat in range(repeats + 3):
        if repeat == 3:
            start.record()
        torch.mm(a, b)
    end.record()
    end.synchronize()
    del a, b
    torch.cuda.reset_peak_memory_stats(device)  # of the training's memory, these matrices are no part
    return 2 * size**3 * repeats / (start.elapsed_time(end) / 1000)
