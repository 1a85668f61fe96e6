"""Making image sets, and the cache that keeps them decoded."""

import hashlib
import json
import warnings
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from pauca.errors import InputError, level_outside
from pauca.fewshot.data.arrays import Fitting, split_batch
from pauca.fewshot.data.folder import (
    EmptyFoldersWarning,
    Listing,
    UnlabeledImagesWarning,
    Unreadable,
    fingerprint_files,
    list_folder,
    read_files,
)
from pauca.fewshot.types import ImageSet, shared_classes
from pauca.runs import atomic_write, sha256_of, write_text

_DESCRIPTION = "image_set.json"
_VERSION = 1


def read_images(
    path: Path | str,
    size: int | None = None,
    channels: int = 3,
    split: str | None = None,
    unreadable: Unreadable = "refuse",
    cache: Path | str | None = None,
    fitting: Fitting = "crop",
    quiet: bool = True,
    listing: Listing | None = None,
) -> ImageSet:
    """Read labeled images: a folder or zip archive with a folder for each class, or a set that was saved.

    Args:
        path: what to read.
        size: side of the square that each image is fitted to; None takes images that all have one size as they are.
        channels: 3 for RGB, 1 for gray.
        split: read only the images below the folder `train`, `val` or `test`; None reads all.
        unreadable: stop at damaged files and name them, or leave them out.
        cache: folder that keeps the decoded pixels; read again when the files and arguments are unchanged.
        fitting: how images that are not square are fitted: `crop` (shorter side scaled, center kept) or `squash`.
        quiet: show no progress.
        listing: what `path` holds, where that is known already.

    Raises:
        InputError: nothing to read, damaged files, images outside class folders.
    """
    path = Path(path)
    if is_saved_set(path):
        return load_image_set(path)
    listing = listing or list_folder(path)
    listing = listing if split is None else listing.of(split)
    files = listing.files
    labeled = [file for file in files if file.class_name]
    if not labeled:
        found = (
            f"only images without a class folder, such as {files[0].name}" if files else f"no images of split {split}"
        )
        raise InputError(f"{path}: holds {found}; put the images of each class in a folder of its name")
    if loose := [file.name for file in files if not file.class_name]:
        count = f"{len(loose)} images, first {loose[0]}, which lie" if len(loose) > 1 else f"{loose[0]}, which lies"
        said = f"left out {count} in no class folder; put the images of each class in a folder of its name"
        warnings.warn(said, UnlabeledImagesWarning, stacklevel=level_outside())
    if listing.empty:
        warnings.warn(describe_empty(listing.empty), EmptyFoldersWarning, stacklevel=level_outside())
    request = f"{fingerprint_files(labeled)} {size} {channels} {unreadable} {fitting}"
    cached = Path(cache) / hashlib.sha256(request.encode()).hexdigest()[:16] if cache else None
    if cached and is_saved_set(cached):
        return load_image_set(cached)
    pixels, kept = read_files(labeled, size, channels, unreadable, fitting, quiet)
    labels, names = number_labels([file.class_name for file in kept])
    sources = tuple(file.name for file in kept)
    images = ImageSet(pixels, labels, names, split or "all", path.stem, sources, fitting if size else None)
    if cached:
        save_image_set(cached, images)
    return images


def describe_empty(folders: Sequence[str]) -> str:
    """What to do about folders without images, in words."""
    if len(folders) == 1:
        return f"{folders[0]}: holds no images and is no class; put some there, or remove the folder"
    return (
        f"{folders[0]} and {len(folders) - 1} more: hold no images and are no classes; put some there, or remove the "
        "folders"
    )


def image_set_from_arrays(
    images: Shaped[np.ndarray, "n *rest"] | Shaped[Tensor, "n *rest"],
    labels: Sequence[Hashable] | np.ndarray | Tensor,
    name: str = "images",
    split: str = "all",
) -> ImageSet:
    """An image set from arrays, with labels of any kind: {3, 7} become classes named "3" and "7".

    Args:
        images: n x h x w (gray), n x h x w x 3 or n x 3 x h x w; 8 or 16 bits, floating from 0 to 1, or booleans.
        labels: one an image; the sorted distinct labels become the classes.
        name: what to call the set.
        split: what to call its split.

    Raises:
        InputError: another shape, or values that are not finite or out of range, naming the first such image.
    """
    pixels = split_batch(images, name).transpose(0, 3, 1, 2)
    if pixels.shape[1] not in (1, 3):
        raise InputError(
            f"{name}: an array of shape {tuple(images.shape)} is no set of images; give n x h x w, n x h x w x 3 or "
            "n x 3 x h x w"
        )
    listed = labels.tolist() if isinstance(labels, np.ndarray | Tensor) else list(labels)
    numbers, names = number_labels(listed)
    return ImageSet(torch.from_numpy(np.ascontiguousarray(pixels)), numbers, names, split, name)


