"""The velocity of a live stream: of the newest packet at once, and as a function of time one knot later."""

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from pauca.events.adapters import EventsLike, as_events
from pauca.events.alignment import AlignConfig, Aligner
from pauca.events.camera import Camera
from pauca.events.continuous.blend import Fit
from pauca.events.continuous.estimator import KnottedEvents, is_lost, rest_of
from pauca.events.continuous.fit import KnotEstimator
from pauca.events.continuous.knots import SMOOTH_JERK, knot_density
from pauca.events.continuous.prior import jerk_strength
from pauca.events.types import Alignment, Events, Status
from pauca.events.whole import window_scorer
from pauca.events.windows import joined

_REMEMBERED_S = 3.0  # of packets, that tell the strength of the jerk
_CALIBRATION = 1.5  # of the covariance: errors of one window have biases that it does not know


@dataclass(eq=False)
class Follower:
    """Follows a stream of events, window by window as they come.

    The newest packet's velocity is known at once (`newest`), but is worst where the motion reverses; the velocity at a
    knot waits for the knot that follows, 4 pixels of motion or 20 ms later, and is as good as offline but for a third.

    >>> follower = Follower(camera)
    >>> for events in live:
    ...     for knot in follower.push(events):
    ...         control(knot.velocity, knot.covariance)
    """

    camera: Camera
    config: AlignConfig = AlignConfig()  # noqa: RUF009 - immutable
    newest: Alignment | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        replace(self.config, estimator="trajectory")  # says what is wrong with a translation or the contrast
        self._aligner = Aligner(self.camera, self.config)
        self._estimator = KnotEstimator(window_scorer(self.camera, self.config), self.config.trajectory)
        self._packets: list[Alignment] = []
        self._events: Events | None = None
        self._knots_us: list[float] = []
        self._velocity: dict[float, Float[np.ndarray, 3]] = {}  # what windows have found at the knots that are kept
        self._passed = 0.0  # share of the way to the next knot
        self._reached_us = 0.0  # how far it was measured
        self._next_jerk = 0.0

    def push(self, events: EventsLike) -> list[Alignment]:
        """Take a window of events in.

        Args:
            events: what came since the last call, of 5 to 20 ms; also what `as_events` takes.

        Returns:
            Velocities at the knots that are known now, at least one knot old: none, one or more.
        """
        events = as_events(events, self.camera.size)
        if len(events) == 0:
            return []
        self.newest = self._aligner.align(events)
        self._remember(events, self.newest)
        return [knot for due in self._place_knots(self.newest) if (knot := self._estimate(due)) is not None]

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

    def _estimate(self, time_us: float) -> Alignment | None:
        """Fit the window that ends at a new knot; what it says about the knot before."""
        assert self._events is not None
        self._knots_us = [*self._knots_us, time_us][-self.config.trajectory.window - 1 :]
        knots_us = np.array(self._knots_us)
        place = np.searchsorted(self._events.t_us, knots_us)
        source = KnottedEvents(self._events, self._aligner.packet, knots_us, place)
        rest, pinned = rest_of(source, self._estimator.scorer, self.config.trajectory)
        start = np.stack([self._velocity.get(knot, self._expected(knot)) for knot in self._knots_us])
        start[pinned.any(axis=(1, 2))] = 0
        window = source.window(0, len(knots_us) - 1, rest)
        fit = self._estimator.fit(0, knots_us, start, window, pinned, self._jerk())
        self._next_jerk = fit.next_jerk
        revised = fit.velocity[-3] - start[-3] if len(start) > 3 else np.zeros(3)  # it was the second newest before
        self._velocity = dict(zip(self._knots_us, fit.velocity, strict=True))
        return self._alignment(fit, source, revised) if len(knots_us) > 2 else None

    def _expected(self, time_us: float) -> Float[np.ndarray, "3"]:
        """Velocity at a new knot, from the packet that holds it."""
        packet = self._packets[-1]
        return packet.velocity + (time_us - packet.t_us) * 1e-6 * packet.acceleration

    def _alignment(self, fit: Fit, source: KnottedEvents, revised: Float[np.ndarray, "3"]) -> Alignment:
        before, at, after = source.knots_us[-3:]
        start_us, end_us = (before + at) / 2, (at + after) / 2
        covariance = _CALIBRATION * (fit.covariance[-2] + np.outer(revised, revised))
        lost = is_lost(covariance[None], np.array([(end_us - start_us) * 1e-6]), self.camera.fx)[0]
        return Alignment(
            motion="rotation",
            t_us=round(at),
            velocity=fit.velocity[-2],
            acceleration=(fit.velocity[-2] - fit.velocity[-3]) / ((at - before) * 1e-6),
            covariance=covariance,
            score=fit.score,
            status=Status.DEGENERATE if lost else fit.status,
            evaluations=fit.evaluations,
            t_ref_us=round(at),
            start_us=round(start_us),
            end_us=round(end_us),
            n_events=int(np.diff(np.searchsorted(source.events.t_us, [start_us, end_us]))[0]),
        )
