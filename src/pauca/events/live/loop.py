"""The loop of a live camera: one thread takes events in, the other aligns them, and the queue between is bounded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import Condition, Thread

import numpy as np

from pauca.errors import ConfigError
from pauca.events.alignment import Aligner
from pauca.events.given import check_kinds
from pauca.events.types import Alignment, Events, Status


@dataclass(frozen=True)
class LiveConfig:
    """How long a velocity may take."""

    deadline_s: float = 0.1
    """Seconds after which events are dropped unseen, if the processor does not keep up, and after which a packet ends
    in any case; a camera at rest gives an answer this often."""

    def __post_init__(self) -> None:
        check_kinds(self)
        if not self.deadline_s > 0:
            raise ConfigError(f"deadline_s {self.deadline_s} must be positive")


@dataclass
class LiveReport:
    """What a live run has seen and done."""

    events: int = 0
    packets: int = 0
    trusted: int = 0  # packets whose velocity can be acted on: converged, or rest
    dropped_events: int = 0  # the processor did not keep up
    late_events: int = 0  # older than events that had been taken in before
    latencies_s: list[float] = field(default_factory=list)  # from a packet's last event's arrival to its velocity

    def summary(self) -> str:
        """One line for people."""
        if not self.latencies_s:
            return f"{self.events:,} events, no packet"
        middle, most = np.percentile(self.latencies_s, [50, 99]) * 1e3
        lost = f"; dropped {self.dropped_events:,} events: the processor did not keep up" if self.dropped_events else ""
        late = f"; left out {self.late_events:,} events that came too late" if self.late_events else ""
        return (
            f"{self.events:,} events, {self.packets:,} packets ({self.trusted:,} trusted), latency "
            f"{middle:.1f} ms (median), {most:.1f} ms (99 %){lost}{late}"
        )


def run(
    source: Iterable[Events],
    aligner: Aligner,
    take: Callable[[Alignment, float], None],
    config: LiveConfig = LiveConfig(),
    report: LiveReport | None = None,
) -> LiveReport:
    """Align events as they arrive until their source ends.

    Args:
        source: windows of events, each as soon as it is there, such as `replay` or `receive`; it runs in a thread.
        aligner: what aligns.
        take: called in this thread with each alignment, and with the seconds since its last event arrived.
        config: how long that may take.
        report: kept up to date while it runs, for who wants the counts of a run that is interrupted; None: a new one.

    Returns:
        Counts and latencies. What the source raises is raised here, after the events before it were aligned.
    """
    queue, report = _Queue(config.deadline_s), report or LiveReport()
    reader = Thread(target=queue.fill, args=(source,), name="live events", daemon=True)
    reader.start()
    try:
        while (taken := queue.take()) is not None:
            _step(taken, aligner, take, config, report)
        _tell(aligner.flush(), time.monotonic(), take, report)
    finally:
        queue.stop()
    if queue.error is not None:
        raise queue.error
    return report


def _step(
    taken: _Taken, aligner: Aligner, take: Callable[[Alignment, float], None], config: LiveConfig, report: LiveReport
) -> None:
    report.dropped_events += taken.dropped
    if taken.dropped:  # a packet must not reach over the gap
        _tell(aligner.flush(), taken.arrived_s, take, report)
    events = taken.events
    if len(events) and report.events and events.t_us[0] < taken.newest_us:
        kept = int(np.searchsorted(events.t_us, taken.newest_us))
        report.late_events += kept
        events = events[kept:]
    report.events += len(events)
    _tell(aligner.push(events, config.deadline_s), taken.arrived_s, take, report)


def _tell(
    alignments: list[Alignment], arrived_s: float, take: Callable[[Alignment, float], None], report: LiveReport
) -> None:
    for alignment in alignments:
        latency_s = time.monotonic() - arrived_s
        report.packets += 1
        report.trusted += alignment.status in (Status.CONVERGED, Status.REST)
        report.latencies_s.append(latency_s)
        take(alignment, latency_s)


@dataclass
class _Taken:
    events: Events
    arrived_s: float
    newest_us: int  # of all events that were taken before
    dropped: int  # events that were older than the deadline


class _Queue:
    """Windows between the thread that reads and the one that aligns; the oldest go where that falls behind."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._windows: deque[tuple[float, Events]] = deque()
        self._changed = Condition()
        self._over = self._stopped = False
        self._newest_us = np.iinfo(np.int64).min
        self.error: Exception | None = None

    def fill(self, source: Iterable[Events]) -> None:
        """Take all of the source in; runs in a thread of its own."""
        try:
            for window in source:
                with self._changed:
                    if self._stopped:
                        return
                    self._windows.append((time.monotonic(), window))
                    self._changed.notify()
        except Exception as error:
            self.error = error
        finally:
            with self._changed:
                self._over = True
                self._changed.notify()

    def take(self) -> _Taken | None:
        """The next window, when there is one; None after the last."""
        with self._changed:
            while not self._windows and not self._over:
                self._changed.wait()
            dropped = 0
            while len(self._windows) > 1 and time.monotonic() - self._windows[0][0] > self._deadline_s:
                dropped += len(self._windows.popleft()[1])
            if not self._windows:
                return None
            arrived_s, events = self._windows.popleft()
            newest_us, self._newest_us = self._newest_us, max([self._newest_us, *events.t_us[-1:].tolist()])
        return _Taken(events, arrived_s, int(newest_us), dropped)

    def stop(self) -> None:
        """Let the reader end with its next window."""
        with self._changed:
            self._stopped = True
