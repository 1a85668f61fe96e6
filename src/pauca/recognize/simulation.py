"""Pictures to train on: images seen by a simulated event camera that is shaken before them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pauca import events, fewshot
from pauca.errors import ConfigError, InputError
from pauca.fewshot.data import load_image_set, save_image_set
from pauca.recognize.pictures import pictures_of
from pauca.recognize.settings import PictureConfig
from pauca.runs import Progress, to_yaml, write_text

_TRIES = 3  # a motion that shows nothing is drawn anew


@dataclass(frozen=True)
class ShakeConfig:
    """How a simulated event camera looks at images: each motion is drawn at random."""

    sensor: int = 34
    """Side of the square sensor, in pixels."""
    side: int = 32
    """Side of the pictures, in pixels."""
    slowest_deg_s: float = 30.0
    """Least peak speed of a motion, in degrees a second; speeds between are drawn by their logarithm."""
    fastest_deg_s: float = 500.0
    """Highest peak speed."""
    seconds: float = 0.25
    """Length of a recording."""
    motion_seed: int = 0
    """Seed of motions and noise."""

    def __post_init__(self) -> None:
        if min(self.sensor, self.side) < 16:
            raise ConfigError(f"sensor {self.sensor} and side {self.side}: take at least 16 pixels")
        if not 0 < self.slowest_deg_s <= self.fastest_deg_s:
            raise ConfigError(f"speeds from {self.slowest_deg_s} to {self.fastest_deg_s} deg/s: give two, rising")
        if not 0 < self.seconds <= 10:
            raise ConfigError(f"seconds {self.seconds}: give a length above 0, up to 10")


def shake(pixels: np.ndarray, config: ShakeConfig, number: int) -> events.Recording:
    """A recording of a gray image, by a camera whose calibration is unknown.

    Args:
        pixels: the image, bytes [h, w].
        config: how the camera moves.
        number: of the recording; each has its own motion and noise.
    """
    rng = np.random.default_rng([config.motion_seed, number])
    peak = float(np.exp(rng.uniform(np.log(config.slowest_deg_s), np.log(config.fastest_deg_s))))
    settings = events.SimulateConfig(
        duration_s=config.seconds,
        peak_deg_s=peak,
        # Where it is fast it also turns back soon, so that the image stays in view.
        bandwidth_hz=float(max(3.0, peak / 40)),
        contrast_on=float(rng.uniform(0.2, 0.5)),
        contrast_off=float(rng.uniform(0.2, 0.5)),
        noise_hz=float(rng.uniform(0.1, 3.0)),
        seed=int(rng.integers(2**31)),
    )
    camera = events.Camera.pinhole((config.sensor, config.sensor))
    made = events.simulate(settings, camera=camera, image=np.ascontiguousarray(pixels))
    return events.Recording(made.events, None, f"image {number}")


def simulate_pictures(
    images: fewshot.ImageSet,
    config: ShakeConfig | None = None,
    pictures: PictureConfig | None = None,
    quiet: bool = True,
) -> fewshot.ImageSet:
    """The same classes as pictures from events: each image is seen by a shaken camera once.

    Args:
        images: gray or color.
        config: how the camera moves.
        pictures: how its events become pictures; of several the best is taken.
        quiet: no progress.
    """
    config, pictures = config or ShakeConfig(), replace(pictures or PictureConfig(), views=1)
    made = np.zeros((len(images), 1, config.side, config.side), np.uint8)
    with Progress(f"simulate {images.split}", total=len(images), unit="recordings", quiet=quiet) as progress:
        for place in range(len(images)):
            pixels = images.images[place].float().mean(0).round().byte().numpy()
            made[place, 0] = _picture(pixels, config, pictures, place)
            progress.advance()
    return replace(images, images=torch.from_numpy(made), name=f"{images.name} from events", fitting=None)


def at_most(images: fewshot.ImageSet, classes: int | None, per_class: int | None) -> fewshot.ImageSet:
    """The first classes, and the first images of each; None takes all.

    Raises:
        ConfigError: fewer than two classes, or none of their images.
    """
    if (classes is not None and classes < 2) or (per_class is not None and per_class < 1):
        raise ConfigError(f"classes {classes} and per_class {per_class}: take two classes and one image at least")
    chosen = images.only(images.class_names[:classes])
    number = torch.zeros_like(chosen.labels)
    for label in chosen.labels.unique():
        own = chosen.labels == label
        number[own] = torch.arange(int(own.sum()))
    return chosen if per_class is None else chosen.at((number < per_class).nonzero().squeeze(1).tolist())


def as_pictures(images: fewshot.ImageSet, side: int) -> fewshot.ImageSet:
    """A set of black pictures, as many as there are images, to see whether so many would do."""
    black = torch.zeros(1, dtype=torch.uint8)
    return replace(images, images=black.expand(len(images), 1, side, side), fitting=None)


def cached_pictures(
    folder: Path,
    images: fewshot.ImageSet,
    config: ShakeConfig,
    pictures: PictureConfig,
    quiet: bool = True,
) -> fewshot.ImageSet:
    """As `simulate_pictures`, kept in a folder: the same images and settings are not simulated again.

    Raises:
        InputError: the folder holds pictures of other images or settings.
    """
    described = f"images: {images.fingerprint}\n{to_yaml(config)}{to_yaml(pictures)}"
    note = folder / "simulated.yaml"
    if note.exists():
        if note.read_text(encoding="utf-8") != described:
            raise InputError(f"{folder}: holds pictures of other images or settings; name another folder, or delete it")
        return load_image_set(folder)
    made = simulate_pictures(images, config, pictures, quiet)
    save_image_set(folder, made, force=True)
    write_text(note, described, force=True)
    return made


def _picture(pixels: np.ndarray, config: ShakeConfig, pictures: PictureConfig, place: int) -> np.ndarray:
    for attempt in range(_TRIES):
        recording = shake(pixels, config, place + attempt * 10_000_000)
        try:
            return pictures_of(recording, config.side, pictures)[0].pixels
        except InputError:  # hardly any events: a motion that happened to rest, or an image without edges
            continue
    return np.zeros((config.side, config.side), np.uint8)
