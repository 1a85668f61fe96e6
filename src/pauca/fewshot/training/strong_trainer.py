"""The steps of the recipe `strong`: all base classes at once, one generation after the other, on one device.

All randomness is a function of (seed, step), so a resumed run repeats; the caller's generators are left as they were.
"""

import math
import os
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pauca.errors import ConfigError
from pauca.fewshot.backbones import DropBlock, set_training_step
from pauca.fewshot.embedding import check_images
from pauca.fewshot.evaluation import evaluate
from pauca.fewshot.model import MCRNet
from pauca.fewshot.random_state import own_random_state
from pauca.fewshot.training.bank import ContrastBank
from pauca.fewshot.training.compiled import compiled
from pauca.fewshot.training.confidence import fit_scale
from pauca.fewshot.training.config import TrainConfig
from pauca.fewshot.training.loop import TrainResult, run_training, validation_episodes
from pauca.fewshot.training.strong import StrongConfig, StrongLosses, StrongNetwork, losses_of_step
from pauca.fewshot.training.trainer import Workers, set_normalization, with_progress
from pauca.fewshot.types import ImageSet, TrainingData
from pauca.runs import Run, resolve_device, seed_of

# What the mean feature of the base classes is taken over, as many of each class, each 16 times (turns, parts of some,
# all mirrored): seconds on a GPU. 640 leave an error of 4 % of the features' spread; 6,400 would take a CPU half
# an hour.
_IMAGES_FOR_CENTER = {"cuda": 6400, "cpu": 640}


def train_strong(
    model: MCRNet,
    config: TrainConfig,
    strong: StrongConfig,
    train_images: ImageSet,
    validation_images: ImageSet | None = None,
    run: Run | None = None,
    resume: bool = False,
    quiet: bool = True,
    minutes: float | None = None,
) -> TrainResult:
    """Train a model by the recipe `strong`, validate it on fixed episodes, keep the best.

    Args:
        model: freshly made (seed torch before making it), as `STRONG.model` says or with another backbone.
        config: steps are those of a generation; what speaks of episodes is for validation alone.
        strong: what the recipe adds.
        train_images: the base classes.
        validation_images: other classes, to choose the best step by; without them the last step is kept.
        run: folder for metrics and checkpoints; without it nothing is written.
        resume: go on from the run's last checkpoint.
        quiet: show no progress.
        minutes: end when this time is up, with a checkpoint to go on from.

    Raises:
        Diverged: the loss is no longer finite or leaps up; the message names the step.
        ConfigError: fewer training images than a step takes, or several ranks.
    """
    with own_random_state():
        trainer = StrongTrainer(model, train_images, config, strong)
        result = run_training(trainer, validation_images, run, resume, quiet, minutes)
    return result if validation_images is None else _sure(result, trainer, validation_images, run)


def _sure(result: TrainResult, trainer: "StrongTrainer", images: ImageSet, run: Run | None) -> TrainResult:
    """The result with a base learner that knows how sure it is, which no step has trained."""
    episodes = validation_episodes(images, trainer.config)
    fit_scale(result.model, images, episodes, trainer.device, trainer.bf16)
    if run is not None:
        result.model.save(run.checkpoints / "best.safetensors")
    return replace(result, validation=evaluate(result.model, images, episodes, trainer.device, bf16=trainer.bf16))


