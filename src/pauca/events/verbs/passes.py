"""Passes over a recording that is larger than memory: without what is no event of the scene, from a place on, of some
packets alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pauca.events.hot_pixels import HotPixels
from pauca.events.io import EventStream
from pauca.events.noise import without_noise
from pauca.events.types import Alignment, Events
from pauca.events.windows import joined


@dataclass(eq=False)
class Clean:
    """A stream without the events of hot pixels, and without background noise; each `for` reads it anew."""

    stream: EventStream
    hot: HotPixels | None
    without_noise: bool
    noise: int = 0  # events of background noise that the last pass left out

    def __iter__(self) -> Iterator[Events]:
        if not self.without_noise:
            yield from self._without_hot()
            return
        dropped: list[int] = []
        for chunk in without_noise(self._without_hot(), dropped):
            self.noise = sum(dropped)
            yield chunk

    def _without_hot(self) -> Iterator[Events]:
        for chunk in self.stream:
            kept = None if self.hot is None or not len(self.hot) else self.hot.keep(chunk)
            if kept is None or kept.all():
                yield chunk
            else:
                yield chunk.where(kept)


def after(chunks: Iterable[Events], count: int) -> Iterator[Events]:
    """The chunks, without so many events at their beginning."""
    for chunk in chunks:
        if count < len(chunk):
            yield chunk[count:]
        count = max(0, count - len(chunk))


def windows_of(chunks: Iterable[Events], chosen: dict[int, Alignment]) -> Iterator[tuple[int, Events]]:
    """The events of some packets, from one more pass over the recording."""
    waiting, parts = sorted(chosen), []
    for chunk in chunks:
        parts.append(chunk)
        while waiting and (len(chunk) and chunk.t_us[-1] > chosen[waiting[0]].end_us):
            yield waiting[0], _between(parts, chosen[waiting.pop(0)])
        if not waiting:
            return
        start_us = chosen[waiting[0]].start_us
        parts = [part for part in parts if len(part) and part.t_us[-1] >= start_us]
    for i in waiting:
        yield i, _between(parts, chosen[i])


def _between(parts: list[Events], alignment: Alignment) -> Events:
    return joined([part.between(alignment.start_us, alignment.end_us + 1) for part in parts])
