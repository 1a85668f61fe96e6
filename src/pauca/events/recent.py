"""The last events of windows that follow each other: in one place, so that a new window does not copy those before."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from pauca.events.camera import Camera, undistortion_table
from pauca.events.kernels.bearings import look_up_bearings, seconds_since
from pauca.events.types import Events, Packet

_ROOM = 4  # times what is held, when memory is taken: events are moved once in so many packets


def bearings(events: Events, camera: Camera, x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> None:
    """Write the bearings of events, float32."""
    if events.undistorted:
        fx, fy, cx, cy = camera.intrinsics
        x[:], y[:] = (events.x - cx) / fx, (events.y - cy) / fy
    else:
        look_up_bearings(events.x, events.y, undistortion_table(camera), x, y)


@dataclass(eq=False)
class Recent:
    """Holds events and their bearings; what it gives are views, good until the next window is added."""

    camera: Camera
    _columns: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _first: int = field(default=0, init=False, repr=False)
    _end: int = field(default=0, init=False, repr=False)

    def __len__(self) -> int:
        return self._end - self._first

    @property
    def events(self) -> Events:
        """All of them."""
        t_us, x, y, p = (self._columns[name][self._first : self._end] for name in ("t_us", "x", "y", "p"))
        return Events.checked(t_us, x, y, p, self.camera.size)

    def packet(self, first: int, t_ref_us: int) -> Packet:
        """The events from index `first` on, relative to a time."""
        here = slice(self._first + first, self._end)
        t_us, u, v, dt_s, p = (self._columns[name][here] for name in ("t_us", "u", "v", "dt_s", "p"))
        seconds_since(t_us, t_ref_us, dt_s)
        return Packet(u, v, dt_s, p, t_ref_us, int(t_us[0]), int(t_us[-1]))

    def add(self, events: Events) -> None:
        """Add a window; what it does not follow is let go of first."""
        if len(self) and not self._leads_to(events):
            self._first = self._end
        if not self._columns or self._columns["x"].dtype != events.x.dtype:
            self._first = self._end = 0
            self._columns = {}
        if not self._columns or self._end + len(events) > len(self._columns["p"]):
            self._make_room(events)
        here = slice(self._end, self._end + len(events))
        for name in ("t_us", "x", "y", "p"):
            self._columns[name][here] = getattr(events, name)
        bearings(events, self.camera, self._columns["u"][here], self._columns["v"][here])
        self._end = here.stop

    def drop(self, count: int) -> None:
        """Let go of so many events at the beginning."""
        self._first += count

    def _leads_to(self, later: Events) -> bool:
        """Whether a window continues these: the gap between them is no longer than both."""
        t_us = self._columns["t_us"]
        gap_us = int(later.t_us[0] - t_us[self._end - 1])
        return 0 <= gap_us <= int(later.t_us[-1] - t_us[self._first]) - gap_us

    def _make_room(self, events: Events) -> None:
        held = {name: column[self._first : self._end] for name, column in self._columns.items()}
        n, more = len(self), len(events)
        kinds = {"t_us": np.int64, "x": events.x.dtype, "y": events.y.dtype, "p": np.uint8}
        kinds |= dict.fromkeys(("u", "v", "dt_s"), np.float32)
        if not self._columns or _ROOM // 2 * (n + more) > len(self._columns["p"]):
            self._columns = {name: np.empty(_ROOM * (n + more), kind) for name, kind in kinds.items()}
        for name, column in held.items():
            self._columns[name][:n] = column.copy()
        self._first, self._end = 0, n