def number_labels(labels: Sequence[Hashable]) -> tuple[Tensor, tuple[str, ...]]:
    """Labels of any kind as numbers from 0, and the class names in that order (numbers by value, others by name)."""
    distinct = set(labels)
    numeric = all(isinstance(label, int | float) for label in distinct)
    ordered = sorted(distinct) if numeric else sorted(distinct, key=str)  # pyright: ignore[reportArgumentType]
    number = {label: i for i, label in enumerate(ordered)}
    return torch.tensor([number[label] for label in labels], dtype=torch.int64), tuple(map(str, ordered))


def save_image_set(folder: Path, images: ImageSet, force: bool = False) -> None:
    """Write an image set for `load_image_set` to map: images.npy, labels.npy and a description with checksums."""
    arrays = {"images.npy": images.images.cpu().numpy(), "labels.npy": images.labels.cpu().numpy()}
    checksums = {}
    for file, array in arrays.items():
        with atomic_write(folder / file, force) as temporary:
            np.save(temporary, array)
            checksums[file] = sha256_of(temporary)
    description = {
        "version": _VERSION,
        "name": images.name,
        "split": images.split,
        "class_names": images.class_names,
        "sources": images.sources,
        "fitting": images.fitting,
        "content": images.content,
        "sha256": checksums,
    }
    write_text(folder / _DESCRIPTION, json.dumps(description, indent=1), force)


def is_saved_set(path: Path) -> bool:
    """Whether `save_image_set` wrote there."""
    return (path / _DESCRIPTION).is_file()


def load_image_set(folder: Path) -> ImageSet:
    """Map an image set that `save_image_set` wrote; the pixels stay on disk until they are used.

    Raises:
        InputError: a file is missing, damaged, or of a newer version.
    """
    try:
        description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        if description["version"] != _VERSION:
            raise InputError(f"{folder}: written as version {description['version']}, this pauca reads {_VERSION}")
        for file, expected in description["sha256"].items():
            if sha256_of(folder / file) != expected:
                raise InputError(f"{folder / file}: damaged (its sha256 changed); prepare the data again")
        # Mode "c", copy on write, because torch warns of arrays that cannot be written.
        pixels = np.load(folder / "images.npy", mmap_mode="c")
        labels = np.load(folder / "labels.npy")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: no complete image set ({error}); prepare the data again") from error
    return ImageSet(
        torch.from_numpy(pixels),
        torch.from_numpy(labels),
        tuple(description["class_names"]),
        description["split"],
        description["name"],
        tuple(description["sources"]),
        description.get("fitting"),
        description.get("content", "photographs"),
    )


def load_splits(folder: Path | str) -> dict[str, ImageSet]:
    """The image sets of a prepared data set, by split: "train", "val" and "test"."""
    found = sorted(path.parent for path in Path(folder).glob(f"*/{_DESCRIPTION}"))
    if not found:
        raise InputError(f"{folder}: holds no prepared data; make it with `pauca fewshot data prepare`")
    return {path.name: load_image_set(path) for path in found}


def check_disjoint(train: ImageSet, test: ImageSet) -> None:
    """Refuse to evaluate on what was trained on: no class name and no image, pixel for pixel, may be in both sets.

    Raises:
        InputError: how many classes or images are shared, and the first by name.
    """
    classes = shared_classes(train.class_names, test.class_names)
    if classes:
        raise InputError(
            f"{train.name}/{train.split} and {test.name}/{test.split} share {len(classes)} classes, first "
            f"{classes[0]!r}; few-shot splits must share none, so give each class to one of them"
        )
    seen = {digest: i for i, digest in enumerate(pixel_digests(train.images))}
    shared = [(seen[digest], i) for i, digest in enumerate(pixel_digests(test.images)) if digest in seen]
    if shared:
        first, second = shared[0]
        raise InputError(
            f"{train.name}/{train.split} and {test.name}/{test.split} share {len(shared)} images, first "
            f"{_describe(train, first)} = {_describe(test, second)}; take them out of one for an honest accuracy"
        )


def pixel_digests(images: UInt8[Tensor, "n c h w"]) -> list[bytes]:
    """sha256 of each image's pixels and shape."""
    shape = repr(tuple(images.shape[1:])).encode()
    return [hashlib.sha256(shape + image.tobytes()).digest() for image in images.cpu().numpy()]


def _describe(images: ImageSet, position: int) -> str:
    if images.sources:
        return images.sources[position]
    return f"image {position} ({images.class_names[int(images.labels[position])]})"
