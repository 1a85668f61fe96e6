"""Events for another process, in memory that both see: written once, where a pipe copies them twice on each side."""

import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from pauca.events.types import Events
from pauca.events.windows import joined
from pauca.events.workers import Workers

R = TypeVar("R")

_CAN_LEND = hasattr(os, "memfd_create") and Path("/proc/self/fd").exists()  # Linux


@dataclass(frozen=True)
class LentEvents:
    """Events of another process, which it keeps until the work that needs them is done."""

    path: str
    count: int
    pixel: str  # dtype of x and y
    size: tuple[int, int]

    def taken(self) -> Events:
        """The events; changes to them stay in this process."""
        pixel = np.dtype(self.pixel)
        with Path(self.path).open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        kinds, at = {"t_us": np.dtype(np.int64), "x": pixel, "y": pixel, "p": np.dtype(np.uint8)}, 0
        columns = {}
        for name, kind in kinds.items():
            columns[name] = np.frombuffer(memory, kind, self.count, at)
            at += self.count * kind.itemsize
        return Events.checked(**columns, size=self.size)


def lend(parts: Sequence[Events]) -> tuple[Events | LentEvents, Callable[[], None]]:
    """Events, and what to call when they are needed no longer: in shared memory where the system has it."""
    if not _CAN_LEND or not sum(map(len, parts)):
        return joined(parts), lambda: None
    descriptor = os.memfd_create("events")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        for name in ("t_us", "x", "y", "p"):
            for part in parts:
                file.write(np.ascontiguousarray(getattr(part, name)).data)
    path = f"/proc/{os.getpid()}/fd/{descriptor}"
    lent = LentEvents(path, sum(map(len, parts)), parts[0].x.dtype.str, parts[0].size)
    return lent, lambda: os.close(descriptor)


def taken(events: Events | LentEvents) -> Events:
    """What was lent, or the events as they came."""
    return events.taken() if isinstance(events, LentEvents) else events


Item = TypeVar("Item")


def map_lent(
    workers: Workers,
    work: Callable[[Item], R],
    pieces: Iterable[tuple[Sequence[Events], Callable[[Events | LentEvents], Item]]],
    ahead: int = 1,
) -> Iterator[R]:
    """As `Workers.map`, of pieces of events that are lent until their result is there.

    Args:
        workers: who does the work; a single one is this process, which lends nothing.
        work: what each does.
        pieces: for each the parts of its events, in order, and what makes the item of work with them.
        ahead: as of `Workers.map`.
    """
    if workers.count == 1:
        yield from workers.map(work, (made(joined(parts)) for parts, made in pieces))
        return
    ends: list[Callable[[], None]] = []

    def items() -> Iterator[Item]:
        for parts, made in pieces:
            events, end = lend(parts)
            ends.append(end)
            yield made(events)

    try:
        for result in workers.map(work, items(), ahead):
            ends.pop(0)()
            yield result
    finally:
        for end in ends:
            end()
