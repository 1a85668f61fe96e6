"""Recordings in folders: the folder of a recording names what it shows."""

import logging
from dataclasses import dataclass
from pathlib import Path

from pauca.errors import InputError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabeledFile:
    """A recording that has not been read yet."""

    path: Path
    label: str  # the name of its folder; empty for a recording in no folder of its own

    @property
    def name(self) -> str:
        """What to call it in tables."""
        return f"{self.label}/{self.path.name}" if self.label else self.path.name


def list_recordings(folder: Path) -> tuple[LabeledFile, ...]:
    """The recordings of a folder with a folder for each label, or of one without; or one recording.

    Raises:
        InputError: there is no such path, or it holds no recordings.
    """
    if not folder.exists():
        raise InputError(f"{folder}: no such file or folder")
    if _is_recording(folder):
        return (LabeledFile(folder, ""),)
    found = [LabeledFile(path, "") for path in _visible(folder) if _is_recording(path)]
    for inside in _visible(folder):
        if inside.is_dir() and not _is_recording(inside):
            found += [LabeledFile(path, inside.name) for path in _visible(inside) if _is_recording(path)]
    if not found:
        raise InputError(f"{folder}: holds no recordings, neither itself nor in folders that name what they show")
    return tuple(found)


def list_labeled(folder: Path) -> tuple[LabeledFile, ...]:
    """The recordings of a folder with a folder for each label; one without recordings is told.

    Raises:
        InputError: a recording outside such a folder.
    """
    files = list_recordings(folder)
    if loose := [file for file in files if not file.label]:
        raise InputError(
            f"{loose[0].path}: lies in no folder that names what it shows; put it into one, as in "
            f"{folder}/cup/{loose[0].path.name}"
        )
    named = {file.label for file in files}
    for empty in (inside for inside in _visible(folder) if inside.is_dir() and inside.name not in named):
        _log.warning("%s: holds no recordings and is no thing; put some there, or remove the folder", empty)
    return files


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_recording(path: Path) -> bool:
    """A file, a link to none, or the folder of a ROS 2 bag; what is none, `events.read` says."""
    return path.is_file() or not path.exists() or (path / "metadata.yaml").is_file()
