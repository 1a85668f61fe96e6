"""Everything that a training was asked for: options on top of a preset, and the config.yaml that repeats it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pauca.errors import ConfigError
from pauca.fewshot.backbones import make_backbone, multiply_adds
from pauca.fewshot.latent import LATENT_CHANNELS, LatentConfig, LatentStem
from pauca.fewshot.model import MCRNet, ModelConfig
from pauca.fewshot.random_state import own_random_state
from pauca.fewshot.training.config import PROTOCOLS, TrainConfig
from pauca.fewshot.training.loop import check_settings
from pauca.fewshot.training.strong import STRONG, StrongConfig
from pauca.fewshot.training.strong_trainer import check_strong
from pauca.fewshot.training.trainer import check_unscaled
from pauca.fewshot.types import ImageSet
from pauca.runs import check_obeyed, resolve_device, to_dict
from pauca.typed import is_given

ProtocolName = Literal["cifar-fs", "fc100", "miniimagenet", "tieredimagenet"]
RecipeName = Literal["episodes", "strong"]

DEAR = 2.0  # as many times the multiply-adds: a latent space that costs more is left out, or said to cost so, on a CPU


@dataclass(frozen=True)
class TrainSettings:
    """Everything that repeats a training: what stands in a run's config.yaml."""

    data: str = "glyphs"
    """A prepared data set, a folder or zip archive of class folders, or `glyphs` (drawn on the spot)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Size and channels, where they stand at their defaults, are those of a prepared data set."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How to train."""
    recipe: RecipeName = "episodes"
    """`episodes`: the paper's; `strong`: all base classes at once, as `strong` says."""
    strong: StrongConfig = field(default_factory=StrongConfig)
    """What the recipe `strong` adds."""

    def fitted_to(self, images: ImageSet) -> TrainSettings:
        """The settings with the size, channels and fitting of the images, an augmentation that suits them, and a latent
        mode that suits network and device."""
        _, channels, size, _ = images.images.shape
        fitting = images.fitting or self.model.fitting
        model = replace(self.model, image_size=size, channels=channels, fitting=fitting)
        augmentation = self.train.augmentation.fitted_to(images)
        return replace(self, model=model, train=replace(self.train, augmentation=augmentation))._with_latent_mode()

    def _with_latent_mode(self) -> TrainSettings:
        latent = self.model.latent
        if latent.mode != "auto":
            return self
        settings = replace(self, model=replace(self.model, latent=latent.settled()))
        on_cpu = resolve_device(self.train.device).type == "cpu"
        if not on_cpu or settings.cost_of_latent_space() <= DEAR:
            return settings
        return replace(self, model=replace(self.model, latent=replace(latent, mode="none")))

    def obeyed(self, given: TrainSettings, where: Path) -> None:
        """Refuse options beside this file that say otherwise.

        A recipe's own settings count as not given, and a latent mode that is left to `train` is what it has taken.

        Raises:
            ConfigError: the first such option, with both values.
        """
        usual = TrainSettings()
        if given.recipe == "strong":
            usual = replace(usual, model=STRONG.model, train=STRONG.train)
        if given.model.latent.mode == "auto":
            latent = replace(given.model.latent, mode=self.model.latent.mode)
            given = replace(given, model=replace(given.model, latent=latent))
        check_obeyed(to_dict(self), to_dict(given), to_dict(usual), where)

    def check_images(self, train: ImageSet, validation: ImageSet | None) -> None:
        """Refuse images that this training cannot use.

        Raises:
            ConfigError, InputError: as `train` and `train_strong`.
        """
        if self.recipe == "strong":
            check_strong(train, self.strong, self.train, validation)
        else:
            check_unscaled(self.model)
            check_settings(self.train, train, validation)

    def cost_of_latent_space(self) -> float:
        """How many times as many multiply-adds an image takes with a latent space as without, counted on shapes."""
        with own_random_state():
            return self._cost_of_latent_space()

    def _cost_of_latent_space(self) -> float:
        side, model = self.model.image_size, self.model
        image, code = (model.channels, side, side), (LATENT_CHANNELS, side, side)
        latent = LatentConfig() if model.latent.mode == "none" else model.latent
        stem = multiply_adds(LatentStem(model.channels, latent).encoder, image)
        plain, behind = (
            make_backbone(model.backbone, channels, side) for channels in (model.channels, LATENT_CHANNELS)
        )
        return (stem + multiply_adds(behind, code)) / multiply_adds(plain, image)

    def operations_per_step(self, network: MCRNet) -> int:
        """Floating-point operations of the backbone in one step, forward and backward."""
        model = self.model
        channels = model.channels if model.latent.mode == "none" else LATENT_CHANNELS
        if self.recipe == "strong":
            images = self.strong.images_per_step
        else:
            episode = self.train.episode
            images = self.train.episodes_per_step * episode.way_range[1] * (episode.shot_range[1] + episode.query)
        return 6 * images * multiply_adds(network.backbone, (channels, model.image_size, model.image_size))


def settings_from(
    data: str,
    protocol: ProtocolName | None,
    recipe: RecipeName,
    model: ModelConfig,
    training: TrainConfig,
    strong: StrongConfig,
) -> TrainSettings:
    """The settings of a protocol or a recipe; what was given wins over them: another value than its default, or any
    value on the command line.

    Raises:
        ConfigError: both a protocol and the recipe `strong` were asked for.
    """
    if recipe == "strong" and protocol is not None:
        raise ConfigError(
            f"--protocol {protocol} is the paper's training by episodes, --recipe strong another one; leave one out"
        )
    if recipe == "episodes" and protocol is None:
        return TrainSettings(data, model, training, recipe, strong)
    preset = STRONG if recipe == "strong" else PROTOCOLS[protocol or ""]
    return TrainSettings(
        data,
        override(preset.model, model, ModelConfig()),
        override(preset.train, training, TrainConfig()),
        recipe,
        strong,
    )


def override(preset: Any, given: Any, default: Any) -> Any:
    """The preset, with every field that was given another value than its default, or on the command line."""
    changes = {}
    for name in (f.name for f in fields(preset)):
        ours, theirs, usual = (getattr(config, name) for config in (preset, given, default))
        if is_dataclass(ours):
            changes[name] = override(ours, theirs, usual)
        elif is_given(name, theirs, usual):
            changes[name] = theirs
    return replace(preset, **changes)


def check_asked(model: ModelConfig, images: ImageSet) -> None:
    """Refuse what was asked of a model and differs from a prepared data set: size, channels, fitting.

    Raises:
        ConfigError: the first such option, with the data set's value.
    """
    _, channels, size, _ = images.images.shape
    usual = ModelConfig()
    fitting = images.fitting or model.fitting
    for option, asked, default, found in (
        ("fitting", model.fitting, usual.fitting, fitting),
        ("image_size", model.image_size, usual.image_size, size),
        ("channels", model.channels, usual.channels, channels),
    ):
        if asked != found and is_given(option, asked, default):
            flag = option.replace("_", "-")
            raise ConfigError(
                f"--{flag} {asked}: {images.name} was prepared with {found}; leave the option out, or prepare the data "
                f"again (`pauca fewshot data prepare` has --size and --fitting)"
            )
