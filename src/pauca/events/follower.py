"""The velocity of a live stream: of the newest packet at once, and as a function of time a promised delay later."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pauca.errors import ConfigError
from pauca.events.adapters import EventsLike, as_events
from pauca.events.alignment import AlignConfig, Aligner
from pauca.events.camera import Camera
from pauca.events.continuous.blend import Fit
from pauca.events.continuous.estimator import KnottedEvents, is_lost, is_shaken, rest_of
from pauca.events.continuous.fit import KnotEstimator
from pauca.events.continuous.knots import SMOOTH_JERK, knot_density
from pauca.events.continuous.prior import jerk_strength
from pauca.events.given import expect, number_of
from pauca.events.types import Alignment, Events, Status
from pauca.events.whole import window_scorer
from pauca.events.windows import joined

_REMEMBERED_S = 3.0  # of packets, that tell the strength of the jerk
_CALIBRATION = 1.5  # of the covariance: errors of one window have biases that it does not know
_CONFIRMED_US = 30_000  # a window that is disputed counts where a packet so near is, too
_SHORTEST_US = 1000.0  # of an interval between the newest knot and the end of the stream


class _Window(NamedTuple):
    """The window that was fitted last."""

    source: KnottedEvents
    fit: Fit
    rest: Bool[np.ndarray, "intervals"]
    revised: Float[np.ndarray, "knots 3"]  # by how much it changed what the window before had found


@dataclass(eq=False)
class Follower:
    """Follows a stream of events, window by window as they come.

    The newest packet's velocity is known at once (`newest`), but is worst where the motion reverses. The velocity at a
    knot is given when three knots have followed (12 pixels of motion), or when it would be more than `delay_s` late
    with the next call of `push`, and is nearly as good as offline.

    >>> follower = Follower(camera)
    >>> for events in live:
    ...     for knot in follower.push(events):
    ...         control(knot.velocity, knot.covariance)
    """

    camera: Camera
    config: AlignConfig = AlignConfig()  # noqa: RUF009 - immutable
    delay_s: float = 0.02
    """How long a knot may wait for the events that follow, seconds of the stream's own time; more than a window that
    is pushed lasts."""
    newest: Alignment | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        expect(self.camera, Camera)
        replace(
            expect(self.config, AlignConfig), estimator="trajectory"
        )  # says what is wrong with a translation or the contrast
        if not number_of("delay_s", self.delay_s) > 0:
            raise ConfigError(f"delay_s {self.delay_s} must be positive")
        self._aligner = Aligner(self.camera, self.config)
        self._estimator = KnotEstimator(window_scorer(self.camera, self.config), self.config.trajectory)
        self._begin()

    def _begin(self) -> None:
        self._packets: list[Alignment] = []
        self._events: Events | None = None
        self._knots_us: list[float] = []
        self._velocity: dict[float, Float[np.ndarray, 3]] = {}  # what windows have found at the knots that are kept
        self._given_us = -np.inf  # the last knot that was given
        self._passed = 0.0  # share of the way to the next knot
        self._reached_us = 0.0  # how far it was measured
        self._next_jerk = 0.0

    def push(self, events: EventsLike) -> list[Alignment]:
        """Take a window of events in.

        Args:
            events: what came since the last call, of 5 to 10 ms; also what `as_events` takes.

        Returns:
            Velocities at the knots that are known now, in order: none, one or more.
        """
        events = as_events(events, self.camera.size)
        if len(events) == 0:
            return []
        before_us = self._packets[-1].end_us if self._packets else int(events.t_us[0])
        self.newest = self._aligner.align(events)
        self._remember(events, self.newest)
        end_us = int(events.t_us[-1])
        overdue_us = end_us + (end_us - before_us) - self.delay_s * 1e6  # with the next call
        found: list[Alignment] = []
        for time_us in self._place_knots(self.newest):
            self._knots_us = [*self._knots_us, time_us][-self.config.trajectory.window - 1 :]
            found += self._give(self._fit(self._knots_us), overdue_us)
        waits = any(self._given_us < knot <= overdue_us for knot in self._knots_us)
        if waits and self._knots_us[-1] <= end_us - _SHORTEST_US:
            found += self._give(self._fit([*self._knots_us, float(end_us)]), overdue_us)
        return found

    def flush(self) -> list[Alignment]:
        """The knots that are left when the stream ends, and its end; another may follow."""
        if self._events is None:
            return []
        end_us = float(self._events.t_us[-1])
        if end_us - self._knots_us[-1] > _SHORTEST_US:
            self._knots_us.append(end_us)
        found = self._give(self._fit(self._knots_us), np.inf) if len(self._knots_us) > 1 else []
        self._begin()
        return found

    def _remember(self, events: Events, packet: Alignment) -> None:
        oldest_us = packet.end_us - round(_REMEMBERED_S * 1e6)
        self._packets = [kept for kept in self._packets if kept.t_us >= oldest_us] + [packet]
        if self._events is None:
            self._events = events
            self._knots_us = [float(events.t_us[0])]
            self._reached_us = self._knots_us[0]
            return
        kept = self._events[int(np.searchsorted(self._events.t_us, self._knots_us[0])) :]
        self._events = joined([kept, events])

    def _place_knots(self, packet: Alignment) -> list[float]:
        """Times of the knots that the packet brings."""
        config, size = self.config.trajectory, self.camera.fx
        density = float(knot_density(packet.velocity[None], np.array([self._jerk()]), size, config)[0])
        begin_us, found = self._reached_us, []
        while (time_us := begin_us + (1 - self._passed) / density) <= packet.end_us:
            found.append(time_us)
            begin_us, self._passed = time_us, 0.0
        self._passed += max(0.0, (packet.end_us - begin_us) * density)
        self._reached_us = max(begin_us, float(packet.end_us))
        return found

    def _jerk(self) -> float:
        t_s = np.array([packet.t_us for packet in self._packets]) * 1e-6
        shown = jerk_strength(t_s, np.stack([packet.velocity for packet in self._packets]))
        return self.config.trajectory.jerk or max(self._next_jerk, shown or SMOOTH_JERK)

    def _fit(self, knots: list[float]) -> _Window:
        """Fit the window of these knots; the next one begins at what it finds."""
        assert self._events is not None
        config, knots_us = self.config.trajectory, np.array(knots)
        place = np.searchsorted(self._events.t_us, knots_us)
        most = round(config.density * self._events.size[0] * self._events.size[1])
        source = KnottedEvents(self._events, self._aligner.packet, knots_us, place, most)
        rest, pinned = rest_of(source, self._estimator.scorer, config, cut=knots is not self._knots_us)
        start = np.stack([self._velocity.get(knot, self._expected(knot)) for knot in knots])
        start[pinned.any(axis=(1, 2))] = 0
        window = source.window(0, len(knots) - 1, rest)
        fit = self._estimator.fit(0, knots_us, start, window, pinned, self._jerk())
        self._next_jerk = fit.next_jerk
        known = np.array([knot in self._velocity for knot in knots])
        self._velocity = {knot: fit.velocity[i] for i, knot in enumerate(knots) if knot in self._knots_us}
        return _Window(source, fit, rest, np.where(known[:, None], fit.velocity - start, 0))

    def _expected(self, time_us: float) -> Float[np.ndarray, "3"]:
        """Velocity at a new knot, from the packet that holds it."""
        packet = self._packets[-1]
        return packet.velocity + (time_us - packet.t_us) * 1e-6 * packet.acceleration

    def _give(self, window: _Window, overdue_us: float) -> list[Alignment]:
        """The knots that wait no longer."""
        knots_us, half = window.source.knots_us, self.config.trajectory.window // 2
        last = len(knots_us) if overdue_us == np.inf else len(knots_us) - 1  # one side of the newest is unknown
        given = [
            i
            for i, time_us in enumerate(knots_us[:last])
            if time_us > self._given_us and (time_us <= overdue_us or i < len(knots_us) - half)
        ]
        if given:
            self._given_us = float(knots_us[given[-1]])
        return [self._alignment(window, i) for i in given]

    def _alignment(self, window: _Window, i: int) -> Alignment:
        source, fit, _, revised = window
        at, last = source.knots_us[i], len(source.knots_us) - 1
        start_us, end_us = (source.knots_us[max(0, i - 1)] + at) / 2, (at + source.knots_us[min(last, i + 1)]) / 2
        covariance = _CALIBRATION * (fit.covariance[i] + np.outer(revised[i], revised[i]))
        slope = slice(max(0, i - 1), max(1, i) + 1)
        return Alignment(
            motion="rotation",
            t_us=round(at),
            velocity=fit.velocity[i],
            acceleration=np.diff(fit.velocity[slope], axis=0)[0] / (np.diff(source.knots_us[slope])[0] * 1e-6),
            covariance=covariance,
            score=fit.score,
            status=self._status(window, i, covariance, (end_us - start_us) * 1e-6),
            evaluations=fit.evaluations,
            t_ref_us=round(at),
            start_us=round(start_us),
            end_us=round(end_us),
            n_events=int(np.diff(np.searchsorted(source.events.t_us, [start_us, end_us]))[0]),
        )

    def _status(self, window: _Window, i: int, covariance: Float[np.ndarray, "3 3"], seconds: float) -> Status:
        fit, at_us = window.fit, window.source.knots_us[i]
        if is_lost(covariance[None], np.array([seconds]), self.camera.fx)[0]:
            return Status.DEGENERATE
        if window.rest[max(0, i - 1) : i + 1].all():
            return Status.REST
        if is_shaken(fit.turns_back, fit.unresolved, fit.jerk):
            return Status.DISPUTED
        if fit.status is not Status.DISPUTED:
            return fit.status
        near = (packet for packet in self._packets if packet.end_us >= at_us - _CONFIRMED_US)
        return Status.DISPUTED if any(packet.status is Status.DISPUTED for packet in near) else Status.CONVERGED
