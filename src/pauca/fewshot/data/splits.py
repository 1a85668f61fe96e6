"""Which class, or which file, belongs to which split: the split files that come with benchmarks.

The lists are other people's work and are not part of pauca. They are read from files: text with a class a line, JSON
(a list, `{"class_names": [...]}`, pairs of superclass and class, or alphabets with their characters), or CSV with
columns filename and label, also gzipped.
"""

import csv
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pauca.errors import InputError
from pauca.fewshot.types import ImageSet

SPLITS = ("train", "val", "test")
_SUFFIXES = (".txt", ".json", ".csv", ".csv.gz")


@dataclass(frozen=True)
class SplitLists:
    """The classes of each split and, where the lists name files, the class of each file."""

    classes: dict[str, tuple[str, ...]]
    files: dict[str, dict[str, str]]  # empty where the lists name classes only

    def __post_init__(self):
        seen: dict[str, str] = {}
        for split, names in self.classes.items():
            for name in names:
                if seen.setdefault(name, split) != split:
                    raise InputError(
                        f"class {name} is in the lists of both {seen[name]} and {split}; "
                        "few-shot splits must share no class"
                    )

    def apply(self, images: ImageSet) -> dict[str, ImageSet]:
        """An image set for each split, by class name."""
        return {split: images.only(names, split) for split, names in self.classes.items()}


def read_split_lists(where: Path) -> SplitLists:
    """Read the lists for train, val and test.

    Args:
        where: a folder with train, val and test lists, or a path with `*` for the name of the split, such as
            `splits/cub/feat_*.csv.gz`, to choose among several lists in one folder.

    Raises:
        InputError: lists missing, several to choose from, unreadable, or sharing a class.
    """
    paths = {split: _list_path(where, split) for split in SPLITS}
    classes, files = {}, {}
    for split, path in paths.items():
        text = _read_text(path)
        if ".csv" in path.suffixes:
            files[split] = _from_csv(path, text)
            classes[split] = tuple(dict.fromkeys(files[split].values()))
        else:
            classes[split] = tuple(text.split("\n")) if path.suffix == ".txt" else _from_json(path, text)
        classes[split] = tuple(name.strip() for name in classes[split] if name.strip())
        if not classes[split]:
            raise InputError(f"{path}: names no classes")
    return SplitLists(classes, files)


def _list_path(where: Path, split: str) -> Path:
    if "*" in where.name:
        path = where.with_name(where.name.replace("*", split))
        if not path.is_file():
            raise InputError(f"{path}: no such list of classes")
        return path
    exact = [where / f"{split}{suffix}" for suffix in _SUFFIXES if (where / f"{split}{suffix}").is_file()]
    if len(exact) == 1:
        return exact[0]
    found = exact or sorted(path for path in where.glob(f"*{split}*") if path.name.endswith(_SUFFIXES))
    choice = " or ".join(str(path.with_name(path.name.replace(split, "*"))) for path in found)
    remedy = f"choose with {choice}" if found else f"expected {split} with one of {' '.join(_SUFFIXES)}"
    raise InputError(f"{where}: no single list for {split}: {remedy}")


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as a list of classes ({error})") from error


def _from_csv(path: Path, text: str) -> dict[str, str]:
    rows = csv.reader(text.splitlines())
    header = [column.strip() for column in next(rows, [])]
    if header[:2] != ["filename", "label"]:
        raise InputError(f"{path}: the first line is {','.join(header)!r}; expected the columns filename,label")
    return {row[0].strip(): row[1].strip() for row in rows if len(row) >= 2}


def _from_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        return tuple(_names(json.loads(text)))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a list of classes ({error})") from error


def _names(value: Any) -> list[str]:
    if isinstance(value, dict) and "class_names" in value:
        value = value["class_names"]
    if isinstance(value, dict):  # {"background": {alphabet: [characters]}, "evaluation": {...}}
        return [f"{alphabet}/{name}" for part in value.values() for alphabet, names in part.items() for name in names]
    return [entry if isinstance(entry, str) else str(entry[-1]) for entry in value]
