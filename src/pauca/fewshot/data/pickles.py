"""Data sets that were published as Python pickles, read without running what a pickle may hide.

Pickles can call any function on loading. This reader allows what these files need and nothing else: dicts, lists,
tuples, strings, numbers, bytes and numpy arrays.
"""

import pickle
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pauca.errors import InputError
from pauca.fewshot.data.arrays import Fitting
from pauca.fewshot.data.decode import decode_array
from pauca.fewshot.data.image_set import image_set_from_arrays, number_labels
from pauca.fewshot.types import ImageSet
from pauca.runs import Progress

# Old files name numpy.core, new ones numpy._core; codecs.encode is how Python 2 bytes travel in newer protocols.
_ALLOWED = {
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it wants to load {module_name}.{global_name}, which no image data needs")
        return super().find_class(module_name, global_name)


def read_pickle(file: Path | BufferedReader, name: str) -> Any:
    """Load plain data from a pickle; strings of Python 2 become bytes or Latin-1 text.

    Raises:
        InputError: the file is damaged, or wants anything but plain data and numpy arrays.
    """
    try:
        if isinstance(file, Path):
            with file.open("rb") as opened:
                return _PlainUnpickler(opened, encoding="latin1").load()
        return _PlainUnpickler(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file") from error
    except Exception as error:  # damaged pickles raise nearly anything
        raise InputError(f"{name}: not a pickle of plain data ({error}); get the original again") from error


def read_labeled_pickle(path: Path, split: str, name: str) -> ImageSet:
    """A pickle in the layout of MetaOptNet: {"data": uint8 n x h x w x 3, "labels": n numbers}.

    Classes are named by the file's own `catname2label` where it has one, else by number.
    """
    content = read_pickle(path, str(path))
    if not isinstance(content, dict) or not {"data", "labels"} <= content.keys():
        raise InputError(f'{path}: holds no {{"data", "labels"}}; expected the layout of the MetaOptNet pickles')
    names = {number: label for label, number in (content.get("catname2label") or {}).items()}
    labels = [names.get(number, int(number)) for number in content["labels"]]
    return image_set_from_arrays(np.asarray(content["data"]), labels, name, split)


def read_encoded_pickle(
    images: Path,
    labels: Path,
    split: str,
    name: str,
    size: int | None,
    fitting: Fitting = "crop",
    quiet: bool = True,
) -> ImageSet:
    """Two pickles in the layout of tieredImageNet: a list of encoded images, and {"label_specific", ...}."""
    encoded = read_pickle(images, str(images))
    content = read_pickle(labels, str(labels))
    if (
        not isinstance(content, dict)
        or "label_specific" not in content
        or len(content["label_specific"]) != len(encoded)
    ):
        raise InputError(f"{labels}: holds no label_specific for each of the {len(encoded)} images of {images.name}")
    names = content.get("label_specific_str")
    numbers = [int(number) for number in content["label_specific"]]
    decoded = []
    with Progress("read", len(encoded), f"images of {split}", quiet) as progress:
        for i, image in enumerate(encoded):
            decoded.append(decode_array(bytes(image), size, 3, f"{images}: image {i}", fitting))
            progress.advance()
    pixels = np.stack(decoded)
    labeled, ordered = number_labels(numbers)
    class_names = tuple(str(names[int(number)]) for number in ordered) if names is not None else ordered
    return ImageSet(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labeled, class_names, split, name, (), fitting
    )