class StrongTrainer:
    """The state of a training by the recipe `strong`; `step` takes one step and never waits for the device.

    Args:
        model: trained in place; moved to the device, channels last.
        images: base classes, of the model's size.
        config: how to train.
        strong: what the recipe adds.
    """

    def __init__(self, model: MCRNet, images: ImageSet, config: TrainConfig, strong: StrongConfig) -> None:
        check_images(model, images)
        check_strong(images, strong, config)
        self.config, self.strong, self.images = config, strong, images
        self.augmentation = config.augmentation.fitted_to(images)
        self.workers = Workers()
        self.device = resolve_device(config.device)
        self.on_gpu = self.device.type == "cuda"
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and self.on_gpu)
        self.steps_done = 0
        self._pixels, self._labels = images.images.to(self.device), images.labels.to(self.device)
        for_center = _IMAGES_FOR_CENTER["cuda" if self.on_gpu else "cpu"]
        self._center_images = _some_of_each_class(self._labels, max(1, for_center // len(images.class_names)))
        self.model = model  # which holds the running mean, if there is one
        torch.manual_seed(seed_of(config.seed, 3))
        network = StrongNetwork(model, len(images.class_names))
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        set_normalization(model, self._pixels)
        model.trained_on = TrainingData.of(images)
        for part in model.modules():
            if isinstance(part, DropBlock):
                part.ramp_steps = config.steps  # the first generation, as measured
        self.averaged = network
        self.network = deepcopy(network) if strong.average else network
        self._mean, self._latest = (_floats_of(part) for part in (self.averaged, self.network))
        dimensions = network.contrast[-1].out_features  # type: ignore[index]
        self.bank = ContrastBank(len(images), dimensions).to(self.device)
        self.teacher: StrongNetwork | None = None
        self._generation = 0
        self._order: tuple[int, Tensor] | None = None  # of the images: epoch, places
        self._start_generation()
        if self.on_gpu:
            torch.backends.cudnn.benchmark = True  # shapes never change; the fastest kernels are worth a search

    @property
    def total_steps(self) -> int:
        """Steps of all generations together."""
        return self.config.steps * self.strong.generations

    @property
    def learning_rate(self) -> float:
        """The learning rate of the step that was taken last; before the first step, of that one."""
        return self._learning_rate_at(max(self.steps_done - 1, 0))

    def step(self) -> StrongLosses:
        """One step of SGD on `images_per_step` images, in all their views."""
        if self.steps_done // self.config.steps != self._generation:
            self._teach_from_here()
        self.network.train()
        set_training_step(self.network, self.steps_done, self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate_at(self.steps_done)
        places = self._places()
        torch.manual_seed(seed_of(self.config.seed, 4, self.steps_done))
        with torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            losses, seen = self._losses(self._pixels[places], self._labels[places])
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        self.optimizer.step()
        self.bank.remember(places, seen)
        self.steps_done += 1
        if self.strong.average:
            self._move_mean()
        return losses.detached()

    @torch.no_grad()
    def _move_mean(self) -> None:
        """Move the running mean to the weights and running statistics of now; the first steps weigh more."""
        kept = min(self.strong.average, (1 + self.steps_done) / (10 + self.steps_done))
        get_ema_multi_avg_fn(kept)(self._mean, self._latest, self.steps_done)  # type: ignore[no-untyped-call]

    def state(self) -> dict[str, Tensor]:
        """Everything that decides how training goes on; what features at test time need is learned here."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            pixels, labels = self._pixels[self._center_images], self._labels[self._center_images]
            self.model.learn_center(pixels, 512 if self.on_gpu else 32, labels)
        parts = {"": self.averaged, "bank.": self.bank} | ({"teacher.": self.teacher} if self.teacher else {})
        if self.strong.average:
            parts["trained."] = self.network
        tensors = {f"{name}{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
        tensors = {name.replace("encoder.", "model.", 1): value for name, value in tensors.items()}
        return with_progress(tensors, self.network, self.optimizer, self.steps_done)

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.steps_done = int(tensors["step"])
        # At the end of a generation the next one has not begun: its first step makes the teacher.
        self._generation = (self.steps_done - 1) // self.config.steps
        renamed = {"model.": "encoder."}
        if self._generation:
            self.teacher = _frozen(self.network)
            self.teacher.load_state_dict(_part(tensors, "teacher.", renamed))
        own = ("model.", "classes.", "views.", "contrast.")
        chosen = {name: value for name, value in tensors.items() if name.startswith(own)}
        self.averaged.load_state_dict(_part(chosen, "", renamed))
        if self.strong.average:
            self.network.load_state_dict(_part(tensors, "trained.", renamed))
        self.bank.load_state_dict(_part(tensors, "bank.", {}))
        self._start_generation()
        for name, parameter in self.network.named_parameters():
            if f"momentum.{name}" in tensors:
                momentum = torch.empty_like(parameter).copy_(tensors[f"momentum.{name}"])
                self.optimizer.state[parameter]["momentum_buffer"] = momentum

    def _teach_from_here(self) -> None:
        """Begin the next generation: from the weights of this one, which teaches it."""
        self.teacher = _frozen(self.averaged)
        self.network.load_state_dict(self.averaged.state_dict())
        self._generation += 1
        self._start_generation()

    def _start_generation(self) -> None:
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=self.config.learning_rate,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
            nesterov=self.config.momentum > 0,
            fused=self.on_gpu or None,
        )
        teacher = self.teacher

        def losses(images: Tensor, labels: Tensor) -> tuple[StrongLosses, Tensor]:
            return losses_of_step(
                self.network,
                self.bank,
                teacher,
                images,
                labels,
                self.strong,
                self.augmentation,
                self.config.label_smoothing,
            )

        self._losses = compiled(losses, self.config.compile, self.on_gpu)

    def _learning_rate_at(self, step: int) -> float:
        generation, place = divmod(step, self.config.steps)
        warm_up = math.ceil(self.strong.warm_up * self.config.steps)
        share = min(1.0, (place + 1) / warm_up) if warm_up else 1.0
        return self.config.learning_rate_at(place) * share * (self.strong.later_rate if generation else 1.0)

    def _places(self) -> Tensor:
        """The images of this step: every epoch is an order of its own, of which an incomplete rest is left out."""
        steps_per_epoch = len(self._pixels) // self.strong.images_per_step
        epoch, place = divmod(self.steps_done, steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(seed_of(self.config.seed, 5, epoch))
            self._order = epoch, torch.randperm(len(self._pixels), generator=generator).to(self.device)
        first = place * self.strong.images_per_step
        return self._order[1][first : first + self.strong.images_per_step]


def check_strong(
    images: ImageSet, strong: StrongConfig, config: TrainConfig, validation_images: ImageSet | None = None
) -> None:
    """Raise before anything is written what training would raise for images too few or several ranks."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "the recipe strong trains on one GPU, but torchrun has started several ranks; run it without torchrun, "
            "one seed on each GPU"
        )
    if len(images) < strong.images_per_step:
        raise ConfigError(
            f"{images.name}: {len(images)} images are fewer than the {strong.images_per_step} of a step; lower "
            "images_per_step"
        )
    resolve_device(config.device)
    if validation_images is not None:
        validation_episodes(validation_images, config)


def _floats_of(network: StrongNetwork) -> list[Tensor]:
    """Weights and running statistics, as they are now and will be: training and loading change them in place."""
    return [value for value in network.state_dict().values() if value.is_floating_point()]


def _frozen(network: StrongNetwork) -> StrongNetwork:
    teacher = deepcopy(network).eval()
    return teacher.requires_grad_(False)


def _part(tensors: dict[str, Tensor], prefix: str, renamed: dict[str, str]) -> dict[str, Tensor]:
    """The tensors below a prefix, without it, with the beginnings of their names replaced."""
    part = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    for old, new in renamed.items():
        part = {new + name.removeprefix(old) if name.startswith(old) else name: v for name, v in part.items()}
    return part


def _some_of_each_class(labels: Tensor, count: int) -> Tensor:
    """Places of the first images of each class."""
    places = [(labels == label).nonzero()[:count, 0] for label in labels.unique().tolist()]
    return torch.cat(places)
