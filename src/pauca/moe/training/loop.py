"""Training of a mixture-of-experts language model from end to end: what it logs, validates and keeps."""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pauca.moe.data.token_files import TokenData
from pauca.moe.models.lm import MoELM
from pauca.moe.training.config import MAY_CHANGE, TrainConfig
from pauca.moe.training.health import collapse
from pauca.moe.training.model_files import save_model
from pauca.moe.training.trainer import Trainer, TrainStep
from pauca.runs import Run
from pauca.runs.loop import LoopConfig, Validation, run_training


@dataclass(frozen=True)
class TrainResult:
    """A finished training; the model that was given has its last weights."""

    validation_loss: float | None  # the lowest, nats per token; None without validation text
    best_step: int  # after which it was reached; its weights are in checkpoints/best.safetensors
    is_finished: bool = True  # False if the time was up before the last step


def train(
    model: MoELM,
    config: TrainConfig,
    data: TokenData,
    run: Run | None = None,
    resume: bool = False,
    quiet: bool = True,
    minutes: float | None = None,
) -> TrainResult:
    """Train a language model, validate it on fixed batches, keep checkpoints and the best weights.

    Args:
        model: freshly made (seed torch before making it); trained in place.
        config: how to train.
        data: from `prepare_tokens` or `TokenData.open`.
        run: folder for metrics and checkpoints; without it nothing is written.
        resume: go on from the run's last checkpoint; on a CPU, bit for bit as if it had never stopped.
        quiet: show no progress.
        minutes: end when this time is up, with a checkpoint to go on from.

    Raises:
        Diverged: the loss is no longer finite or leaps up; the message says where that comes from.
        PaucaError: a checkpoint cannot be written, or the one to go on from is damaged; another rank has stopped.
        ConfigError: the run to go on with has other settings or data.
    """
    schedule = LoopConfig(
        config.steps,
        config.log_every,
        config.validate_every,
        config.checkpoint_every,
        config.keep_checkpoints,
        config.health_every,
        tensorboard=config.tensorboard,
        checkpoint_async=config.checkpoint_async,
    )
    trainer = Trainer(model, data, config)
    best = run_training(_LanguageModel(trainer, quiet), schedule, run, resume, quiet, minutes)
    trainer.forget_recording()
    return TrainResult(best.loss, best.step, best.is_finished)


class _LanguageModel:
    """A `Trainer` as `run_training` wants it."""

    def __init__(self, trainer: Trainer, quiet: bool) -> None:
        self.trainer, self.quiet = trainer, quiet or trainer.rank > 0
        self._warning = self._refused = ""
        self._lines: list[dict[str, Any]] = []  # the latest
        self._tokens = 0  # since the last line
        self._seconds = trainer.seconds
        self._peak = _matrix_rate(trainer.device) if trainer.device.type == "cuda" else None

    @property
    def steps_done(self) -> int:
        return self.trainer.steps_done

    def step(self) -> TrainStep:
        self._tokens += self.trainer.tokens_per_step
        taken = self.trainer.step()
        if self.trainer.not_recorded and not self._refused:
            self._refused = self.trainer.not_recorded
            if not self.quiet:
                print(f"warning: steps are launched, not recorded ({self._refused})", file=sys.stderr, flush=True)
        return taken

    def check(self, steps: Sequence[TrainStep]) -> None:
        """The trainer has looked at each before it changed the weights."""

    def metrics(self, step: TrainStep) -> tuple[dict[str, Any], str]:
        rate = self.trainer.config.learning_rate_at(self.steps_done - 1)
        metrics = asdict(step) | {"learning_rate": rate} | self._rates() | self.trainer.load_metrics()
        note = f"loss {step.cross_entropy:.3f}, {metrics['tokens_per_second']:,.0f} tokens/s"
        return metrics, f"{note}{self._warn(metrics)}"

    def _warn(self, metrics: dict[str, Any]) -> str:
        """Say when routing collapses, once, and show it as long as it lasts."""
        self._lines = [*self._lines, metrics][-10:]
        model, before = self.trainer.model.config, self._warning
        self._warning = collapse(self._lines, model.experts, model.top_k)
        if self._warning and not before and not self.quiet:
            print(f"warning: step {self.steps_done}: {self._warning}", file=sys.stderr, flush=True)
        return "; routing has collapsed" if self._warning else ""

    def measure(self) -> dict[str, float]:
        return self.trainer.health()

    def validate(self) -> Validation | None:
        loss = self.trainer.validate()
        if loss is None:
            return None
        bits = loss / math.log(2) / self.trainer.data.bytes_per_token
        return Validation(loss, {"validation_loss": loss, "validation_bits_per_byte": bits})

    def keep_best(self, run: Run | None) -> None:
        if run is not None:
            weights = self.trainer.weights()
            if self.trainer.rank == 0:
                save_model(run.checkpoints / "best.safetensors", weights, self.trainer.model.config)

    def state(self) -> dict[str, Any]:
        return self.trainer.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.trainer.load_state(state)

    def origin(self) -> dict[str, str]:
        return _origin(self.trainer)

    def _rates(self) -> dict[str, float]:
        trainer = self.trainer
        tokens_per_second = self._tokens / max(1e-9, trainer.seconds - self._seconds)
        self._tokens, self._seconds = 0, trainer.seconds
        flops = tokens_per_second * trainer.model.config.flops_per_token
        rates = {"tokens_per_second": tokens_per_second, "model_flops": flops, "memory_bytes": _memory(trainer.device)}
        if self._peak is not None:
            rates["share_of_matrix_rate"] = flops / (self._peak * trainer.ranks)
        return rates


def _origin(trainer: Trainer) -> dict[str, str]:
    """What a training's state depends on."""
    settings = {f"train.{name}": value for name, value in asdict(trainer.config).items() if name not in MAY_CHANGE}
    settings |= {f"model.{name}": value for name, value in asdict(trainer.model.config).items() if name != "recompute"}
    return {name: str(value) for name, value in settings.items()} | {"the text": trainer.data.train.checksum}


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
    torch.cuda.reset_peak_memory_stats(device)  # these matrices are not part of the training's memory
    return 2 * size**3 * repeats / (start.elapsed_time(end) / 1000)
