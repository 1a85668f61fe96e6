"""What travels through `pauca.events`: events, recordings, packets and their alignments.

Times are int64 microseconds on the recording's own clock; pixels count right and down from the center of the
top left pixel; the camera frame is x right, y down, z forward; velocities are rad/s (rotation) or focal lengths
per second (translation parallel to the image).
"""

import logging
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64, Num, Shaped, UInt8

from pauca.errors import InputError
from pauca.events.given import size_of

_log = logging.getLogger(__name__)

_TELLING = 1000  # events, from which on it is no chance that all are whole
_FEW = 100

Motion = Literal["rotation", "translation"]
Objective = Literal["st-ppp", "contrast"]
Estimator = Literal["packets", "trajectory"]
VoteKernel = Literal["bilinear", "quadratic"]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, eq=False)
class Events:
    """Events in time order, as four parallel arrays of one length, and the size of the sensor that saw them.

    `events[a:b]` is a view: nothing is copied and nothing is checked again. `Events.from_arrays` converts
    other types of numbers.

    Raises:
        InputError: with the index of the first event that breaks a rule below.
    """

    t_us: Int64[np.ndarray, "n"]  # microseconds, never decreasing
    x: Shaped[np.ndarray, "n"]  # uint16 pixel column, or float32 where a recording is already undistorted
    y: Shaped[np.ndarray, "n"]  # uint16 pixel row, or float32
    p: UInt8[np.ndarray, "n"]  # 0 OFF, 1 ON
    size: tuple[int, int]  # width, height in pixels

    def __post_init__(self) -> None:
        _check_layout(self)
        _check_values(self)

    @classmethod
    def from_arrays(
        cls,
        t_us: Num[np.ndarray, "n"],
        x: Num[np.ndarray, "n"],
        y: Num[np.ndarray, "n"],
        p: Num[np.ndarray, "n"] | Bool[np.ndarray, "n"],
        size: tuple[int, int],
    ) -> "Events":
        """Events from arrays of any number type: integer microseconds, pixels, polarity 0/1, -1/1 or boolean.

        Raises:
            InputError: where a value would change, such as a time with a fraction of a microsecond.
        """
        for name, column in (("t_us", t_us), ("x", x), ("y", y), ("p", p)):
            if np.asarray(column).dtype.kind not in "iufb" or np.ndim(column) != 1:
                raise InputError(f"events: {name} must be an array of numbers, got {column!r:.60}")
        floating = np.issubdtype(np.asarray(x).dtype, np.floating) or np.issubdtype(np.asarray(y).dtype, np.floating)
        pixel = np.float32 if floating else np.uint16
        polarity = np.asarray(p)
        if floating and len(polarity) >= _TELLING and _whole(x, 1) and _whole(y, 1):
            _tell(
                "x and y are floats, which are undistorted pixels, but all whole; give pixels of the sensor as integers"
            )
        if polarity.dtype != np.bool_:
            polarity = np.where(polarity == -1, 0, polarity)
        times_us = _exactly(t_us, np.int64, "time (microseconds; of seconds, np.rint(1e6 * t_s))")
        if len(times_us) >= _TELLING and times_us[0] < times_us[-1] and _whole(times_us, 1000):
            _tell(
                "all times are whole thousands; if they are nanoseconds, give t_ns // 1000: microseconds are expected"
            )
        return cls(
            times_us,
            np.asarray(x, np.float32) if floating else _exactly(x, pixel, "x"),
            np.asarray(y, np.float32) if floating else _exactly(y, pixel, "y"),
            _exactly(polarity, np.uint8, "polarity"),
            size_of(size),
        )

    @classmethod
    def checked(cls, t_us: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray, size: tuple[int, int]) -> "Events":
        """Events from columns that are known to keep the rules, without looking at each again."""
        events = object.__new__(cls)
        for name, value in (("t_us", t_us), ("x", x), ("y", y), ("p", p), ("size", size)):
            object.__setattr__(events, name, value)
        return events

    def __len__(self) -> int:
        return len(self.t_us)

    def __getitem__(self, window: slice) -> "Events":
        if not isinstance(window, slice):
            raise TypeError(f"events are cut with a slice such as events[:1000], not with {window!r}")
        if window.step is not None and window.step < 0:
            raise InputError(f"events[{window.start}:{window.stop}:{window.step}] would run backwards in time")
        return self._some(window)

    def where(self, chosen: Bool[np.ndarray, "n"]) -> "Events":
        """The events that are chosen, as a copy."""
        return self._some(chosen)

    def _some(self, chosen: slice | np.ndarray) -> "Events":
        """Some of the events, which need no check again."""
        return Events.checked(self.t_us[chosen], self.x[chosen], self.y[chosen], self.p[chosen], self.size)

    @property
    def duration_us(self) -> int:
        """Microseconds from the first to the last event; 0 when there are none."""
        return int(self.t_us[-1] - self.t_us[0]) if len(self) else 0

    @property
    def undistorted(self) -> bool:
        """Whether pixels are float32: the lens distortion was undone before, and is not undone again."""
        return self.x.dtype == np.float32

    def between(self, t0_us: int, t1_us: int) -> "Events":
        """The events with t0_us <= t < t1_us, as a view."""
        first, last = np.searchsorted(self.t_us, [t0_us, t1_us])
        return self[first : max(first, last)]


