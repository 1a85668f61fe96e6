"""Meta-training by the paper's protocol: episodes in, one step of SGD through the base learner, again and again.

On a GPU all episodes of a step go through the network at once, in bfloat16, compiled, from a data set that lies on the
device as bytes; on a CPU each episode is a pass of its own (faster there) and gradients add up. Batch norm therefore
sees the images of one pass: 440 on a GPU, 55 on a CPU.

All randomness is a function of (seed, step, pass): every pass seeds torch anew, every block of steps its episode
sampler. So a resumed run repeats bit for bit with nothing but weights, momentum and the step in its checkpoint, and two
ranks that share the passes of a step draw what one process would.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pauca.errors import ConfigError, InputError
from pauca.fewshot.backbones import set_training_step
from pauca.fewshot.embedding import check_images
from pauca.fewshot.episodes import sample_episodes
from pauca.fewshot.model import Encoding, Losses, MCRNet, ModelConfig
from pauca.fewshot.training.augment import augment, turn_classes
from pauca.fewshot.training.compiled import compiled
from pauca.fewshot.training.config import TrainConfig
from pauca.fewshot.training.diagnosis import first_not_finite
from pauca.fewshot.training.graph import CapturedPass, can_be_captured
from pauca.fewshot.types import Episodes, ImageSet, TrainingData
from pauca.runs import resolve_device, seed_of
from pauca.runs.divergence import Diverged
from pauca.runs.processes import average, join_processes

# Episodes are drawn and sent to the device for so many steps at a time: one transfer, and short enough that a GPU with
# queued work does not wait for it.
_STEPS_PER_BLOCK = 16


@dataclass(frozen=True)
class Workers:
    """The ranks that share the passes of a step, as torchrun starts them; alone without it."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls, device: str = "auto") -> "Workers":
        """Join the ranks that torchrun has started, if it has, each with the GPU of its own that `device` means."""
        return cls(*join_processes(device))

    def average(self, tensors: list[Tensor]) -> None:
        """Replace tensors of one type by their mean over all ranks, in one message."""
        if self.count > 1:
            average(tensors)


def check_unscaled(config: ModelConfig) -> None:
    """Refuse features that are centered or whitened at test time: no episode learns by what.

    Raises:
        ConfigError: the first such setting.
    """
    for name in ("center_features", "whiten_features"):
        if share := getattr(config, name):
            raise ConfigError(
                f"{name} {share:g}: only the recipe strong learns it; for a training by episodes leave it at 0"
            )


