"""From events to velocities: cut a stream into packets, align each, warm-started from the one before."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Float

from pauca.errors import ConfigError, InputError
from pauca.events.adapters import EventsLike, as_events
from pauca.events.camera import Camera
from pauca.events.given import expect, number_of
from pauca.events.gyro_prior import Expected, GyroPrior, combined
from pauca.events.halves import Halves
from pauca.events.history import History
from pauca.events.kernels.bearings import seconds_since
from pauca.events.noise import shows_structure
from pauca.events.packets import Estimate, PacketEstimator, Proof, Still
from pauca.events.recent import Recent, bearings
from pauca.events.recording import Recording, events_of
from pauca.events.score import Scorer
from pauca.events.settings import AlignConfig
from pauca.events.types import Alignment, Events, Packet, Status
from pauca.events.windows import Cut, Flow, joined

_FEWEST_EVENTS = 50  # below, a packet is DEGENERATE: noise alone aligns as well
_FORGOTTEN = 5  # a packet that follows the last by more than so many times its duration starts from rest
_SHORTEST_HALF_US = 12_000  # a packet in which a motion starts or stops is halved down to this
_MUCH_LONGER = 1.3  # times as many events: what the motion found asks for, for a packet to be aligned again
_SHARED = 6  # times as many events as are new: packets that a window leads on to from the one before
_PROVEN = 2  # durations of a packet that moved beyond doubt, after which windows are compared with rest again
_MOST_LED_ON = 128  # windows by one curvature: of 400, 20 of 2,739 were off by 4 deviations, and none of 160
_UNEVEN = 2  # times as many events in one half as in the other: there a motion may start or stop


class _Known(Enum):
    """What is known of a stream's end, when a packet is cut."""

    ALL = auto()  # the stream ends with these events
    ALL_BUT_END = auto()  # more will come, and packets are to be those of the whole stream
    SO_FAR = auto()  # more will come, and packets are wanted as soon as they end


class _MoreNeeded(Exception):
    """Where a packet ends depends on events to come."""


@dataclass(frozen=True, eq=False)
class Memory:
    """What an aligner knows of the packets before: where the search for the next begins, and where it is cut."""

    last: Alignment | None
    shape: Float[np.ndarray, "n n"] | None
    flow: Flow | None
    history: History | None = None


