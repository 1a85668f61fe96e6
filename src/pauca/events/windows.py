"""Windows of a stream of events: where a packet ends, and how windows that follow each other are joined."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from pauca.errors import InputError
from pauca.events.given import expect
from pauca.events.types import Events

_LEAST_SHARE = 5  # a packet that ends by displacement holds at least this part of the fewest events


@dataclass(frozen=True)
class Flow:
    """How the image is expected to move, on average over its pixels."""

    pixels_per_s: float = 0.0
    pixels_per_s2: float = 0.0

    def seconds(self, pixels: float) -> float:
        """How long it takes to move so far, if the speed adds to what the acceleration gives."""
        speed, gain = self.pixels_per_s, self.pixels_per_s2
        if gain > 0:
            return (np.sqrt(speed**2 + 2 * gain * pixels) - speed) / gain
        return pixels / speed if speed > 0 else np.inf


@dataclass(frozen=True)
class Cut:
    """Where packets end; see `AlignConfig`."""

    fewest: int
    most: int
    packet_s: float
    longest_s: float
    slowest_s: float
    least_pixels: float
    most_pixels: float

    def end(self, t_us: Int64[np.ndarray, "n"], first: int = 0, flow: Flow | None = None) -> int:
        """Index after the last event of the packet that begins with event `first`.

        Args:
            t_us: times of the stream, microseconds.
            first: index of an event.
            flow: how the image is expected to move, if that is known.
        """
        return self.ends(t_us, first, flow)[1]

    def ends(self, t_us: Int64[np.ndarray, "n"], first: int = 0, flow: Flow | None = None) -> tuple[int, int]:
        """As `end`: if further events will come, where n means that the packet may not end here; and if none will."""
        return self._ends(t_us, first, flow)

    def _ends(self, t_us: "_Times", first: int, flow: Flow | None) -> tuple[int, int]:
        end, longest_s = self._wanted(t_us, first, flow)
        # What little is left at the end joins this packet: on its own it could not tell a motion.
        rest, cut = len(t_us) - end, min(end, len(t_us))
        if self.fewest < self.most and rest < max(self.fewest, (end - first) // 2) and rest < self.most:
            return cut, len(t_us) if _within(t_us, first, 1.5 * longest_s) == len(t_us) else end
        return cut, cut

    def _wanted(self, t_us: "_Times", first: int, flow: Flow | None) -> tuple[int, float]:
        """Where a packet ends, whatever follows, and how many seconds it may last."""
        enough = max(_within(t_us, first, self.packet_s), first + self.fewest)
        longest_s = self.longest_s
        if flow is not None:
            slow_s = min(flow.seconds(self.least_pixels), self.slowest_s)
            longest_s = max(longest_s, slow_s)
            fast = max(_within(t_us, first, flow.seconds(self.most_pixels)), first + self.fewest // _LEAST_SHARE)
            enough = min(max(enough, _within(t_us, first, slow_s)), fast)
        at_latest = _within(t_us, first, longest_s)
        return max(first + 1, min(first + self.most, enough, at_latest)), longest_s

    def start(self, t_us: Int64[np.ndarray, "n"], flow: Flow | None = None, alone: bool = False) -> int:
        """Index of the first event of the packet that ends with the last event of the stream, for sliding windows.

        Args:
            t_us: times of the stream, microseconds.
            flow: how the image is expected to move, if that is known.
            alone: without the few events that may be left before the packet, which `end` gives to it.
        """
        backwards = _Backwards(t_us)
        end = self._wanted(backwards, 0, flow)[0] if alone else self._ends(backwards, 0, flow)[1]
        return max(0, len(t_us) - end)

    def oldest(self, t_us: Int64[np.ndarray, "n"]) -> int:
        """Index of the first event that a packet may hold which ends with the last event of the stream."""
        return len(t_us) - _within(_Backwards(t_us), 0, self.slowest_s)


class _Backwards:
    """Times -t_us[::-1] of a stream that runs backwards, without a copy."""

    def __init__(self, t_us: np.ndarray) -> None:
        self._t_us = t_us

    def __len__(self) -> int:
        return len(self._t_us)

    def __getitem__(self, i: int) -> int:
        return -int(self._t_us[-1 - i])

    def searchsorted(self, time_us: int) -> int:
        return len(self._t_us) - int(self._t_us.searchsorted(-time_us, "right"))


def joined(windows: Sequence[Events]) -> Events:
    """One window of several that follow each other."""
    windows = [expect(window, Events) for window in expect(windows, Sequence)]
    if not windows:
        raise InputError("joined: there is no window of events to join")
    if len(windows) == 1:
        return windows[0]
    columns = {name: np.concatenate([getattr(w, name) for w in windows]) for name in ("t_us", "x", "y", "p")}
    return Events(**columns, size=windows[0].size)


def thinned(events: Events, every: int) -> Events:
    """Every second, third, ... of them."""
    if every == 1:
        return events
    t_us, x, y, p = (np.ascontiguousarray(part[::every]) for part in (events.t_us, events.x, events.y, events.p))
    return Events(t_us, x, y, p, events.size)


_Times = np.ndarray | _Backwards


def _within(t_us: _Times, first: int, seconds: float) -> int:
    """Index of the first event so many seconds after event `first`."""
    if not np.isfinite(seconds):
        return len(t_us)
    return int(t_us.searchsorted(t_us[first] + round(seconds * 1e6)))
