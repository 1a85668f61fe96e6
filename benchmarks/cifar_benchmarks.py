"""CIFAR-FS and FC100 for the benchmarks, from the data folder that PAUCA_DATA names; prepared once, then mapped."""

import os
from pathlib import Path

import torch

from pauca.fewshot.data import load_splits, prepare_benchmark
from pauca.fewshot.types import ImageSet

NAMES = ("cifar-fs", "fc100")


def load(name: str, images_per_class: int | None = None) -> dict[str, ImageSet]:
    """The train, val and test set, as `pauca fewshot data prepare` makes them, or the first images of each class."""
    folder = Path(os.environ.get("PAUCA_DATA", Path(__file__).parents[2] / "shared" / "data")) / "fewshot"
    prepared = Path(__file__).parent / ".cache" / name
    if not all((prepared / split / "image_set.json").exists() for split in ("train", "val", "test")):
        splits = folder / "splits" / name
        prepare_benchmark(name, folder / "cifar100", prepared, splits=splits, force=True)
    splits = load_splits(prepared)
    return splits if images_per_class is None else {s: thinned(i, images_per_class) for s, i in splits.items()}


def thinned(images: ImageSet, images_per_class: int) -> ImageSet:
    """The first images of each class."""
    places = [(images.labels == label).nonzero()[:images_per_class, 0] for label in range(len(images.class_names))]
    return images.at(torch.cat(places).tolist())
