"""What a command's word for data may mean: a prepared data set, class folders, a zip archive, or glyphs."""

from collections.abc import Sequence
from pathlib import Path

from pauca.errors import InputError
from pauca.fewshot.data.arrays import Fitting
from pauca.fewshot.data.folder import list_folder
from pauca.fewshot.data.glyphs import draw_glyphs
from pauca.fewshot.data.image_set import check_disjoint, load_splits, read_images
from pauca.fewshot.types import ImageSet


def open_splits(
    data: str, size: int, channels: int, fitting: Fitting, wanted: Sequence[str], quiet: bool = True
) -> dict[str, ImageSet]:
    """The wanted splits of a source, as far as it has them; `all` where it has no splits.

    Args:
        data: a prepared data set, a folder or zip archive with a folder for each class, or `glyphs`.
        size: side of the images; a prepared data set keeps its own, as it does its channels and fitting.
        channels: 3 for RGB, 1 for gray.
        fitting: `crop` or `squash`.
        wanted: names of splits.
        quiet: show no progress.

    Raises:
        InputError: nothing there to read, or damaged files.
    """
    if data == "glyphs":
        return {name: draw_glyphs(name, size=size) for name in wanted}  # type: ignore[arg-type]
    path = Path(data)
    if any(path.glob("*/image_set.json")):
        return load_splits(path)
    listing = list_folder(path)
    found = {file.split for file in listing.files}
    if found == {"all"}:
        return {"all": read_images(path, size, channels, fitting=fitting, quiet=quiet, listing=listing)}
    return {
        name: read_images(path, size, channels, name, fitting=fitting, quiet=quiet, listing=listing)
        for name in wanted
        if name in found
    }


def open_training(
    data: str, size: int, channels: int, fitting: Fitting, quiet: bool = True
) -> tuple[ImageSet, ImageSet | None]:
    """Training and, where there are any, validation images, which share no class and no image."""
    splits = open_splits(data, size, channels, fitting, ("train", "val"), quiet)
    if "train" not in splits:
        return splits["all"], None
    if "val" in splits:
        check_disjoint(splits["train"], splits["val"])
    return splits["train"], splits.get("val")


def open_test(data: str, size: int, channels: int, fitting: Fitting, split: str, quiet: bool = True) -> ImageSet:
    """The images to test on, after making sure that no training class or image of the same source is among them."""
    splits = open_splits(data, size, channels, fitting, ("train", split), quiet)
    if split in splits:
        if "train" in splits and split != "train":
            check_disjoint(splits["train"], splits[split])
        return splits[split]
    if "all" in splits:
        return splits["all"]
    raise InputError(f"{data}: has no split {split!r}, only {', '.join(splits)}; choose one with --split")