class Status(StrEnum):
    """How far an estimate can be trusted."""

    CONVERGED = "converged"  # the events show this motion
    REST = "rest"  # the events show no motion: nothing tells them from a camera at rest; the velocity is zero
    DISPUTED = (
        "disputed"  # parts of the packet tell other motions: a vibration, a reversal, things that move themselves
    )
    STALLED = "stalled"  # the budget of evaluations was used up, or no further step helped
    DEGENERATE = "degenerate"  # too few events, no duration, or a motion that the events do not show

    @property
    def trusted(self) -> bool:
        """Whether one may act on the velocity, within its covariance."""
        return self in (Status.CONVERGED, Status.REST)


@dataclass(frozen=True, eq=False)
class Packet:
    """A window of events ready for alignment: bearings on the plane z = 1, times relative to `t_ref_us`."""

    x: Float[np.ndarray, "n"]  # float32, focal lengths right of the optical axis
    y: Float[np.ndarray, "n"]  # float32, focal lengths below it
    dt_s: Float[np.ndarray, "n"]  # float32 seconds since t_ref_us, subtracted as int64 microseconds before
    p: UInt8[np.ndarray, "n"]
    t_ref_us: int
    start_us: int
    end_us: int

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, eq=False)
class Alignment:
    """Maximum-likelihood registration of one packet of events."""

    motion: Motion
    t_us: int  # the time the velocity is valid for
    velocity: Float[np.ndarray, "k"]  # rad/s about camera x, y, z; or focal lengths per second along x, y
    acceleration: Float[np.ndarray, "k"]  # change of the velocity per second; zero where it was not estimated
    covariance: Float[np.ndarray, "k k"]  # see `uncertainty`; no statistics behind it for contrast
    score: float  # log-likelihood of the whole image in nats, or the sum of squares for contrast maximization
    status: Status
    evaluations: int  # images of warped events that were formed
    t_ref_us: int  # the time to which events were warped
    start_us: int  # first event of the packet
    end_us: int  # last event of the packet
    n_events: int


def _whole(values: np.ndarray, unit: int) -> bool:
    """Whether all are multiples of a unit; the first few tell of nearly all."""
    return not (np.asarray(values[:_FEW]) % unit).any() and not (np.asarray(values) % unit).any()


@cache
def _tell(what: str) -> None:
    """A likely mistake, once: a live camera's windows would all be told."""
    _log.warning("events: %s", what)


def _exactly(values: np.ndarray, dtype: type, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype == dtype:
        return values
    limits = np.iinfo(dtype)
    with np.errstate(invalid="ignore"):
        inside = (values >= limits.min) & (values <= limits.max) if values.dtype != np.bool_ else None
        converted = values.astype(dtype)
    bad = np.flatnonzero(converted != values if inside is None else ~inside | (converted != values))
    if bad.size:
        raise InputError(f"event {bad[0]}: {name} {values[bad[0]]} is no {np.dtype(dtype).name}")
    return converted


def _check_layout(events: Events) -> None:
    n = np.size(events.t_us)
    floating = getattr(events.x, "dtype", None) == np.float32
    pixel = np.dtype(np.float32 if floating else np.uint16)
    for name, dtype in (("t_us", np.dtype(np.int64)), ("x", pixel), ("y", pixel), ("p", np.dtype(np.uint8))):
        array = getattr(events, name)
        if not isinstance(array, np.ndarray):
            raise InputError(f"events: {name} is a {type(array).__name__}, no array; Events.from_arrays converts")
        if array.dtype != dtype or array.shape != (n,):
            raise InputError(
                f"events: {name} is {array.dtype} of shape {array.shape}, expected {dtype} of shape ({n},); "
                "Events.from_arrays converts"
            )
    size_of(events.size)


def _check_values(events: Events) -> None:
    if len(events) == 0:
        return
    for name, axis_size in (("x", events.size[0]), ("y", events.size[1])):
        pixels = getattr(events, name)
        if events.undistorted:
            _refuse_first(~np.isfinite(pixels), f"{name} is not finite", pixels)
        elif pixels.max() >= axis_size:
            _refuse_first(pixels >= axis_size, f"{name} is beyond the sensor's {axis_size} pixels", pixels)
    if events.p.max() > 1:
        _refuse_first(events.p > 1, "polarity is neither 0 nor 1", events.p)
    backwards = events.t_us[1:] < events.t_us[:-1]
    if backwards.any():
        i = int(np.argmax(backwards)) + 1
        raise InputError(f"event {i}: time {events.t_us[i]} us follows {events.t_us[i - 1]} us; sort by time before")


def _refuse_first(bad: np.ndarray, complaint: str, values: np.ndarray) -> None:
    if bad.any():
        i = int(np.argmax(bad))
        raise InputError(f"event {i}: {complaint} (value {values[i]})")