@dataclass(eq=False)
class Aligner:
    """Aligns windows one after the other, as they come: for a loop of one's own, or a live camera.

    >>> aligner = Aligner(camera)
    >>> for events in live:  # any windows of events
    ...     velocity = aligner.align(events).velocity

    An aligner remembers the motion and holds images: give each thread its own.
    """

    camera: Camera
    config: AlignConfig = AlignConfig()  # noqa: RUF009 - immutable
    prior: GyroPrior | None = None  # what a gyroscope beside the camera shows
    _estimator: PacketEstimator = field(init=False, repr=False)
    _halves: Halves = field(init=False, repr=False)
    _cut: Cut = field(init=False, repr=False)
    _history: History | None = field(default=None, init=False, repr=False)
    _last: Alignment | None = field(default=None, init=False, repr=False)
    _shape: Float[np.ndarray, "n n"] | None = field(default=None, init=False, repr=False)
    _flow: Flow | None = field(default=None, init=False, repr=False)
    _waiting: Events | None = field(default=None, init=False, repr=False)
    _asked: dict[tuple[int, int, int], tuple[Packet, Still]] = field(default_factory=dict, init=False, repr=False)
    _recent: Recent = field(init=False, repr=False)
    _proof: Proof | None = field(default=None, init=False, repr=False)
    _proven: tuple[Proof, int] | None = field(default=None, init=False, repr=False)  # of a window; until when it holds
    _busy: Lock = field(default_factory=Lock, init=False, repr=False)
    _pushing: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        expect(self.camera, Camera)
        expect(self.config, AlignConfig)
        if self.prior is not None:
            expect(self.prior, GyroPrior)
        if self.prior is not None and self.config.motion != "rotation":
            raise ConfigError("a gyroscope tells of rotations; it is no prior of a translation")
        self._estimator = PacketEstimator(self.camera, self.config)
        self._halves = Halves(self._estimator)
        self._cut = self.config.cut(self.camera.size)
        self._recent = Recent(self.camera)
        if self.config.rest_test and self.config.acceleration:
            self._history = History(self._estimator.pixels)

    def __getstate__(self) -> dict[str, Any]:
        """All but the locks: a copy, or what comes out of a pickle, is at work for nobody."""
        return {name: value for name, value in vars(self).items() if name not in ("_busy", "_pushing")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _busy=Lock(), _pushing=Lock())

    def align(self, events: EventsLike) -> Alignment:
        """Velocity at the end of a window of any length. Never fails on the events of a stream: see `Alignment.status`.

        A window that is longer than a packet is cut, and the answer is that of its last packet (`align_all` gives
        every one); a window that is too short to tell is joined with those that came directly before it. The
        answer's `start_us`, `end_us` and `t_us` say of which events it speaks.

        Args:
            events: the window; `Events`, or an array of Metavision or dv-processing (see `as_events`).

        Raises:
            InputError: if the events are from a sensor of another size, another thread is using this aligner, or its
                gyroscope was read before the first events that it sees.
        """
        return self.align_all(events)[-1]

    def align_all(self, events: EventsLike) -> list[Alignment]:
        """The alignments of all packets of a window, in order; see `align`."""
        events = self._checked(events)
        self._check_prior(events)
        with self._alone():
            first, alignments = 0, []
            while first < len(events) or not alignments:
                end = self._cut.end(events.t_us, first, self._flow) if len(events) else 0
                alignments += self._window(events[first:end])
                self._asked.clear()
                first = end
            return alignments

    def packet(self, events: Events | Recording) -> Packet:
        """Bearings and relative times of the events."""
        events = events_of(events)
        start, t_ref_us = int(events.t_us[0]) if len(events) else 0, self._reference_us(events)
        x, y, dt_s = np.empty((3, len(events)), np.float32)
        bearings(events, self.camera, x, y)
        seconds_since(events.t_us, t_ref_us, dt_s)
        return Packet(x, y, dt_s, events.p, t_ref_us, start, start + events.duration_us)

    def _reference_us(self, events: Events) -> int:
        """The time to which a packet of these events is warped."""
        start = int(events.t_us[0]) if len(events) else 0
        return start + (events.duration_us // 2 if self.config.reference == "middle" else 0)

    def score(self, events: Events | Recording, velocity: Float[np.ndarray, "k"]) -> float:
        """What `align` maximizes, at a constant velocity of one's own: to compare with the score it found.

        Raises:
            InputError: a velocity of another number of components than the motion has.
        """
        if np.shape(velocity) != (self._estimator.velocities,):
            raise InputError(f"a {self.config.motion} has {self._estimator.velocities} velocities, got {velocity}")
        return self._estimator.score(self.packet(events), velocity).value

    def images(
        self, events: Events | Recording, alignment: Alignment | None = None
    ) -> Float[np.ndarray, "2 height width"]:
        """Images of the events, OFF and ON, warped by an alignment, or as they are: undistorted, with the border."""
        packet, scorer = self.packet(events), self._estimator.scorer
        if alignment is None:
            return scorer.images(packet, np.zeros(self._estimator.velocities))
        return scorer.images(packet, alignment.velocity, alignment.acceleration)

    def follow(self, events: EventsLike | Iterable[EventsLike], whole: bool = True) -> Iterator[Alignment]:
        """Alignments of a whole stream, one by one as they are found; every event is in one packet.

        A packet that nothing tells from rest waits for the next ones, up to `slowest_s`: a slow motion shows then.

        Args:
            events: the stream, or its parts in order, of any size; the alignments are the same. `Events`, or what
                `as_events` takes.
            whole: whether that is a recording, and not a piece of one, so that a gyroscope (`prior`) must have been
                read meanwhile.

        Raises:
            InputError: it was read at another time; with the last part, where it was read after all of them.
        """
        alone = isinstance(events, EventsLike | str)
        parts = map(self._checked, [events] if alone else expect(events, Iterable))
        if self.prior is not None and whole:
            parts = self.prior.within(parts, ends=alone)
        waiting = None
        for part in parts:
            waiting = part if waiting is None else joined([waiting, part])
            end = yield from self._packets(waiting, _Known.ALL_BUT_END)
            waiting = waiting[end:]
        if waiting is not None:
            yield from self._packets(waiting, _Known.ALL)

    @property
    def scorers(self) -> list[Scorer]:
        """What scores packets, at full, half and quarter resolution."""
        return self._estimator.scorers

    @property
    def pixels(self) -> Float[np.ndarray, "k"]:
        """Pixels a second by which one unit of each velocity moves the average pixel."""
        return self._estimator.pixels

    @property
    def memory(self) -> Memory:
        """What the next packet starts from; setting it takes up a stream where another aligner left it."""
        return Memory(self._last, self._shape, self._flow, self._history)

    @memory.setter
    def memory(self, memory: Memory) -> None:
        self._last, self._shape, self._flow = memory.last, memory.shape, memory.flow
        if memory.history is not None:
            self._history = memory.history

    def push(self, events: EventsLike, deadline_s: int | float = np.inf) -> list[Alignment]:
        """Take in events as they come, and give the packets that end with them: none, one or more.

        Packets are those of `follow`, without what is left at the end: `flush` gives that.

        Args:
            events: what came since the last call, any number; also as an array of Metavision or dv-processing (see
                `as_events`).
            deadline_s: an event waits for its packet's end no longer than this, seconds of the stream's own time. A
                packet that is cut by it may be too short to tell a motion. By default, only a camera at rest is waited
                for, `slowest_s` at most.

        Raises:
            InputError: as of `align`, and if the events are older than those before.
        """
        events = self._checked(events)
        if not number_of("deadline_s", deadline_s) > 0:
            raise InputError(f"deadline_s {deadline_s} must be positive")
        self._check_prior(events)
        with self._alone(pushing=True):
            waiting = self._waiting
            if waiting is not None and len(waiting) and len(events) and events.t_us[0] < waiting.t_us[-1]:
                raise InputError(
                    f"events begin at {events.t_us[0]} us, before the end of those pushed last ({waiting.t_us[-1]} us)"
                )
            return list(self._pushed(events if waiting is None else joined([waiting, events]), deadline_s * 1e6))

    def flush(self) -> list[Alignment]:
        """What is left of the stream that was pushed; another may follow."""
        with self._alone(pushing=True):
            stream, self._waiting = self._waiting, None
            return [] if stream is None else list(self._packets(stream, _Known.ALL))

    def _pushed(self, stream: Events, deadline_us: float) -> Iterator[Alignment]:
        """The packets that have ended, and those that may wait no longer; what is left waits for the next push."""
        first = yield from self._packets(stream, _Known.SO_FAR)
        while first < len(stream) and stream.t_us[-1] - stream.t_us[first] >= deadline_us:
            overdue = self._next(stream, first, _Known.ALL)
            assert overdue is not None  # where all is known, no packet waits
            yield from overdue[1]
            first = yield from self._packets(stream, _Known.SO_FAR, overdue[0])
        self._waiting = stream[first:]

    def _packets(self, events: Events, known: "_Known", first: int = 0) -> Generator[Alignment, None, int]:
        """The packets from event `first` on, as far as they do not depend on events to come; returns where they end."""
        while (step := self._next(events, first, known)) is not None:
            first, alignments = step
            yield from alignments
        return first

    def _next(self, events: Events, first: int, known: "_Known") -> tuple[int, list[Alignment]] | None:
        """End of the packet that begins with event `first`, and its alignments; None if that needs events to come."""
        if first == len(events):
            return None
        with self._alone():
            try:
                end = self._extended(events, first, self._end(events, first, self._flow, known), known)
                before = self._last, self._shape, self._flow, self._history
                alignments = self._pieces(events[first:end])
                if self.config.rest_test and alignments[-1].start_us == events.t_us[first]:  # one piece: its flow
                    try:
                        longer = min(self._end(events, first, self._flow, known), first + self._cut.most)
                    except _MoreNeeded:
                        self._last, self._shape, self._flow, self._history = before
                        raise
                    if longer - first > _MUCH_LONGER * (end - first):
                        self._history = before[-1]  # of packets, each event is in one
                        end, alignments = longer, self._pieces(events[first:longer])
            except _MoreNeeded:
                return None
            self._asked.clear()
        return end, alignments

    def _end(self, events: Events, first: int, flow: Flow | None, known: "_Known") -> int:
        if known is _Known.ALL:
            return self._cut.end(events.t_us, first, flow)
        end, at_last = self._cut.ends(events.t_us, first, flow)
        if end == len(events) or (known is _Known.ALL_BUT_END and end != at_last):
            raise _MoreNeeded
        return end

    def _checked(self, events: EventsLike) -> Events:
        events = as_events(events, self.camera.size)
        if events.size != self.camera.size:
            raise InputError(
                f"events are from a sensor of {events.size} pixels, but the camera is calibrated for {self.camera.size}"
            )
        return events

    def _check_prior(self, events: Events) -> None:
        """Refuse a gyroscope that was read before the first events of all."""
        if self.prior is not None and self._last is None and not self._waiting:
            self.prior.check_begun(events)

    @contextmanager
    def _alone(self, pushing: bool = False) -> Iterator[None]:
        lock = self._pushing if pushing else self._busy
        if not lock.acquire(blocking=False):
            raise InputError("this Aligner is at work in another thread: give each thread an Aligner of its own")
        try:
            yield
        finally:
            lock.release()

    def _extended(self, events: Events, first: int, end: int, known: "_Known") -> int:
        """End of a packet that rests, with as much of what follows as rests, too, or only together shows a motion."""
        longest_us = self.config.slowest_s * 1e6
        while self.config.rest_test and end < len(events) and self._rests(events[first:end]):
            further = self._end(events, end, None, known)
            late = events.t_us[further - 1] - events.t_us[first] > longest_us
            if late or not self._rests(events[end:further]):
                break
            end = further
        return end

    def _rests(self, events: Events) -> bool:
        return not _too_little(events) and self._still(events)[1].rests

    def _still(self, events: Events) -> tuple[Packet, Still]:
        """A packet, and what it says of rest: remembered until it is aligned, since every push asks again."""
        key = int(events.t_us[0]), int(events.t_us[-1]), len(events)
        if key not in self._asked:
            packet = self.packet(events)
            self._asked[key] = packet, self._estimator.still(packet)
        return self._asked[key]

    def _window(self, events: Events) -> list[Alignment]:
        """Align a window, after as many of the events just before it as it needs to tell a motion."""
        if not self.config.rest_test or len(events) == 0:
            return self._pieces(events)
        recent, most = self._recent, self._cut.most
        whole = len(events) >= most and not self._rests(events)  # as long as a packet can be
        if whole:
            recent.drop(len(recent))
        recent.add(events)
        stream = recent.events
        oldest = self._cut.oldest(stream.t_us)
        start, new = 0, len(stream) - len(events)
        if not whole:
            start = min(self._cut.start(stream.t_us, self._flow, alone=True), new)
        few = _SHARED * len(events) <= len(stream) - start
        if not whole and not few:
            start = min(self._cut.start(stream.t_us, self._flow), new)
        slid = self._slid(start) if few else None
        if slid is not None:
            found = [slid]
        else:
            if oldest < start and self._rests(stream[start:]):
                start = oldest
            found = self._pieces(stream[start:])
            last = found[-1]
            proven_us = last.end_us + _PROVEN * (last.end_us - last.start_us)
            until_us = min(proven_us, last.start_us + _MOST_LED_ON * events.duration_us)  # of a packet's beginning
            self._proven = None if self._proof is None else (self._proof, until_us)
        recent.drop(max(oldest, len(stream) - most))
        return found

    def _slid(self, start: int) -> Alignment | None:
        """Align the recent events from `start` on by what the window before has told, which holds most of them; None
        where they need a search of their own."""
        # What a single step may promise is known for the likelihood, and for packets with an acceleration.
        if self._history is None or self.config.objective != "st-ppp" or self.prior is not None:
            return None
        if self._proven is None or self._shape is None:
            return None
        events, (proof, until_us) = self._recent.events[start:], self._proven
        if events.t_us[0] >= until_us or self._uneven(events):
            return None
        packet = self._recent.packet(start, self._reference_us(events))
        expected = self._carried_on(packet)
        if not expected.any():
            return None
        try:
            estimate = self._estimator.slide(packet, expected, self._shape, proof)
            if estimate is None:
                return None
            estimate, history = self._history.judge(packet, estimate)
        except np.linalg.LinAlgError:  # as of `_align`
            return None
        if estimate.status is not Status.CONVERGED or history.asks(packet, estimate):
            return None
        self._history = history
        return self._remember(packet, estimate)

    def _pieces(self, events: Events) -> list[Alignment]:
        """Align a packet, or its halves where a motion starts or stops within."""
        if self._uneven(events):
            halves = _halves(events)
            if self._rests(halves[0]) != self._rests(halves[1]):
                return self._pieces(halves[0]) + self._pieces(halves[1])
        return [self._align(events)]

    def _uneven(self, events: Events) -> bool:
        """Whether a motion may start or stop in the middle of a packet."""
        if not self.config.rest_test or events.duration_us < 2 * _SHORTEST_HALF_US:
            return False
        fewer, more = sorted(len(half) for half in _halves(events))
        return fewer >= _FEWEST_EVENTS and more > _UNEVEN * fewer

    def _align(self, events: Events) -> Alignment:
        if _too_little(events):
            packet = self.packet(events)
            return self._remember(packet, _with_prior(self._estimator.degenerate(), self._told(packet)))
        packet, still = self._still(events)
        told = self._told(packet)
        try:
            estimate = self._estimator.estimate(packet, still, self._expected(packet, told), self._shape)
            if self._history is not None:
                estimate, history = self._history.judge(packet, estimate)
                if history.asks(packet, estimate):
                    disagree = self._halves.disagree(Aligner.packet(self, events), estimate.point)
                    estimate, history = history.answered(packet, estimate, disagree)
                self._history = history
            if estimate.status is Status.REST and shows_structure(events):
                estimate = estimate._replace(status=Status.DISPUTED)
        except np.linalg.LinAlgError:  # curvature of nothing but rounding errors
            estimate = self._estimator.degenerate()
        return self._remember(packet, _with_prior(estimate, told))

    def _told(self, packet: Packet) -> Expected | None:
        """What a gyroscope shows of a packet."""
        if self.prior is None or len(packet) == 0:
            return None
        return self.prior.expected(packet, self.config.acceleration)

    def _expected(self, packet: Packet, told: Expected | None) -> np.ndarray:
        """Velocity and acceleration expected of this packet: the last one's, what a gyroscope shows, or rest."""
        expected = self._carried_on(packet)
        if told is not None and not told.allows(expected[: self._estimator.velocities]):
            expected = np.concatenate([told.velocity, told.acceleration])
        return expected[: self._estimator.parameters]

    def _carried_on(self, packet: Packet) -> np.ndarray:
        """What the last packet found goes on; rest where that is long ago, or was not found."""
        k, last = self._estimator.velocities, self._last
        if last is None or last.status in (Status.DEGENERATE, Status.STALLED):
            return np.zeros(2 * k)
        elapsed_us = packet.t_ref_us - last.t_us
        if not 0 <= elapsed_us <= _FORGOTTEN * (last.end_us - last.start_us):
            return np.zeros(2 * k)
        return np.concatenate([last.velocity + elapsed_us * 1e-6 * last.acceleration, last.acceleration])

    def _remember(self, packet: Packet, estimate: Estimate) -> Alignment:
        k, point = self._estimator.velocities, estimate.point
        middle_us = (packet.start_us + packet.end_us) // 2
        self._shape, self._flow, self._proof = estimate.shape, estimate.flow, estimate.proof
        self._last = Alignment(
            motion=self.config.motion,
            t_us=packet.t_ref_us if self.config.acceleration else middle_us,
            velocity=point[:k],
            acceleration=point[k:] if len(point) > k else np.zeros(k),
            covariance=estimate.covariance,
            score=estimate.value,
            status=estimate.status,
            evaluations=estimate.evaluations,
            t_ref_us=packet.t_ref_us,
            start_us=packet.start_us,
            end_us=packet.end_us,
            n_events=len(packet),
        )
        return self._last


def _with_prior(estimate: Estimate, told: Expected | None) -> Estimate:
    return estimate if told is None else combined(estimate, told)


def _halves(events: Events) -> tuple[Events, Events]:
    """By time."""
    middle = int(np.searchsorted(events.t_us, events.t_us[0] + events.duration_us // 2))
    return events[:middle], events[middle:]


def _too_little(events: Events) -> bool:
    return len(events) < _FEWEST_EVENTS or events.duration_us == 0
