"""How to meta-train: the settings of a training, and the paper's for each data set."""

import math
from dataclasses import dataclass, field
from typing import Literal

from pauca.choices import check_choices
from pauca.errors import ConfigError
from pauca.fewshot.model import ModelConfig
from pauca.fewshot.training.augment import AugmentConfig
from pauca.fewshot.types import EpisodeConfig

Schedule = Literal["cosine"] | tuple[tuple[float, float], ...]
CompileMode = Literal["auto", "off", "default", "reduce-overhead", "max-autotune-no-cudagraphs"]


@dataclass(frozen=True)
class TrainConfig:
    """How to meta-train; the defaults are the paper's protocol for CIFAR-FS, others are in `PROTOCOLS`."""

    steps: int = 60_000
    """Steps of SGD: 60 epochs of 1000."""
    episodes_per_step: int = 8
    """Episodes whose gradients make one step, over all ranks."""
    episode: EpisodeConfig = field(default_factory=lambda: EpisodeConfig(way=5, shot=5, query=6))
    """Shape of the training episodes."""
    learning_rate: float = 0.1
    """Learning rate of SGD at the start."""
    schedule: Schedule = ((0.0, 1.0), (20 / 60, 0.06), (40 / 60, 0.012), (50 / 60, 0.0024))
    """How the learning rate falls: `cosine` (half of one, down to zero), or phases: the share of the steps at which
    each begins, and its factor."""
    momentum: float = 0.9
    """Momentum of Nesterov's SGD; 0 for none."""
    weight_decay: float = 5e-4
    """L2 penalty on every parameter."""
    label_smoothing: float = 0.0
    """Share of each target's probability that is spread evenly over the classes of the episode."""
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    """Crop, mirror image and colors of the training images."""
    log_every: int = 50
    """Steps between lines in metrics.jsonl."""
    validate_every: int = 1000
    """Steps between validations, which keep the best model and write a checkpoint: what a killed run loses at most."""
    validation_shot: int = 5
    """Shot of the validation episodes; way is that of training, queries are 15 of each class."""
    validation_episodes: int = 1000
    """Number of validation episodes, the same ones every time."""
    spike: float = 5.0
    """Stop as diverged when the cross entropy, averaged over ten steps, lies so many nats above its lowest such
    average."""
    seed: int = 0
    """Seed of the weights, the episodes, the augmentation and the noise."""
    device: str = "auto"
    """`auto` (the GPU if there is one), `cpu`, `cuda` or `cuda:N`."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Number format of the convolutions: `auto` is bf16 on a GPU and float32 elsewhere."""
    compile: CompileMode = "auto"
    """A mode of torch.compile: `auto` compiles on a GPU and not elsewhere."""
    cuda_graph: bool = True
    """On a GPU, capture a pass in a CUDA graph where the base learner allows it (ridge, prototypes, cosine), unless
    --no-cuda-graph is given."""
    episodes_per_pass: int | None = None
    """Episodes that go through the network at once: all of them on a GPU and one on a CPU, if not given."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard, too (package `tensorboard`)."""

    def __post_init__(self) -> None:
        check_choices(self)
        counts = ("steps", "episodes_per_step", "log_every", "validate_every", "validation_shot", "validation_episodes")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of training must be at least 1, got {getattr(self, name)}")
        if self.episodes_per_pass is not None and self.episodes_per_pass < 1:
            raise ConfigError(f"episodes_per_pass of training must be at least 1, got {self.episodes_per_pass}")
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed}: give a number of at least 0")
        for name in ("learning_rate", "spike"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} of training must be a number above 0, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1 or not 0 <= self.weight_decay < math.inf:
            raise ConfigError(
                f"momentum {self.momentum} of training must be at least 0 and below 1, and weight_decay "
                f"{self.weight_decay} at least 0"
            )
        starts = [0.0] if self.schedule == "cosine" else [start for start, _ in self.schedule]
        if not starts or starts[0] != 0 or starts != sorted(starts) or starts[-1] >= 1:
            raise ConfigError(f"schedule {self.schedule}: give `cosine`, or phases that begin at 0, in order, before 1")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing {self.label_smoothing}: give a share from 0 up to, not including, 1")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        # Rounding: 20 / 60 of 60,000 must be 20,000 in spite of binary fractions.
        factor = [factor for start, factor in self.schedule if step >= round(start * self.steps)][-1]
        return self.learning_rate * factor


@dataclass(frozen=True)
class Protocol:
    """Model and training settings of the paper for one data set."""

    model: ModelConfig
    train: TrainConfig


def _protocol(shot: int, base_learner: str = "ridge", image_size: int = 32, smoothing: float = 0.0) -> Protocol:
    return Protocol(
        ModelConfig(base_learner=base_learner, image_size=image_size),
        TrainConfig(
            episode=EpisodeConfig(way=5, shot=shot, query=6),
            label_smoothing=smoothing,
        ),
    )


PROTOCOLS: dict[str, Protocol] = {
    "cifar-fs": _protocol(shot=5),
    "fc100": _protocol(shot=15),
    "miniimagenet": _protocol(shot=15, base_learner="svm", image_size=84, smoothing=0.1),
    "tieredimagenet": _protocol(shot=10, base_learner="svm", image_size=84),
}
