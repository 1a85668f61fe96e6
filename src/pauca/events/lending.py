"""Events for another process, in memory that both see: written once, where a pipe copies them twice on each side."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pauca.events.shared import SharedEvents, new_file
from pauca.events.types import Events
from pauca.events.windows import joined
from pauca.events.workers import Workers

R = TypeVar("R")

_CAN_LEND = hasattr(os, "memfd_create") and Path("/proc/self/fd").exists()  # Linux


class Lender:
    """Memory that is written again when what was lent is needed no longer: new pages take longer than the events."""

    def __init__(self) -> None:
        self._lent: list[int | None] = []  # descriptors in order, None for events that were sent
        self._free: list[int] = []  # those that can be written again

    def lend(self, parts: Sequence[Events]) -> Events | SharedEvents:
        """The parts as one, in shared memory where the system has it."""
        count = sum(map(len, parts))
        if not _CAN_LEND or not count or len({part.x.dtype for part in parts}) > 1:
            self._lent.append(None)
            return joined(parts)
        descriptor = self._free.pop() if self._free else new_file()
        self._lent.append(descriptor)
        return SharedEvents.of([list(parts)], descriptor)

    def take_back(self) -> None:
        """What was lent first is needed no longer."""
        if self._lent and (descriptor := self._lent.pop(0)) is not None:
            self._free.append(descriptor)

    def close(self) -> None:
        """Let go of the memory, when no other process has it any more."""
        for descriptor in self._lent + self._free:
            if descriptor is not None:
                os.close(descriptor)
        self._lent, self._free = [], []


def taken(events: Events | SharedEvents) -> Events:
    """What was lent, or the events as they came."""
    return events.windows()[0] if isinstance(events, SharedEvents) else events


Item = TypeVar("Item")


def map_lent(
    workers: Workers,
    work: Callable[[Item], R],
    pieces: Iterable[tuple[Sequence[Events], Callable[[Events | SharedEvents], Item]]],
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
    lender = Lender()
    try:
        items = (made(lender.lend(parts)) for parts, made in pieces)
        for result in workers.map(work, items, ahead):
            lender.take_back()
            yield result
    finally:
        lender.close()
