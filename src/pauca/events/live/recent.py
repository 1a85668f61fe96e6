"""The events that have just gone by, for who wants to see those of a packet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import pairwise

from pauca.events.types import Events
from pauca.events.windows import joined


class Recent:
    """Keeps windows until packets that end later have taken theirs; one thread may watch while another takes."""

    def __init__(self) -> None:
        self._windows: deque[Events] = deque()

    def watch(self, windows: Iterable[Events]) -> Iterator[Events]:
        """The same windows, which are remembered."""
        for window in windows:
            if len(window):
                self._windows.append(window)
            yield window

    def take(self, start_us: int, end_us: int) -> Events | None:
        """The events from one time to another, both included; older ones are forgotten. None where there are none."""
        while self._windows and self._windows[0].t_us[-1] < start_us:
            self._windows.popleft()
        found = [window.between(start_us, end_us + 1) for window in list(self._windows)]
        found = [window for window in found if len(window)]
        if any(later.t_us[0] < sooner.t_us[-1] for sooner, later in pairwise(found)):
            found = found[:1]  # datagrams that came too late
        return joined(found) if found else None
