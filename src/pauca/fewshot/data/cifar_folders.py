"""CIFAR-100 as pictures: a folder with a folder of PNG files for each class, or with one mosaic for each class.

`train` is a class of CIFAR-100, so the folder that a picture lies in names its class, whatever is above it.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from pauca.errors import InputError
from pauca.fewshot.data.folder import files_below
from pauca.fewshot.types import ImageSet
from pauca.runs import Progress

SIDE = 32
# As published: superclass, and its five classes.
SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
SUPERCLASS_OF = {name: above for above, names in SUPERCLASSES.items() for name in names.split()}


def find_class_files(source: Path) -> dict[str, list[Path]]:
    """The picture files below `source` by class, in order of class and path; empty where it holds none of CIFAR-100."""
    found: dict[str, list[Path]] = {}
    for path in sorted(files_below(source)):
        name = path.stem if path.suffix == ".webp" else path.parent.name
        if path.suffix.lower() in (".png", ".webp") and name in SUPERCLASS_OF:
            found.setdefault(name, []).append(path)
    return dict(sorted(found.items()))


def read_class_files(files: dict[str, list[Path]], quiet: bool = True) -> ImageSet:
    """The images of each class, from pictures of one image, or mosaics of 32 x 32 tiles, row by row."""
    pixels, labels, sources = [], [], []
    with Progress("read", sum(map(len, files.values())), "pictures", quiet) as progress:
        for label, paths in enumerate(files.values()):
            for path in paths:
                tiles, name = _tiles(path), path.as_posix()
                pixels.append(tiles)
                labels += [label] * len(tiles)
                sources += [name] if len(tiles) == 1 else [f"{name}#{i}" for i in range(len(tiles))]
                progress.advance()
    images = torch.from_numpy(np.concatenate(pixels))
    return ImageSet(images, torch.tensor(labels), tuple(files), name="cifar100", sources=tuple(sources))


def _tiles(path: Path) -> UInt8[np.ndarray, "n 3 32 32"]:
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path}: not a readable picture ({error}); get it again") from error
    height, width = pixels.shape[:2]
    if height % SIDE or width % SIDE:
        raise InputError(f"{path}: {width} x {height} pixels; CIFAR-100 has {SIDE} x {SIDE}, or mosaics of them")
    rows, columns = height // SIDE, width // SIDE
    tiles = pixels.reshape(rows, SIDE, columns, SIDE, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(tiles.reshape(rows * columns, 3, SIDE, SIDE))
