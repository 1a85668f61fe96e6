"""The velocity as a function of time: windows of knots, each fitted to its events, blended where they overlap."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64

from pauca.events.continuous.blend import Blend
from pauca.events.continuous.config import TrajectoryConfig
from pauca.events.continuous.dispute import confirmed, persistent
from pauca.events.continuous.fit import KnotEstimator
from pauca.events.continuous.groups import ROLL
from pauca.events.continuous.knots import interpolate, knot_time, place_knots
from pauca.events.continuous.prior import jerk_strength
from pauca.events.continuous.rest import rest_information, resting_intervals, score_test
from pauca.events.continuous.window import Window, WindowScorer
from pauca.events.score import REST_CHI2
from pauca.events.trajectory import Trajectory
from pauca.events.types import Events, Packet, Status
from pauca.events.windows import thinned

_LEAST_JERK = 3.0  # rad/s^2 per root of a second; with 10, 5 deg/s before shapes are off by 0.6 to 0.8, with 4 by 0.4
_COARSE = 1.0  # knots further apart than this many times what the jerk asks for are too few
_OFTEN = 0.1  # share of such intervals from which on the knots are placed anew: a vibration
_SHAKEN = 1500.0  # rad/s^2 per root of a second: a vibration; where it also turns back, pixels may see little of it
_SLOW = 0.8  # an interval of at least this share of the longest is tested for rest
_SPARSE = 0.25  # and one with less than this share of the events of an ordinary one
_LOST_PIXELS = 1.0  # DEGENERATE from this standard deviation on, as displacement over the time between knots

_TELLING = (Status.CONVERGED, Status.REST, Status.DISPUTED)  # packets whose motion is near enough to begin at

ToPacket = Callable[[Events], Packet]


@dataclass(frozen=True, eq=False)
class KnottedEvents:
    """A recording, and knots from its first event to its last."""

    events: Events
    to_packet: ToPacket  # looks up the bearings
    knots_us: Float[np.ndarray, "knots"]
    place: Int64[np.ndarray, "knots"]  # first event at or after each knot
    most: int | None = None  # events of a window; of more, every second, third ... is taken

    def window(self, first: int, last: int, rest: Bool[np.ndarray, "intervals"] | None = None) -> Window:
        """The events between two knots, without those of intervals at rest."""
        pieces = [(self.place[first], self.place[last])]
        if rest is not None and rest[first:last].any():
            pieces = [(self.place[k], self.place[k + 1]) for k in range(first, last) if not rest[k]]
        count = sum(int(end - start) for start, end in pieces)
        every = max(1, count // self.most) if self.most else 1
        parts = [thinned(self.events[start:end], every) for start, end in pieces] or [self.events[:0]]
        packets = [self.to_packet(part) for part in parts]
        t_us, x, y, p = parts[0].t_us, packets[0].x, packets[0].y, packets[0].p
        if len(parts) > 1:
            t_us = np.concatenate([part.t_us for part in parts])
            x, y, p = (np.concatenate([getattr(packet, name) for packet in packets]) for name in ("x", "y", "p"))
        return Window.from_events(t_us, x, y, p, self.knots_us[first : last + 1], float(every))


def refine(
    events: Events,
    to_packet: ToPacket,
    packets: Trajectory,
    scorer: WindowScorer,
    config: TrajectoryConfig,
    progress: Callable[[int], None] | None = None,
) -> Trajectory:
    """A trajectory with a row for each knot, from that of packets.

    Args:
        events: the recording.
        to_packet: bearings of some of them.
        packets: the motion as expected: it places the knots, gives the prior its strength, and searches begin at it.
        scorer: of windows.
        config: knots, windows and prior.
        progress: called with how many more events are done with.
    """
    known = np.array([status in _TELLING for status in packets.status])
    expected = packets.t_us[known], packets.velocity[known]
    if len(expected[0]) == 0:
        return packets
    shown = jerk_strength(expected[0] * 1e-6, expected[1])
    jerk = np.full(len(expected[0]), config.jerk or max(shown, _LEAST_JERK))
    found = _run(events, to_packet, *expected, jerk, scorer, config, progress)
    gaps_s = np.diff(found.source.knots_us) * 1e-6
    coarse = gaps_s > _COARSE * knot_time(np.minimum(found.jerk[1:], found.jerk[:-1]), config.knot_s)
    if config.jerk is None and np.mean(coarse) > _OFTEN:
        knots_us = np.round(found.source.knots_us).astype(np.int64)
        found = _run(events, to_packet, knots_us, found.blend.moments()[0], found.jerk, scorer, config)
    return _trajectory(found, packets, scorer.frame.camera.fx)


class _Pass(NamedTuple):
    """One pass over a recording."""

    source: KnottedEvents
    blend: Blend
    jerk: Float[np.ndarray, "knots"]  # strength that the windows of a knot needed
    rest: Bool[np.ndarray, "intervals"]


def _run(
    events: Events,
    to_packet: ToPacket,
    t_us: Int64[np.ndarray, "n"],
    velocity: Float[np.ndarray, "n 3"],
    jerk: Float[np.ndarray, "n"],
    scorer: WindowScorer,
    config: TrajectoryConfig,
    progress: Callable[[int], None] | None = None,
) -> _Pass:
    """Fit all windows, from velocities and strengths of the jerk that are expected at some times."""
    ends_us = int(events.t_us[0]), int(events.t_us[-1]) + 1
    knots_us = place_knots(t_us, velocity, *ends_us, scorer.frame.camera.fx, config, jerk)
    most = round(config.density * events.size[0] * events.size[1])
    source = KnottedEvents(events, to_packet, knots_us, np.searchsorted(events.t_us, knots_us), most)
    rest, pinned = rest_of(source, scorer, config)
    start, expected = interpolate(knots_us, t_us, velocity), np.interp(knots_us, t_us, jerk)
    needed, carried = expected.copy(), 0.0
    start[pinned.any(axis=(1, 2))] = 0
    estimator, blend = KnotEstimator(scorer, config), Blend(len(knots_us))
    for first, last in spans(len(knots_us) - 1, config):
        at = slice(first, last + 1)
        window, strength = source.window(first, last, rest), max(carried, float(expected[at].max()))
        fit = estimator.fit(first, knots_us[at], start[at], window, pinned[at], strength)
        needed[at], carried = np.maximum(needed[at], fit.jerk), fit.next_jerk
        start[at] = fit.velocity  # the next window begins here
        blend.add(fit)
        if progress is not None:
            done = last if last == len(knots_us) - 1 else first + config.step
            progress(int(source.place[done] - source.place[first]))
    return _Pass(source, blend, needed, rest)


def rest_of(
    source: KnottedEvents, scorer: WindowScorer, config: TrajectoryConfig, cut: bool = False
) -> tuple[Bool[np.ndarray, "intervals"], Float[np.ndarray, "knots 3 3"]]:
    """Which intervals are at rest, and what they say about the velocities at the knots, as information.

    With `cut`, the last interval ends where the events do, and is tested if the one before it is.
    """
    slow = np.diff(source.knots_us) * 1e-6 >= _SLOW * config.knot_s
    if cut and len(slow) > 1:
        slow[-1] |= slow[-2]
    count = np.diff(source.place)
    sparse = count < _SPARSE * np.median(count)  # knots lie at even steps of path, which give as many events each
    rest = resting_intervals(
        slow | sparse, source.knots_us, lambda i, j: score_test(scorer, source.window(i, j)) < REST_CHI2
    )
    return rest, rest_information(rest, source.knots_us, scorer.frame.camera.fx)


def spans(intervals: int, config: TrajectoryConfig) -> Iterator[tuple[int, int]]:
    """First and last knot of each window."""
    first = 0
    while first + config.window < intervals:
        yield first, first + config.window
        first += config.step
    yield first, intervals


def _trajectory(found: _Pass, packets: Trajectory, pixels_per_rad: float) -> Trajectory:
    source, blend = found.source, found.blend
    velocity, covariance = blend.moments()
    t_us = np.round(source.knots_us).astype(np.int64)
    between = (t_us[1:] + t_us[:-1]) // 2
    start_us, end_us = np.concatenate([t_us[:1], between]), np.concatenate([between, t_us[-1:]])
    n_events = np.diff(np.searchsorted(source.events.t_us, np.concatenate([start_us, end_us[-1:] + 1])))
    lost = is_lost(covariance, (end_us - start_us) * 1e-6, pixels_per_rad)
    beside = np.concatenate([found.rest[:1], found.rest[1:] & found.rest[:-1], found.rest[-1:]])
    told = np.array(blend.status, object)
    shaken = is_shaken(blend.turns_back, blend.unresolved, found.jerk)
    disputed = (told == Status.DISPUTED) & confirmed(packets, source.knots_us)
    told[told == Status.DISPUTED] = Status.CONVERGED
    told[persistent(disputed | shaken, source.knots_us) | disputed | shaken] = Status.DISPUTED
    told[beside], told[lost] = Status.REST, Status.DEGENERATE
    return Trajectory(
        motion="rotation",
        t_us=t_us,
        velocity=velocity,
        acceleration=np.gradient(velocity, t_us * 1e-6, axis=0),
        covariance=covariance,
        start_us=start_us,
        end_us=end_us,
        n_events=n_events,
        evaluations=blend.evaluations,
        score=blend.score,
        status=tuple(Status(each) for each in told),
    )


def is_lost(
    covariance: Float[np.ndarray, "n 3 3"], seconds: Float[np.ndarray, "n"], pixels_per_rad: float
) -> Bool[np.ndarray, "n"]:
    """Whether the velocities leave displacements between knots open by more than a pixel."""
    sigma = (np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)) * (1, 1, ROLL)).max(axis=1)
    return ~(sigma * np.maximum(seconds, 1e-6) * pixels_per_rad <= _LOST_PIXELS)


def is_shaken(
    turns_back: Bool[np.ndarray, "n"] | bool, unresolved: Bool[np.ndarray, "n"] | bool, jerk: np.ndarray | float
) -> Any:
    """Whether a vibration hides the motion: it needs so much jerk where it turns back, or lies between the knots."""
    return (turns_back & (jerk > _SHAKEN)) | unresolved
