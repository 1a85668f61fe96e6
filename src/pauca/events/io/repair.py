"""Checks and repairs that every format shares: from the blocks of a file to events that can be trusted.

What is small and unmistakable is repaired, counted and reported; what is large or could mean two things is refused.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from pauca.errors import InputError
from pauca.events.camera import Camera
from pauca.events.io.order import InOrder, LoneTimes, Piece
from pauca.events.io.plausible import Clock, check_plausible
from pauca.events.io.sensor import Survey
from pauca.events.io.source import MICROSECONDS, Block, Source, TimeUnit, merged
from pauca.events.recording import Finding, ReadReport, Remedy

MAX_DROPPED_SHARE = 0.1
"""Above this share (and above 10 events) the file or the options are wrong, rather than some events."""

_NO_TIME, _NO_POLARITY = "times that are no finite numbers", "polarities other than 0/1 or -1/1"
_LONE = "single times far from both neighbors"
_TELLING = 1 << 19  # events after which a wrong unit of time shows


@dataclass
class Repair:
    """One pass over a file's events: `run` yields them checked and in order, and counts what it had to do.

    Args:
        source: the file's header.
        path: the file, for messages.
        given_size: width and height that the user gave; None to take them from the file, or to guess.
        sort: put events in order of time, however far they are out of it.
        seen: a look at all blocks, for a source that is not `plain` or has no size.
    """

    source: Source
    path: Path
    given_size: tuple[int, int] | None
    sort: bool
    seen: Survey | None
    found: list[Finding] = field(default_factory=list)  # by the decoder, in this pass
    _dropped: dict[str, list] = field(default_factory=dict)  # reason: count, first place

    def __post_init__(self) -> None:
        self._notes: list[Finding] = []
        if self.seen is not None and self.seen.signed:
            self._notes.append(Finding(Remedy.NOTED, "polarity -1/1 read as 0/1"))
        self._off = -1 if self._notes else 0
        self.size = self._sensor_size(self.given_size)
        self.undistorted = self.seen is not None and self.seen.fractions
        self.no_camera = self.source.no_camera
        self.camera = self._camera()
        self._clock, self._events_seen = Clock(), 0
        self._lone = LoneTimes(lambda n, at: self._drop(_LONE, n, at))
        self._order = InOrder(self.path, self.sort, self._check_share)

    def run(self, blocks: Iterable[Block]) -> Iterator[tuple[np.ndarray, ...]]:
        """Columns t (int64 us), x, y (uint16 or float32) and p (uint8), in order of time and piece by piece.

        Raises:
            InputError: where columns do not fit together, times jump back far, and, at the end, where too much was
                dropped or the rate of events is one that no camera has.
        """
        for block in merged(blocks, self.path):
            piece = self._understood(block)
            for steady in [piece] if self.sort else self._lone.push(piece):
                yield from self._told(self._order.push(steady))
        for steady in self._lone.finish():
            yield from self._told(self._order.push(steady))
        yield from self._told(self._order.finish())
        self._check_all()

    def report(self) -> ReadReport:
        """What was met and done; complete after `run`."""
        findings = self.findings()
        return ReadReport(str(self.path), self.source.format, self._found, self._clock.count, findings)

    def findings(self) -> tuple[Finding, ...]:
        reasons = [reason for reason in (_NO_TIME, self._no_pixel, _NO_POLARITY, _LONE) if reason in self._dropped]
        dropped = [Finding(Remedy.DROPPED, reason, *self._dropped[reason]) for reason in reasons]
        order, sorted_ = self._order, []
        if order.steps_back:
            reason = f"times out of order, by up to {order.latest_by_us:,} us: sorted"
            sorted_ = [Finding(Remedy.REPAIRED, reason, order.steps_back, order.first_place)]
        return (*self.source.findings, *self.found, *self._notes, *dropped, *sorted_)

    @property
    def _found(self) -> int:
        """Events in the file, with those that the decoder could not give."""
        lacking = (f.count for f in (*self.source.findings, *self.found) if f.remedy != Remedy.NOTED)
        return self._events_seen + sum(lacking)

    def _told(self, pieces: Iterable[Piece]) -> Iterator[tuple[np.ndarray, ...]]:
        for piece in pieces:
            if len(piece):
                before = self._clock.count
                self._clock.add(piece.t)
                if before < _TELLING <= self._clock.count:  # the end of a long recording would be late to say so
                    self._check_clock()
                yield piece.columns

    def _understood(self, block: Block) -> Piece:
        """Columns as they will be, without what cannot be."""
        start, line = self._events_seen, block.line
        self._events_seen += len(block)

        def place(i: int) -> str:
            return f"event {start + i + 1}" if line is None else f"line {line + i}"

        t_us, no_time = microseconds(block.t, self.source.unit)
        on, no_polarity = _polarity(block.p, self._off)
        bad = {_NO_TIME: no_time, self._no_pixel: self._no_pixels(block.x, block.y), _NO_POLARITY: no_polarity}
        columns: tuple[np.ndarray, ...] = t_us, block.x, block.y, on
        if any(mask is not None and mask.any() for mask in bad.values()):
            kept = np.ones(len(block), bool)
            for reason, mask in bad.items():
                if mask is not None and (count := int(np.count_nonzero(new := mask & kept))):
                    self._drop(reason, count, place(int(np.argmax(new))))
                    kept &= ~new  # each counts for the first reason that meets it
            piece = Piece(*columns, place=place).take(kept)
        else:
            piece = Piece(*columns, place=place)
        pixel = np.float32 if self.undistorted else np.uint16
        piece.x, piece.y = piece.x.astype(pixel, copy=False), piece.y.astype(pixel, copy=False)
        return piece

    @property
    def _no_pixel(self) -> str:
        if self.undistorted:
            return "pixels that are no finite numbers"
        return f"pixels beyond the sensor ({self.size[0]} x {self.size[1]})"

    def _no_pixels(self, x: np.ndarray, y: np.ndarray) -> Bool[np.ndarray, "n"] | None:
        """Which pixels the sensor cannot have; None where all are good."""
        width, height = self.size
        if self.undistorted:
            return ~(np.isfinite(x) & np.isfinite(y))
        if all(
            (pixels.dtype.kind == "u" or (pixels.dtype.kind == "i" and pixels.min(initial=0) >= 0))
            and pixels.max(initial=0) < most
            for pixels, most in ((x, width), (y, height))
        ):
            return None
        return ~((x >= 0) & (y >= 0) & (x < width) & (y < height))  # what is no number is not inside

    def _drop(self, reason: str, count: int, place: str) -> None:
        self._dropped.setdefault(reason, [0, place])[0] += count

    def _sensor_size(self, given: tuple[int, int] | None) -> tuple[int, int]:
        said = self.source.size
        if given and said and tuple(given) != tuple(said):
            raise InputError(
                f"{self.path}: says that its sensor has {said[0]} x {said[1]} pixels, but size {tuple(given)} was given"
            )
        size = given or said
        if size is None:
            assert self.seen is not None  # `needs_survey` says so
            size = self.seen.size
            told = f"sensor size {size[0]} x {size[1]} guessed from the pixels seen"
            self._notes.append(Finding(Remedy.NOTED, told))
        return int(size[0]), int(size[1])

    def _camera(self) -> Camera | None:
        try:
            camera = self.source.camera(self.size)
        except InputError as error:  # the events are as good as without; who needs a camera gives another one
            why = str(error).removeprefix(f"{self.path}: ")
            self.no_camera = f"the calibration in it is unfit ({why})"
            self._notes.append(Finding(Remedy.DROPPED, f"the calibration in it: {why}"))
            return None
        if self.no_camera:
            self._notes.append(Finding(Remedy.NOTED, self.no_camera))
        if camera is not None and self.undistorted and camera != camera.without_distortion:
            told = "pixels have fractions: taken as undistorted, the distortion is ignored"
            self._notes.append(Finding(Remedy.NOTED, told))
            return camera.without_distortion
        return camera

    def _check_share(self) -> None:
        found = self._found - sum(f.count for f in self.found if f.remedy == Remedy.LOST)
        findings = [f for f in self.findings() if f.remedy == Remedy.DROPPED and f.count]
        total = sum(finding.count for finding in findings)
        if total == found or total > max(10, MAX_DROPPED_SHARE * found):
            told = "; ".join(str(finding) for finding in findings)
            shuffled = self._dropped.get(_LONE, [0])[0] > total / 2
            remedy = "sort its events (sort, --sort), or check" if shuffled else "check"
            raise InputError(
                f"{self.path}: {total:,} of {found:,} events are unusable, too many to go on ({told}); "
                f"{remedy} the format, the order of the columns and the size of the sensor"
            )

    def _check_clock(self) -> None:
        source = self.source
        check_plausible(self._clock, self.size, source.said_unit or source.unit, source.unit_is_certain, self.path)

    def _check_all(self) -> None:
        if self._events_seen == 0:
            told = f" ({self.findings()[0]})" if self.findings() else ""
            raise InputError(f"{self.path}: holds no events{told}")
        self._check_share()
        self._check_clock()


def needs_survey(source: Source, size: tuple[int, int] | None) -> bool:
    """Whether a file leaves open what only all of its events tell."""
    return not source.plain or (size is None and source.size is None)


def microseconds(t: np.ndarray, unit: TimeUnit) -> tuple[Int64[np.ndarray, "n"], Bool[np.ndarray, "n"] | None]:
    """Times as int64 microseconds, rounded to the nearest, and where that is impossible (None: nowhere)."""
    factor = MICROSECONDS[unit]
    limit = 2**62 / max(factor, 1.0)
    if t.dtype.kind == "f":
        impossible = ~(np.abs(t) < limit)
        scaled = np.rint(np.where(impossible, 0.0, t).astype(np.float64) * factor)
        return scaled.astype(np.int64), impossible
    if t.dtype.itemsize < 8 and factor <= 1:
        impossible = None
    elif t.dtype.kind == "u":
        impossible = t > np.asarray(limit).astype(np.uint64)
    else:
        integers, impossible = t.astype(np.int64, copy=False), None
        if len(t) and not -limit <= integers.min() <= integers.max() <= limit:
            impossible = (integers > limit) | (integers < -limit)
    integers = t.astype(np.int64, copy=False)
    if unit == "ns":
        return (integers + 500) // 1000, impossible
    if unit == "us":
        return integers, impossible
    return (integers if impossible is None else np.where(impossible, 0, integers)) * int(factor), impossible


def _polarity(p: np.ndarray, off: int) -> tuple[np.ndarray, Bool[np.ndarray, "n"] | None]:
    """1 where ON and 0 where OFF (uint8), and where neither (None: nowhere)."""
    if p.dtype.kind == "b" or (p.dtype == np.uint8 and p.max(initial=0) <= 1):
        return p.view(np.uint8), None
    on = p == 1
    return on.view(np.uint8), ~(on | (p == off))
