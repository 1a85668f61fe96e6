"""Several recordings in one call: files and folders, of which one that fails does not stop the others."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.events.io.npy import holds_something_else

ENDINGS = (
    *(".txt", ".csv", ".txt.gz", ".csv.gz", ".npz", ".npy", ".h5", ".hdf5", ".raw", ".dat"),
    *(".aedat", ".aedat2", ".aedat4", ".bag", ".db3", ".mcap", ".es", ".bin"),
)
"""Endings by which recordings are found in a folder; a file that is named is read whatever its ending."""

_BESIDE = (
    *("calib.txt", "imu.txt", "images.txt", "groundtruth.txt", "readme.txt", "trajectory.csv", "trajectory.npz"),
    *("recordings.csv", "results.csv"),  # of `align` and `benchmark`, whose output folder may be the recordings' own
)


_FILES = (".png", ".pdf", ".svg", ".gif", ".mp4", ".csv", ".npz", ".txt", ".json")


def output_folder(out: Path | None, default: Path) -> Path:
    """Where results go.

    Raises:
        ConfigError: a name that is meant for a single file, of which a folder would be made.
    """
    if out is not None and out.suffix.lower() in _FILES and not out.is_dir():
        raise ConfigError(f"--out {out} looks like a file, and results are several: name a folder for them")
    return out or default


def is_recording(path: Path) -> bool:
    """Whether a path is one recording: a file, or the folder of a ROS 2 bag."""
    return not path.is_dir() or (path / "metadata.yaml").is_file()


def stem(recording: Path) -> str:
    """`boxes_rotation/events.txt.gz` is called events, after the file without its endings."""
    return recording.name.split(".")[0] or "recording"


def facts(path: Path | None) -> list[Any] | None:
    """Name, size and time of change of a file, of a folder those of the files in it: what tells it from another one.

    Raises:
        InputError: it is not there.
    """
    if path is None:
        return None
    if path.is_dir():
        return [path.name, *(facts(child) for child in sorted(path.iterdir()) if child.is_file())]
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return [path.name, stat.st_size, stat.st_mtime_ns]


def recordings_in(path: Path) -> list[Path]:
    """The recordings below a folder, in order of their names; a path that is a recording itself stands alone.

    Raises:
        InputError: a folder without recordings.
    """
    if is_recording(path):
        return [path]
    bags = [child.parent for child in path.rglob("metadata.yaml")]
    files = [
        child
        for child in path.rglob("*")
        if child.is_file()
        and child.name.lower().endswith(ENDINGS)
        and child.name.lower() not in _BESIDE
        and not (child.suffix.lower() == ".npy" and holds_something_else(child))
    ]
    found = sorted([*bags, *(file for file in files if file.parent not in bags)])
    if not found:
        raise InputError(f"{path}: no recording in this folder; their names end in {', '.join(ENDINGS)}")
    return found


def expanded(paths: Sequence[Path]) -> list[Path]:
    """All recordings of files and folders, each once.

    Raises:
        InputError: a folder without recordings, or no path at all.
    """
    if not paths:
        raise InputError("no recording is named")
    return list(dict.fromkeys(found for path in paths for found in recordings_in(path)))


def for_each(paths: Sequence[Path], work: Callable[[Path], None]) -> None:
    """Do the work for each recording; what fails is one line on standard error, and the others go on.

    Raises:
        PaucaError: at the end, where some failed; of a single recording the error itself.
    """
    failed = 0
    for path in paths:
        try:
            work(path)
        except PaucaError as error:
            if len(paths) == 1:
                raise
            failed += 1
            print(f"pauca: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    if failed:
        raise PaucaError(f"{failed} of {len(paths)} recordings failed; the others are done")
