"""A recording chunk by chunk: checked and repaired like a whole one, in memory for a few chunks."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from pauca.errors import InputError
from pauca.events.camera import Camera
from pauca.events.io.repair import Repair, needs_survey
from pauca.events.io.sensor import Survey, survey
from pauca.events.io.source import Block, Source, StartAgain
from pauca.events.recording import Finding, GroundTruth, Inertial, ReadReport, Recording, in_words
from pauca.events.types import Events

_log = logging.getLogger(__name__)

T = TypeVar("T")

CHUNK_EVENTS = 1 << 20
"""Events of a chunk: 14 MB, small beside what an interpreter takes, and large beside what a call costs."""


@dataclass(eq=False)
class EventStream:
    """The events of a file, chunk after chunk, in order of time; each `for` over it reads the file anew.

    >>> stream = open_events("recording.npz")
    >>> for events in stream:
    ...     count += len(events)
    >>> stream.report.summary()
    """

    path: Path
    source: Source
    given_size: tuple[int, int] | None = None
    sort: bool = False
    strict: bool = False
    chunk_events: int = CHUNK_EVENTS
    report: ReadReport | None = field(default=None, init=False)  # of the last pass that came to its end
    _first: Repair = field(init=False, repr=False)
    _seen: Survey | None = field(default=None, init=False, repr=False)
    _warned: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        if needs_survey(self.source, self.given_size):
            self._seen = begun(lambda: survey(self.source.blocks([]), self.path))
        self._first = self._repair()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sensor in pixels."""
        return self._first.size

    @property
    def camera(self) -> Camera | None:
        """The calibration, where the file has one."""
        return self._first.camera

    @property
    def no_camera(self) -> str:
        """Why the calibration in the file is not taken over, where there is one."""
        return self._first.no_camera

    @property
    def undistorted(self) -> bool:
        """Whether pixels are float32, with the lens undone."""
        return self._first.undistorted

    @property
    def ground_truth(self) -> GroundTruth | None:
        """The true rotation, where the file has one."""
        return self.source.ground_truth

    @property
    def inertial(self) -> Inertial | None:
        """Samples of an inertial sensor; complete after a pass over the events."""
        return self.source.inertial

    @property
    def frame_times_us(self) -> np.ndarray | None:
        """Times of ordinary images; complete after a pass over the events."""
        return self.source.frame_times_us

    def __iter__(self) -> Iterator[Events]:
        repair = self._repair()
        for columns in chunked(repair.run(self.source.blocks(repair.found)), self.chunk_events):
            yield Events.checked(*columns, size=self.size)
        self._conclude(repair)

    def recording(self) -> Recording:
        """All of it at once, as `read` gives it."""
        repair = self._repair()
        pieces = list(repair.run(self.source.blocks(repair.found)))
        columns = (np.concatenate(column) for column in zip(*pieces, strict=True))
        events = Events.checked(*columns, size=self.size)
        self._conclude(repair)
        return self.around(events)

    def _repair(self) -> Repair:
        return Repair(self.source, self.path, self.given_size, self.sort, self._seen)

    def around(self, events: Events) -> Recording:
        """A recording of these events, with what else the file holds and says; after a pass."""
        return Recording(
            events,
            self.camera,
            self.path.name,
            in_words(self.report.findings) if self.report else (),
            self.report,
            self.ground_truth,
            self.inertial,
            self.frame_times_us,
            self._first.no_camera,
        )

    def _conclude(self, repair: Repair) -> None:
        self.report = repair.report()
        if self.strict and not self.report.clean:
            raise InputError(f"{self.report.summary()}; refused, because strict reading was asked for")
        if not self.report.clean and not self._warned:
            _log.warning("%s", self.report.summary())
            self._warned = True


def read_whole(
    path: Path, source: Source, given_size: tuple[int, int] | None = None, sort: bool = False, strict: bool = False
) -> Recording:
    """All events of a source at once, decoded once."""
    if needs_survey(source, given_size):
        found: list[Finding] = []
        blocks = begun(lambda: _collected(source, found))

        def again(findings: list[Finding]) -> Iterator[Block]:
            findings += found
            yield from blocks

        source.blocks = again
    return EventStream(path, source, given_size, sort, strict).recording()


def _collected(source: Source, found: list[Finding]) -> list[Block]:
    found.clear()
    return list(source.blocks(found))


def begun(look: Callable[[], T]) -> T:
    """A first look at a source, once more where its decoder finds that it took the file for something else."""
    try:
        return look()
    except StartAgain:
        return look()


def chunked(pieces: Iterator[tuple[np.ndarray, ...]], most: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Columns in pieces of exactly so many events, but for the last, which also comes before an error."""
    waiting: list[tuple[np.ndarray, ...]] = []
    held, refusal = 0, None
    while True:
        try:
            piece = next(pieces, None)
        except InputError as error:
            piece, refusal = None, error
        if piece is None:
            break
        while held + len(piece[0]) >= most:
            cut = most - held
            yield _joined([*waiting, tuple(column[:cut] for column in piece)])
            piece = tuple(column[cut:] for column in piece)
            waiting, held = [], 0
        if len(piece[0]):
            waiting.append(piece)
            held += len(piece[0])
    if waiting:
        yield _joined(waiting)
    if refusal is not None:
        raise refusal


def _joined(pieces: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return pieces[0] if len(pieces) == 1 else tuple(np.concatenate(column) for column in zip(*pieces, strict=True))
