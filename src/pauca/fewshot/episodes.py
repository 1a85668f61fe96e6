"""Drawing episodes, and keeping them in files so that two methods see the same tasks on any machine."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from pauca.errors import ConfigError, InputError
from pauca.fewshot.types import PADDING, EpisodeConfig, Episodes, ImageSet
from pauca.runs import atomic_write

_FIELDS = tuple(Episodes.__dataclass_fields__)


def sample_episodes(images: ImageSet, config: EpisodeConfig, count: int, seed: int) -> Episodes:
    """Draw episodes: classes, then for each class its support and query images, all without repetition.

    Args:
        images: what to draw from.
        config: the shape of the tasks.
        count: number of episodes, 1 or more.
        seed: the draw depends on this number, on `config` and on the labels alone, and on no global generator.

    Raises:
        ConfigError: more classes asked for than there are, fewer than one episode, or a negative seed.
        InputError: classes with too few images, named, unless `config.small_classes` is "skip".
    """
    if count < 1:
        raise ConfigError(f"{count} episodes: ask for at least 1")
    if seed < 0:
        raise ConfigError(f"seed {seed}: give a number of at least 0")
    members = _members_of_usable_classes(images, config)
    generator = np.random.default_rng(seed)
    way, shot = config.way_range[1], config.shot_range[1]
    episodes = _empty(count, way, way * shot, way * config.query)
    for row in range(count):
        _fill(episodes, row, members, config, generator)
    return Episodes(**{field: torch.from_numpy(array) for field, array in episodes.items()})


def _members_of_usable_classes(images: ImageSet, config: EpisodeConfig) -> list[tuple[int, np.ndarray]]:
    """Label and image positions of each class that has enough images."""
    needed = config.shot_range[1] + config.query
    counts = images.counts.tolist()
    small = [label for label, number in enumerate(counts) if number < needed]
    named = ", ".join(f"{images.class_names[label]} ({counts[label]})" for label in small[:8])
    named += f" and {len(small) - 8} more" if len(small) > 8 else ""
    if small and config.small_classes == "refuse":
        raise InputError(
            f"{images.name}/{images.split}: {len(small)} classes have fewer than the {needed} images that "
            f"{config.shot_range[1]} shots and {config.query} queries need: {named}; lower shot or query, or leave "
            'these classes out by small_classes="skip" (--small-classes skip)'
        )
    usable = len(counts) - len(small)
    if config.way_range[1] > usable:
        left_out = f" after leaving out those with too few images: {named}" if small else ""
        remedy = "lower way" if usable > 1 else "lower shot or query" if small else "give more classes"
        raise ConfigError(
            f"{config.way_range[1]}-way episodes need as many classes, but {images.name}/{images.split} has "
            f"{usable}{left_out}; {remedy}"
        )
    labels = images.labels.cpu().numpy()
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    return [(label, rows) for label, rows in enumerate(by_class) if len(rows) >= needed]


def _empty(count: int, way: int, support: int, query: int) -> dict[str, np.ndarray]:
    return {
        "classes": np.full((count, way), PADDING),
        "support": np.zeros((count, support), np.int64),
        "support_labels": np.full((count, support), PADDING),
        "query": np.zeros((count, query), np.int64),
        "query_labels": np.full((count, query), PADDING),
    }


def _fill(
    episodes: dict[str, np.ndarray],
    row: int,
    members: list[tuple[int, np.ndarray]],
    config: EpisodeConfig,
    generator: np.random.Generator,
) -> None:
    """Draw one episode into its row."""
    way = _draw(config.way_range, generator)
    shared_shot = _draw(config.shot_range, generator)
    support_end = query_end = 0
    for place, choice in enumerate(generator.permutation(len(members))[:way]):
        label, rows = members[choice]
        shot = _draw(config.shot_range, generator) if config.unbalanced else shared_shot
        drawn = generator.choice(rows, shot + config.query, replace=False)
        episodes["classes"][row, place] = label
        for role, part, end in (
            ("support", drawn[:shot], support_end),
            ("query", drawn[shot:], query_end),
        ):
            episodes[role][row, end : end + len(part)] = part
            episodes[f"{role}_labels"][row, end : end + len(part)] = place
        support_end, query_end = support_end + shot, query_end + config.query


def _draw(limits: tuple[int, int], generator: np.random.Generator) -> int:
    low, high = limits
    return low if low == high else int(generator.integers(low, high, endpoint=True))


def save_episodes(path: Path | str, episodes: Episodes, images: ImageSet, force: bool = False) -> None:
    """Write episodes to an .npz file, with the fingerprint of the images that they index."""
    arrays = {field: getattr(episodes, field).cpu().numpy() for field in _FIELDS}
    with atomic_write(Path(path), force) as temporary:
        np.savez_compressed(temporary, fingerprint=np.array(images.fingerprint), **arrays)


def load_episodes(path: Path | str, images: ImageSet) -> Episodes:
    """Read episodes that `save_episodes` wrote for the same images.

    Raises:
        InputError: the file cannot be read, or was made for other images, labels or class order.
    """
    try:
        # numpy leaks the file when it opens a path that turns out to be no archive.
        with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            fingerprint = str(file["fingerprint"])
            episodes = Episodes(*(torch.from_numpy(file[field]) for field in _FIELDS))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; write it with save_episodes") from error
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise InputError(f"{path}: not an episode file ({error}); write it again with save_episodes") from error
    if fingerprint != images.fingerprint:
        raise InputError(
            f"{path}: made for other images (fingerprint {fingerprint[:12]}, {images.name}/{images.split} has "
            f"{images.fingerprint[:12]}); prepare the data at the same size and split, or draw new episodes"
        )
    return episodes
