"""How to train a language model: the settings of a training, and its schedule."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from pauca.errors import ConfigError
from pauca.moe.models.lm import LMConfig

MAY_CHANGE = (
    *("device", "compile", "graph", "log_every", "checkpoint_every", "keep_checkpoints", "checkpoint_async"),
    *("tensorboard", "ep", "shard", "gather"),
)
"""Settings that may change between a run and its continuation, as they decide nothing that is learned."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults suit the toy model."""

    steps: int = 1000
    """Optimizer steps of the whole training."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Whose steps: AdamW's; or Muon's for the matrices of attention and experts, AdamW's for all else."""
    batch_size: int = 16
    """Sequences whose gradients make one step, over all passes and all ranks."""
    passes: int = 1
    """Forward and backward passes of each rank that make one step (gradient accumulation)."""
    learning_rate: float | None = None
    """Highest learning rate, of either optimizer, which the warm-up reaches. If not given, by the model's width: 3e-3
    up to 512 channels, 6e-4 at 1024, half of that at twice as many."""
    final_learning_rate: float = 0.1
    """Share of the highest learning rate that is left after the last step; a cosine leads there."""
    warmup: float = 0.02
    """Share of the steps in which the learning rate rises from 0 to its highest: at least 50 of them, or half of all if
    they are few, as routing collapses without; 0 for no rise at all."""
    beta1: float = 0.9
    """AdamW's beta1: decay rate of the running mean of gradients."""
    beta2: float = 0.95
    """AdamW's beta2: decay rate of the running mean of squared gradients."""
    weight_decay: float = 0.1
    """AdamW's weight decay, of matrices alone: norms and other vectors do not decay."""
    document_mask: bool = False
    """Let no token see another document than its own, in training and in validation; attention is then slower."""
    clip: float = 1.0
    """Largest norm of the gradient: a longer gradient is shortened to it."""
    spike: float = 1.0
    """Stop as diverged when the loss, averaged over ten steps, lies so many nats above its lowest such average."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    health_every: int = 200
    """Steps between two measurements of what the number formats lose; one takes as long as about two steps. 0: none."""
    validate_every: int = 200
    """Steps between two validations; the model with the lowest validation loss so far is kept."""
    validation_batches: int = 16
    """Batches of one validation, the same ones every time."""
    checkpoint_every: int = 200
    """Steps between two checkpoints: the most that a killed run loses."""
    keep_checkpoints: int = 2
    """How many of the latest checkpoints stay on disk."""
    checkpoint_async: bool = False
    """Write checkpoints while training goes on, from a copy in the CPU's memory (weights and optimizer once more)."""
    ep: int = 1
    """Ranks that share one set of experts (expert parallelism); must divide the number of ranks and of experts."""
    shard: bool = True
    """Whether weights, gradients and the optimizer's state are divided over the ranks (FSDP2), or (--no-shard) held
    whole by each, but for the experts that --ep divides: more memory, and no weights travel."""
    gather: Literal["fp32", "bf16", "fp8"] = "fp32"
    """Numbers in which FSDP2 sends the weights of experts. bf16 sends half as much and changes no bit, as experts round
    their weights to BF16 for each use. On two H200, `large` trains 2 % and `xl` 5 % faster so, and they take 40 and
    23 % more memory. fp8 sends a quarter and changes no bit of forward, where products are in FP8; the bf16 recipe and
    --rotate refuse it. Over NVLink it is slower (by 4 to 8 % than fp32), so it is for slower links, which have not been
    measured."""
    seed: int = 0
    """Seed of the first weights, the order of the batches and stochastic rounding."""
    device: str = "auto"
    """Where to train: `auto` (the GPU if there is one), `cpu`, `cuda` or `cuda:N`."""
    compile: bool = False
    """Compile each layer with torch.compile."""
    graph: bool = True
    """Whether a step is recorded as CUDA graphs and replayed, so that the GPU does not wait for Python, or (--no-graph)
    launched kernel by kernel, as all are on a CPU, where codes are rounded at random, and with --ep above 2."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard as well (needs the package `tensorboard`)."""

    def __post_init__(self) -> None:
        if self.optimizer not in ("adamw", "muon"):
            raise ConfigError(f"optimizer of training must be adamw or muon, got {self.optimizer!r}")
        if self.gather not in ("fp32", "bf16", "fp8"):
            raise ConfigError(f"gather of training must be fp32, bf16 or fp8, got {self.gather!r}")
        for name in (
            "steps", "batch_size", "passes", "log_every", "validate_every", "validation_batches", "checkpoint_every",
            "keep_checkpoints", "ep",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of training must be at least 1, got {getattr(self, name)}")
        for name, ok, range_ in (  # none of these comparisons holds of NaN
            ("learning_rate", self.learning_rate is None or 0 < self.learning_rate < math.inf, "a positive number"),
            ("clip", self.clip > 0, "positive"),
            ("spike", self.spike > 0, "positive"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("health_every", self.health_every >= 0, "0 or more"),
            ("seed", self.seed >= 0, "0 or more"),
            ("beta1", 0 <= self.beta1 < 1, "a share, from 0 to below 1"),
            ("beta2", 0 <= self.beta2 < 1, "a share, from 0 to below 1"),
            ("warmup", 0 <= self.warmup <= 1, "a share, from 0 to 1"),
            ("final_learning_rate", 0 <= self.final_learning_rate <= 1, "a share, from 0 to 1"),
        ):
            if not ok:
                raise ConfigError(f"{name} of training must be {range_}, got {getattr(self, name)}")

    def suited_to(self, model: LMConfig) -> "TrainConfig":
        """With the learning rate for this model, where none is given."""
        if self.learning_rate is not None:
            return self
        return replace(self, learning_rate=3e-3 if model.hidden <= 512 else 6e-4 * 1024 / model.hidden)

    @property
    def rise(self) -> int:
        """Steps in which the learning rate rises.

        The floor comes from `large`, 64 experts of which a token visits 6: with a rise of one step the busiest expert
        got 10.5 times its share, of at most 10.7, and kept it for 60 steps; with 40 to 60, tokens spread again.
        """
        return max(round(self.warmup * self.steps), min(50, self.steps // 2)) if self.warmup else 0

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0: a straight rise, then half a cosine."""
        if self.learning_rate is None:
            raise ConfigError("no learning_rate is given: a schedule needs one, or TrainConfig.suited_to(model)")
        if step < self.rise:
            return self.learning_rate * (step + 1) / self.rise
        done = (step - self.rise) / max(1, self.steps - self.rise)
        left = (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * (self.final_learning_rate + (1 - self.final_learning_rate) * left)
