"""Meta-training by the paper's protocol: episodes in, one step of SGD through the base learner, again and again.

On a GPU all episodes of a step go through the network at once, in bfloat16, compiled, from a data set that lies on the
device as bytes; on a CPU each episode is a pass of its own (faster there) and gradients add up. Batch norm therefore
sees the images of one pass: 440 on a GPU, 55 on a CPU.

All randomness is a function of (seed, step, pass): every pass seeds torch anew, every block of steps its episode
sampler. So a resumed run repeats bit for bit with nothing but weights, momentum and the step in its checkpoint, and two
processes that share the passes of a step draw what one process would.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from jaxtyping import Float, UInt8
from safetensors.torch import save_file
from torch import Tensor

from pauca.errors import ConfigError, PaucaError
from pauca.fewshot.augment import AugmentConfig, augment, turn_classes
from pauca.fewshot.backbones import set_training_step
from pauca.fewshot.episodes import sample_episodes
from pauca.fewshot.evaluate import Evaluation, check_images, evaluate
from pauca.fewshot.graph import CapturedPass, can_be_captured
from pauca.fewshot.model import Encoding, Losses, MCRNet, ModelConfig, read_safetensors
from pauca.fewshot.types import EpisodeConfig, Episodes, ImageSet
from pauca.runs import Progress, Run, atomic_write, resolve_device, seed_of, write_text

Schedule = Literal["cosine"] | tuple[tuple[float, float], ...]
CompileMode = Literal["auto", "off", "default", "reduce-overhead", "max-autotune-no-cudagraphs"]

# Episodes are drawn and sent to the device for so many steps at a time: one transfer, and short enough that a GPU with
# queued work does not wait for it.
_STEPS_PER_BLOCK = 16
_LOG_EVERY = 50


@dataclass(frozen=True)
class TrainConfig:
    """How to meta-train; the defaults are the paper's protocol for CIFAR-FS, others are in `PROTOCOLS`."""

    steps: int = 60_000
    """Steps of SGD: 60 epochs of 1000."""
    episodes_per_step: int = 8
    """Episodes whose gradients make one step, over all processes."""
    episode: EpisodeConfig = field(default_factory=lambda: EpisodeConfig(way=5, shot=5, query=6))
    """Shape of the training episodes."""
    learning_rate: float = 0.1
    """At the start."""
    schedule: Schedule = ((0.0, 1.0), (20 / 60, 0.06), (40 / 60, 0.012), (50 / 60, 0.0024))
    """Of the learning rate: `cosine` (half of one, down to zero), or phases: the share of the steps at which each
    begins, and its factor."""
    momentum: float = 0.9
    """Of Nesterov's SGD."""
    weight_decay: float = 5e-4
    """L2 penalty on every parameter."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over the classes of the episode."""
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    """Crop, flip and colours of the training images."""
    validate_every: int = 1000
    """Steps between validations, which also write the checkpoints."""
    validation_shot: int = 5
    """Shot of the validation episodes; way is that of training, queries are 15 of each class."""
    validation_episodes: int = 1000
    """Number of validation episodes, the same ones every time."""
    seed: int = 0
    """Of the weights, the episodes, the augmentation and the noise."""
    device: str = "auto"
    """`auto` (the GPU if there is one), `cpu`, `cuda` or `cuda:N`."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Of the convolutions: `auto` is bf16 on a GPU and float32 elsewhere."""
    compile: CompileMode = "auto"
    """A mode of torch.compile: `auto` compiles on a GPU and not elsewhere."""
    cuda_graph: bool = True
    """On a GPU, capture a pass in a CUDA graph where the base learner allows it (ridge, prototypes, cosine)."""
    episodes_per_pass: int | None = None
    """Episodes that go through the network at once: all of them on a GPU and one on a CPU, if not given."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.episodes_per_step < 1 or self.validate_every < 1:
            raise ConfigError("steps, episodes_per_step and validate_every of training must be at least 1")
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
            augmentation=AugmentConfig(crop_padding=8 if image_size == 84 else 4),
        ),
    )


PROTOCOLS: dict[str, Protocol] = {
    "cifar-fs": _protocol(shot=5),
    "fc100": _protocol(shot=15),
    "miniimagenet": _protocol(shot=15, base_learner="svm", image_size=84, smoothing=0.1),
    "tieredimagenet": _protocol(shot=10, base_learner="svm", image_size=84),
}


@dataclass(frozen=True)
class Workers:
    """The processes that share the passes of a step, as torchrun starts them; alone without it."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> "Workers":
        """Join the processes that torchrun has started, if it has."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def average(self, tensors: list[Tensor]) -> None:
        """Replace tensors of one type by their mean over all processes, in one message."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


