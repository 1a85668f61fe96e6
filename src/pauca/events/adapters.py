"""Events of other libraries: the structured arrays of Metavision and OpenEB, dv-processing, faery and others."""

from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from pauca.errors import InputError
from pauca.events.given import refusal
from pauca.events.recording import Recording
from pauca.events.types import Events

FIELDS = {
    "t_us": ("t", "timestamp", "ts", "t_us", "timestamps"),
    "x": ("x", "xs"),
    "y": ("y", "ys"),
    "p": ("p", "polarity", "pol", "on", "ps"),
}
"""The names that fields go by; `t, x, y, p` of Metavision, `timestamp, x, y, polarity` of dv-processing."""


@runtime_checkable
class HasNumpy(Protocol):
    """What gives its events as a structured array: the `EventStore` of dv-processing."""

    def numpy(self) -> np.ndarray: ...


EventsLike: TypeAlias = Events | Recording | np.ndarray | HasNumpy
"""`Events`, a `Recording` of them, or what `as_events` makes them from."""


def as_events(events: EventsLike, size: tuple[int, int]) -> Events:
    """Events of another library as `Events`, checked; `Events` themselves, or those of a `Recording`, as they are.

    `Aligner`, `Follower`, `align` and `align_packets` call it: give them such arrays as they are.

    >>> import numpy as np
    >>> buffer = np.array([(12, 7, 1, 100)], [("x", "u2"), ("y", "u2"), ("p", "i2"), ("t", "i8")])  # as Metavision's
    >>> as_events(buffer, size=(1280, 720)).t_us.tolist()
    [100]

    Args:
        events: a structured array with one event an element, in order of time: fields `x`, `y`, `p`, `t` (Metavision,
            OpenEB, faery) or `timestamp`, `x`, `y`, `polarity` (dv-processing), integer microseconds, polarity 0/1,
            -1/1 or boolean; or an `EventStore` of dv-processing, whose `numpy()` is called.
        size: width and height of the sensor in pixels.

    Returns:
        A copy: the array may be a camera's buffer, which its driver writes anew.

    Raises:
        InputError: another kind of array, times that are no integers or out of order, or pixels beyond the sensor.
    """
    if isinstance(events, Events):
        return events
    if isinstance(events, Recording):
        return events.events
    array = events if isinstance(events, np.ndarray) else _asked(events)
    names = array.dtype.names
    if names is None:
        raise InputError(
            f"events: an array of {array.dtype} of shape {array.shape} does not say what its columns are; give "
            "Events.from_arrays(t_us, x, y, p, size), or a structured array with fields t, x, y, p"
        )
    if array.ndim != 1:
        raise InputError(f"events: a structured array of shape {array.shape}; expected one event an element")
    chosen = {role: [name for name in known if name in names] for role, known in FIELDS.items()}
    lacking = [FIELDS[role][0] for role, found in chosen.items() if len(found) != 1]
    if lacking:
        raise InputError(
            f"events: fields {', '.join(names)} leave open what {', '.join(lacking)} is; expected x, y, p, t as of "
            "Metavision, or timestamp, x, y, polarity as of dv-processing"
        )
    columns = {role: np.array(array[found[0]]) for role, found in chosen.items()}
    if columns["t_us"].dtype.kind not in "iu":
        raise InputError(
            f"events: times are {columns['t_us'].dtype}, of unknown unit; expected integer microseconds: give "
            "Events.from_arrays(t_us, x, y, p, size)"
        )
    return Events.from_arrays(**columns, size=size)


def _asked(events: HasNumpy) -> np.ndarray:
    array = events.numpy() if isinstance(events, HasNumpy) else None
    if not isinstance(array, np.ndarray):
        raise refusal(events, "Events")
    return array