class Trainer:
    """The state of a training: model, optimizer, step. `step` takes one step and never waits for the device.

    Args:
        model: trained in place; moved to the device, channels last.
        images: training split, of the model's size.
        config: how to train.
        workers: the ranks that share the work.
    """

    def __init__(self, model: MCRNet, images: ImageSet, config: TrainConfig, workers: Workers | None = None) -> None:
        check_images(model, images)
        check_unscaled(model.config)
        self.config = config
        self.workers = workers or Workers.join(config.device)
        self.device = resolve_device(config.device)
        self.on_gpu = self.device.type == "cuda"
        self.passes = self._passes()
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and self.on_gpu)
        self.augmentation = config.augmentation.fitted_to(images)
        self.images = images  # episodes are drawn on the host,
        self._pixels = images.images.to(self.device)  # and gathered on the device
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        set_normalization(model, self._pixels)
        model.trained_on = TrainingData.of(images)
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
        self._encode = compiled(self._augment_and_encode, config.compile, self.on_gpu)
        self._captured: CapturedPass | None = None  # made by the first pass that can be
        if self.on_gpu:
            torch.backends.cudnn.benchmark = True  # shapes never change; the fastest kernels are worth a search

    @property
    def total_steps(self) -> int:
        return self.config.steps

    @property
    def learning_rate(self) -> float:
        """The learning rate of the step that was taken last; before the first step, of that one."""
        return self.config.learning_rate_at(max(self.steps_done - 1, 0))

    def step(self) -> Losses:
        """One step of SGD; the losses are those of this rank, averaged over its passes.

        Raises:
            Diverged: a gradient is not finite, on a CPU; the weights are still those from before the step. A GPU is not
                waited for: there `train` finds it, some steps later.
        """
        self.model.train()
        set_training_step(self.model, self.steps_done, self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.steps_done)
        self.optimizer.zero_grad(set_to_none=self._captured is None)
        try:
            losses = [self._pass(number, episodes) for number, episodes in self._episodes_of_passes()]
        except InputError as error:  # heads refuse features that are not finite
            raise Diverged(self._not_finite(None)) from error
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.workers.average(gradients)
        found = Losses(*(torch.stack(part).mean() for part in zip(*map(loss_parts, losses), strict=True)))
        if not self.on_gpu and not all(gradient.isfinite().all() for gradient in gradients):
            raise Diverged(self._not_finite(found))
        self.optimizer.step()
        self.steps_done += 1
        return found

    def state(self) -> dict[str, Tensor]:
        """Everything that decides how training goes on, as tensors: weights, running statistics, momentum, step."""
        self.workers.average([b for b in self.model.buffers() if b.is_floating_point()])
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        return with_progress(tensors, self.model, self.optimizer, self.steps_done)

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

    def _not_finite(self, losses: Losses | None) -> str:
        def forward() -> None:
            for number, episodes in self._episodes_of_passes():
                torch.manual_seed(seed_of(self.config.seed, 1, self.steps_done, number))
                self._forward(episodes)

        with torch.compiler.set_stance("force_eager"):  # compiled code does not call hooks
            values = {f.name: float(getattr(losses, f.name)) for f in fields(losses)} if losses is not None else {}
            return describe_divergence(self.steps_done + 1, values, first_not_finite(self.model, forward))

    def _passes(self) -> int:
        """Passes of this rank in a step."""
        of_rank, remainder = divmod(self.config.episodes_per_step, self.workers.count)
        per_pass = self.config.episodes_per_pass or (of_rank if self.on_gpu else 1)
        if remainder or not of_rank or of_rank % per_pass:
            raise ConfigError(
                f"{self.config.episodes_per_step} episodes a step cannot be shared evenly by {self.workers.count} "
                f"ranks with {per_pass} episodes a pass; choose numbers that divide"
            )
        return of_rank // per_pass

    def _augment_and_encode(self, images: UInt8[Tensor, "b c h w"]) -> Encoding:
        return self.model.encode(augment(images, self.augmentation))

    def _episodes_of_passes(self) -> Iterator[tuple[int, Episodes]]:
        """This step's passes of this rank, each with its number among all passes of the step."""
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
        losses = self._forward(episodes)
        (losses.total / self.passes).backward()
        return Losses(*(part.detach() for part in loss_parts(losses)))

    def _forward(self, episodes: Episodes) -> Losses:
        images = self._gather(episodes)
        bf16 = torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()
        with bf16:
            encoding = self._encode(images)
        return self.model.losses(
            encoding,
            episodes.support_labels,
            episodes.query_labels,
            episodes.way,
            self.config.label_smoothing,
        )

    def _gather(self, episodes: Episodes) -> UInt8[Tensor, "b c h w"]:
        """The images of all episodes, support before query within each."""
        places = torch.cat([episodes.support, episodes.query], dim=1)
        images = self._pixels[places.flatten()]
        if self.config.augmentation.turned_classes:
            labels = torch.cat([episodes.support_labels, episodes.query_labels], dim=1)
            share = self.config.augmentation.turned_classes
            images = turn_classes(images.unflatten(0, places.shape), labels, episodes.way, share).flatten(0, 1)
        return images


def describe_divergence(step: int, losses: dict[str, float], where: str) -> str:
    """What went wrong at a step, in words."""
    parts = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    values = f" ({parts})" if parts else ""
    return (
        f"step {step}: the loss or a gradient is not finite{values}. First not finite: {where}. "
        "Lower the learning rate, or bound log sigma (latent mode variational), in a new run"
    )


def set_normalization(model: MCRNet, images: UInt8[Tensor, "n c h w"]) -> None:
    """Give the model the mean and deviation of each channel over the training images."""
    mean, deviation = channel_statistics(images)
    model.mean.copy_(mean)
    model.deviation.copy_(deviation.clamp_min(1e-3))  # images of one flat color


def channel_statistics(images: UInt8[Tensor, "n c h w"]) -> tuple[Float[Tensor, "c"], Float[Tensor, "c"]]:
    """Mean and standard deviation of each channel, values from 0 to 1."""
    total = torch.zeros(2, images.shape[1], dtype=torch.float64, device=images.device)
    for batch in images.split(256):
        values = batch.double() / 255
        total += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
    mean, square = (total / (images.numel() / images.shape[1])).unbind()
    return mean.float(), (square - mean.square()).clamp_min(0).sqrt().float()


def loss_parts(losses: Any) -> list[Tensor]:
    """The parts of a loss, a dataclass, in their order; dataclasses.astuple would copy the tensors."""
    return [getattr(losses, part.name) for part in fields(losses)]


def with_progress(
    tensors: dict[str, Tensor], network: nn.Module, optimizer: torch.optim.Optimizer, steps_done: int
) -> dict[str, Tensor]:
    """Weights with the momentum of a network's parameters and the number of steps, on the CPU, ready to be written."""
    for name, parameter in network.named_parameters():
        momentum = optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{name}"] = momentum
    tensors["step"] = torch.tensor(steps_done)
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