class Trainer:
    """The state of a training: model, optimizer, step. `step` takes one step and never waits for the device.

    Args:
        model: trained in place; moved to the device, channels last.
        images: training split, of the model's size.
        config: how to train.
        workers: the processes that share the work.
    """

    def __init__(self, model: MCRNet, images: ImageSet, config: TrainConfig, workers: Workers | None = None) -> None:
        check_images(model, images)
        self.config = config
        self.workers = workers or Workers.join()
        self.device = resolve_device(config.device)
        self.on_gpu = self.device.type == "cuda"
        self.passes = self._passes()
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and self.on_gpu)
        self.images = images  # episodes are drawn on the host,
        self._pixels = images.images.to(self.device)  # and gathered on the device
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        set_normalisation(model, self._pixels)
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.momentum > 0,
            fused=self.on_gpu or None,
        )
        self.steps_done = 0
        self._block: tuple[int, Episodes] | None = None
        self._encode = self._compiled(self._augment_and_encode)
        self._captured: CapturedPass | None = None  # made by the first pass that can be
        if self.on_gpu:
            torch.backends.cudnn.benchmark = True  # shapes never change; the fastest kernels are worth a search

    def step(self) -> Losses:
        """One step of SGD; the losses are those of this process, averaged over its passes."""
        self.model.train()
        set_training_step(self.model, self.steps_done)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.steps_done)
        self.optimizer.zero_grad(set_to_none=self._captured is None)
        losses = [self._pass(number, episodes) for number, episodes in self._episodes_of_passes()]
        self.workers.average([p.grad for p in self.model.parameters() if p.grad is not None])
        self.optimizer.step()
        self.steps_done += 1
        return Losses(*(torch.stack(part).mean() for part in zip(*map(_fields, losses), strict=True)))

    def state(self) -> dict[str, Tensor]:
        """Everything that decides how training goes on, as tensors: weights, running statistics, momentum, step."""
        self.workers.average([b for b in self.model.buffers() if b.is_floating_point()])
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        tensors["step"] = torch.tensor(self.steps_done)
        return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.model.load_state_dict(
            {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        )
        for name, parameter in self.model.named_parameters():
            if f"momentum.{name}" in tensors:
                momentum = torch.empty_like(parameter).copy_(tensors[f"momentum.{name}"])
                self.optimizer.state[parameter]["momentum_buffer"] = momentum
        self.steps_done = int(tensors["step"])

    def _passes(self) -> int:
        """Passes of this process in a step."""
        of_process, remainder = divmod(self.config.episodes_per_step, self.workers.count)
        per_pass = self.config.episodes_per_pass or (of_process if self.on_gpu else 1)
        if remainder or not of_process or of_process % per_pass:
            raise ConfigError(
                f"{self.config.episodes_per_step} episodes a step cannot be shared evenly by {self.workers.count} "
                f"processes with {per_pass} episodes a pass; choose numbers that divide"
            )
        return of_process // per_pass

    def _compiled(self, function: Callable) -> Callable:
        mode = self.config.compile
        if mode == "auto":
            mode = "default" if self.on_gpu else "off"
        return function if mode == "off" else torch.compile(function, mode=mode)

    def _augment_and_encode(self, images: UInt8[Tensor, "b c h w"]) -> Encoding:
        return self.model.encode(augment(images, self.config.augmentation))

    def _episodes_of_passes(self) -> Iterator[tuple[int, Episodes]]:
        """This step's passes of this process, each with its number among all passes of the step."""
        block, place = divmod(self.steps_done, _STEPS_PER_BLOCK)
        if self._block is None or self._block[0] != block:
            count = _STEPS_PER_BLOCK * self.config.episodes_per_step
            seed = seed_of(self.config.seed, 0, block)
            drawn = sample_episodes(self.images, self.config.episode, count, seed)
            self._block = block, self._send(drawn)
        per_pass = self.config.episodes_per_step // (self.passes * self.workers.count)
        for number in range(self.workers.rank * self.passes, (self.workers.rank + 1) * self.passes):
            first = place * self.config.episodes_per_step + number * per_pass
            yield number, self._block[1][first : first + per_pass]

    def _send(self, episodes: Episodes) -> Episodes:
        """Episodes on the device; through pinned memory, so that the host does not wait for the queued work."""
        if not self.on_gpu:
            return episodes
        arrays = (getattr(episodes, name).pin_memory() for name in Episodes.__dataclass_fields__)
        return Episodes(*(array.to(self.device, non_blocking=True) for array in arrays))

    def _pass(self, number: int, episodes: Episodes) -> Losses:
        """Forward and backward of some episodes; gradients add to those of the step's other passes."""
        if self._captured is None and self._captures():
            self._captured = CapturedPass(self._forward_and_backward, episodes, self.model)
        torch.manual_seed(seed_of(self.config.seed, 1, self.steps_done, number))
        return self._captured(episodes) if self._captured else self._forward_and_backward(episodes)

    def _captures(self) -> bool:
        # reduce-overhead makes CUDA graphs of its own.
        asked_for = self.config.cuda_graph and self.config.compile != "reduce-overhead"
        return self.on_gpu and asked_for and can_be_captured(self.model.base_learner)

    def _forward_and_backward(self, episodes: Episodes) -> Losses:
        images = self._gather(episodes)
        bf16 = torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()
        with bf16:
            encoding = self._encode(images)
        losses = self.model.losses(
            encoding,
            episodes.support_labels,
            episodes.query_labels,
            episodes.way,
            self.config.label_smoothing,
        )
        (losses.total / self.passes).backward()
        return Losses(*(part.detach() for part in _fields(losses)))

    def _gather(self, episodes: Episodes) -> UInt8[Tensor, "b c h w"]:
        """The images of all episodes, support before query within each."""
        places = torch.cat([episodes.support, episodes.query], dim=1)
        images = self._pixels[places.flatten()]
        if self.config.augmentation.turned_classes:
            labels = torch.cat([episodes.support_labels, episodes.query_labels], dim=1)
            share = self.config.augmentation.turned_classes
            images = turn_classes(images.unflatten(0, places.shape), labels, episodes.way, share).flatten(0, 1)
        return images


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
    trainer = Trainer(model, train_images, config)
    keeper = _Keeper(trainer, validation_images, run)
    if resume:
        keeper.resume()
    is_first = trainer.workers.rank == 0
    with Progress("train", config.steps, quiet=quiet or not is_first) as progress:
        progress.advance(trainer.steps_done)
        note = ""
        while trainer.steps_done < config.steps:
            losses = trainer.step()
            if trainer.steps_done % _LOG_EVERY == 0 or trainer.steps_done == config.steps:
                note = _log(losses, trainer, run)
            if trainer.steps_done % config.validate_every == 0 or trainer.steps_done == config.steps:
                keeper.keep()
            progress.advance(note=note)
    return keeper.result()


def _log(losses: Losses, trainer: Trainer, run: Run | None) -> str:
    """Write the losses of the step, averaged over processes, and return them as a short note."""
    together = torch.stack(_fields(losses))
    trainer.workers.average([together])
    values = dict(zip(Losses.__dataclass_fields__, together.tolist(), strict=True))
    if not all(map(math.isfinite, values.values())):
        raise PaucaError(
            f"the training loss is not finite at step {trainer.steps_done} ({values}); "
            "lower the learning rate, or bound log sigma (latent mode variational)"
        )
    if run is not None and trainer.workers.rank == 0:
        rate = trainer.config.learning_rate_at(trainer.steps_done - 1)
        run.log(step=trainer.steps_done, learning_rate=rate, **values)
    return f"loss {values['total']:.3f}, accuracy {100 * values['accuracy']:.1f} %"


class _Keeper:
    """Validates, keeps the best model and writes the checkpoints; with several processes, the first one alone."""

    def __init__(self, trainer: Trainer, images: ImageSet | None, run: Run | None) -> None:
        self.trainer, self.images, self.run = trainer, images, run
        self.best: Evaluation | None = None
        self.best_accuracy = -1.0
        self.best_step = 0
        self.best_weights: dict[str, Tensor] = {}
        if images is not None:
            self.episodes = _validation_episodes(images, trainer.config)

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
        best = {"accuracy": self.best_accuracy, "step": self.best_step}
        with atomic_write(self.run.checkpoints / "last.safetensors", force=True) as path:
            save_file(state, path, metadata={"pauca.fewshot.best": json.dumps(best)})

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
        self.trainer.load_state(state)
        best = json.loads(metadata["pauca.fewshot.best"])
        self.best_accuracy, self.best_step = best["accuracy"], best["step"]
        self.best_weights, _ = read_safetensors(path.with_name("best.safetensors"))

    def result(self) -> TrainResult:
        model = self.trainer.model
        if self.best_weights:
            model.load_state_dict(self.best_weights)
        if self.best is None and self.images is not None and self.trainer.workers.rank == 0:  # resumed after the best
            self.best = evaluate(model, self.images, self.episodes, self.trainer.device, bf16=self.trainer.bf16)
        return TrainResult(model.eval(), self.best, self.best_step)


def _validation_episodes(images: ImageSet, config: TrainConfig) -> Episodes:
    shape = replace(config.episode, shot=config.validation_shot, query=15, unbalanced=False)
    return sample_episodes(images, shape, config.validation_episodes, seed_of(config.seed, 2))


def check_settings(config: TrainConfig, train_images: ImageSet, validation_images: ImageSet | None) -> None:
    """Raise before anything is written what `train` would raise for a missing device or images too few."""
    resolve_device(config.device)
    sample_episodes(train_images, config.episode, 1, config.seed)
    if validation_images is not None:
        _validation_episodes(validation_images, config)


def set_normalisation(model: MCRNet, images: UInt8[Tensor, "n c h w"]) -> None:
    """Give the model the mean and deviation of each channel over the training images."""
    mean, deviation = channel_statistics(images)
    model.mean.copy_(mean)
    model.deviation.copy_(deviation.clamp_min(1e-3))  # images of one flat colour


def channel_statistics(images: UInt8[Tensor, "n c h w"]) -> tuple[Float[Tensor, "c"], Float[Tensor, "c"]]:
    """Mean and standard deviation of each channel, values from 0 to 1."""
    total = torch.zeros(2, images.shape[1], dtype=torch.float64, device=images.device)
    for batch in images.split(256):
        values = batch.double() / 255
        total += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
    mean, square = (total / (images.numel() / images.shape[1])).unbind()
    return mean.float(), (square - mean.square()).clamp_min(0).sqrt().float()


def _fields(losses: Losses) -> list[Tensor]:
    """The parts of a loss in their order; dataclasses.astuple would copy the tensors."""
    return [getattr(losses, name) for name in Losses.__dataclass_fields__]
