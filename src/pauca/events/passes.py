"""Passes over a recording that is larger than memory: without what is no event of the scene, from a place on, of some
packets alone, or in pieces of time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from pauca.errors import InputError
from pauca.events.camera import Camera
from pauca.events.given import expect, refusal
from pauca.events.hot_pixels import HotPixels
from pauca.events.io import EventStream
from pauca.events.noise import without_noise
from pauca.events.recording import Recording
from pauca.events.types import Alignment, Events
from pauca.events.windows import joined

Chunks = Recording | Events | Iterable[Events]
"""A recording, in memory or as something that gives its parts in order each time that it is gone through."""


def parts_of(recording: Chunks) -> Iterable[Events]:
    """The events, part by part; an `EventStream`, a `Clean` or a list can be gone through more than once."""
    if isinstance(recording, Recording):
        return [recording.events]
    if isinstance(recording, Events):
        return [recording]
    if isinstance(recording, np.ndarray | str) or not isinstance(recording, Iterable):
        raise refusal(recording, "Recording")
    return [expect(part, Events) for part in recording] if isinstance(recording, Sequence) else recording


@dataclass(eq=False)
class Clean:
    """A stream without the events of hot pixels, and without background noise; each `for` reads it anew."""

    stream: EventStream
    hot: HotPixels | None
    without_noise: bool
    noise: int = 0  # events of background noise that the last pass left out

    @property
    def camera(self) -> Camera | None:
        """The calibration, where the file has one."""
        return self.stream.camera

    @property
    def no_camera(self) -> str:
        """Why the calibration in the file is not taken over, where there is one."""
        return self.stream.no_camera

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


def pieces_between(chunks: Iterable[Events], edges_us: Int64[np.ndarray, "n"]) -> Iterator[Events]:
    """The events from each edge to before the next, n - 1 pieces, in memory for one piece and one chunk.

    Args:
        chunks: the events in order.
        edges_us: increasing times.

    Raises:
        InputError: there are no events at all.
    """
    edges, i, waiting = edges_us.tolist(), 0, None
    for chunk in chunks:
        waiting = chunk if waiting is None else joined([waiting, chunk])
        first = 0
        while len(waiting) and i + 1 < len(edges) and waiting.t_us[-1] >= edges[i + 1]:
            first, end = np.searchsorted(waiting.t_us, edges[i : i + 2]).tolist()
            yield waiting[first:end]
            first, i = end, i + 1
        if i + 1 >= len(edges):
            return
        waiting = waiting[max(first, int(np.searchsorted(waiting.t_us, edges[i]))) :]  # what is before is in no piece
    if waiting is None:
        raise InputError("the recording holds no events")
    while i + 1 < len(edges):
        yield waiting.between(edges[i], edges[i + 1])
        i += 1


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
