"""Events in memory that processes share: the 40 MB of a piece are written once, and not sent through a pipe.

Files of Linux that have no name: nothing is left behind, whatever happens, and no limit of /dev/shm holds.
"""

import io
import os
from dataclasses import dataclass

import numpy as np

from pauca.errors import InputError
from pauca.events.types import Events


def new_file() -> int:
    """A file for `SharedEvents.of`, which the caller closes."""
    return os.memfd_create("pauca-events")


@dataclass(frozen=True)
class SharedEvents:
    """Where windows of events are; another process finds them as long as the file is open in this one."""

    process: int
    file: int
    lengths: tuple[int, ...]
    pixel: str  # dtype of x and y
    size: tuple[int, int]

    @classmethod
    def of(cls, windows: list[list[Events]], file: int) -> "SharedEvents":
        """A copy of windows, each in parts: all of whole pixels, or all of undistorted ones.

        Args:
            windows: at least one event.
            file: a `new_file`, or one that is not read any more, to be written anew.
        """
        lengths = tuple(sum(map(len, parts)) for parts in windows)
        pixel = windows[0][0].x.dtype
        with os.fdopen(os.dup(file), "wb", buffering=0) as out:
            out.seek(0)
            for name, kind in _columns(pixel):
                for part in (part for parts in windows for part in parts):
                    column = getattr(part, name)
                    if column.dtype != kind:
                        raise InputError(f"events with {name} of {kind} cannot be joined with those of {column.dtype}")
                    _write(out, column)
        return cls(os.getpid(), file, lengths, pixel.str, windows[0][0].size)

    def windows(self) -> list[Events]:
        """The windows, which stay when the file is closed; changes to them stay in this process."""
        kinds = _columns(np.dtype(self.pixel))
        n, first, columns, windows = sum(self.lengths), 0, {}, []
        size = n * sum(kind.itemsize for _, kind in kinds)
        memory = np.memmap(
            f"/proc/{self.process}/fd/{self.file}", np.uint8, "c", shape=(size,)
        )  # numba compiles anew for "r"
        for name, kind in kinds:
            end = first + n * kind.itemsize
            columns[name] = np.asarray(memory[first:end]).view(kind)
            first = end
        first = 0
        for length in self.lengths:
            part = {name: column[first : first + length] for name, column in columns.items()}
            windows.append(Events.checked(**part, size=self.size))
            first += length
        return windows


def _columns(pixel: np.dtype) -> tuple[tuple[str, np.dtype], ...]:
    return ("t_us", np.dtype(np.int64)), ("x", pixel), ("y", pixel), ("p", np.dtype(np.uint8))


def _write(out: io.RawIOBase, column: np.ndarray) -> None:
    """All of it: one call writes 2 GB at most."""
    left = np.ascontiguousarray(column).data.cast("B")
    while len(left):
        left = left[out.write(left) :]
