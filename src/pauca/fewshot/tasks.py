"""The episodes that models are tested on: how many of what shape, drawn anew or as an earlier test saved them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pauca.errors import ConfigError, InputError
from pauca.fewshot.episodes import load_episodes, sample_episodes
from pauca.fewshot.types import EpisodeConfig, Episodes, ImageSet
from pauca.fewshot.views_at_test import ViewsAtTest


@dataclass(frozen=True)
class Tasks:
    """The episodes of an evaluation."""

    way: int = 5
    """Classes in an episode."""
    shots: tuple[int, ...] = (1, 5)
    """Support images of a class, one table row for each."""
    query: int = 15
    """Query images of a class."""
    episodes: int = 2000
    """Number of episodes."""
    seed: int = 0
    """Seed of the draw of episodes: the same one draws the same episodes of the same data."""
    small_classes: Literal["refuse", "skip"] = "refuse"
    """Classes with fewer than shot + query images: stop and name them, or leave them out."""

    def __post_init__(self) -> None:
        if not self.shots:
            raise ConfigError("shots is empty; give at least one number, such as --shots 1 5")

    def episodes_of(self, images: ImageSet, saved: Path | None = None) -> dict[int, Episodes]:
        """Episodes by shot: new ones, or those that an earlier evaluation has left in the folder `saved`."""
        if saved is not None:
            return {shot: load_episodes(episode_file(saved, shot), images) for shot in self.shots}
        shapes = {
            shot: EpisodeConfig(self.way, shot, self.query, small_classes=self.small_classes) for shot in self.shots
        }
        return {shot: sample_episodes(images, shape, self.episodes, self.seed) for shot, shape in shapes.items()}

    def episodes_of_any(self, sets: Sequence[ImageSet], saved: Path | None = None) -> dict[int, Episodes]:
        """The same of one data set read in several sizes: saved episodes are those of one of them."""
        for images in sets[:-1]:
            with suppress(InputError):
                return self.episodes_of(images, saved)
        return self.episodes_of(sets[-1], saved)


@dataclass(frozen=True)
class EvalSettings:
    """What was tested on what: the config.yaml of an evaluation."""

    model: str
    data: str
    split: str
    test_code: str | None
    views: ViewsAtTest
    episodes_from: Path | None
    tasks: Tasks


def episode_file(folder: Path, shot: int) -> Path:
    """Where an evaluation leaves its episodes of one shot."""
    return folder / f"episodes-{shot}shot.npz"
