"""What a chain asks of the device, in which numbers, and how a scorer asks: `Scorer` and `Packet` as the search knows
them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from pauca.events.consistency import COLUMNS, ROWS, SPANS
from pauca.events.score import Score, Scorer
from pauca.events.types import Events, Packet

Sums = tuple[Float[np.ndarray, "spans 9"], Float[np.ndarray, "regions 9"]]
"""What `consistency.sums_over_parts` gives."""

QUESTION = 11
"""Numbers of a question: frame, whether about parts, first event, number of events, lower bits of the reference time,
velocity, acceleration."""


@dataclass(frozen=True, eq=False)
class DevicePacket(Packet):
    """A packet whose events are on the device: bearings and times here are NaN, and only their number is true."""

    first: int  # index of its first event among all on the device

    @property
    def t_ref_low_us(self) -> int:
        """The lower 32 bits of the reference time, as a signed number: differences to times that are stored so are
        right up to 35 minutes."""
        return (self.t_ref_us + (1 << 31)) % (1 << 32) - (1 << 31)


@dataclass(frozen=True, eq=False)
class Resident:
    """Events that are on the device, too."""

    events: Events
    first: int  # index of the first of them there

    def packet(self, window: Events, t_ref_us: int) -> DevicePacket | None:
        """The packet of a window that is a view of these events; None if it is none."""
        ours, theirs = (each.t_us.__array_interface__["data"][0] for each in (self.events, window))
        offset, rest = divmod(theirs - ours, self.events.t_us.itemsize)
        if rest or not 0 <= offset <= len(self.events) - len(window):
            return None
        start_us = int(window.t_us[0])
        nothing = np.broadcast_to(np.float32(np.nan), len(window))
        return DevicePacket(
            nothing,
            nothing,
            nothing,
            window.p,
            t_ref_us,
            start_us,
            start_us + window.duration_us,
            self.first + offset,
        )


class Request(NamedTuple):
    """One question: the score of a packet at a motion, or what its parts say there."""

    level: int  # which of the frames: full, half and quarter resolution
    packet: DevicePacket
    velocity: Float[np.ndarray, "k"]
    acceleration: Float[np.ndarray, "k"] | None
    parts: bool = False


class Found(NamedTuple):
    """The answer to a request for a score: a `Score` without slopes."""

    above_empty: float
    gradient: Float[np.ndarray, "2k"]
    fisher: Float[np.ndarray, "2k 2k"]
    inside: int


Ask = Callable[[Request], Any]
Answers = Callable[[Float64[np.ndarray, "r 11"]], list[np.ndarray]]
"""From questions to their answers, each a row of numbers."""


def answered(requests: list[Request], answers: Answers, k: int) -> list[Found | Sums]:
    """A `Found` for each request, or the sums over parts where these are asked for.

    Args:
        requests: of several chains.
        answers: asks the device.
        k: how many velocities a motion has.
    """
    rows = answers(as_rows(requests))
    scores = [row for request, row in zip(requests, rows, strict=True) if not request.parts]
    found = iter(_found(np.array(scores), k)) if scores else iter(())
    split = SPANS * 9
    return [
        (row[:split].reshape(SPANS, 9), row[split:].reshape(ROWS * COLUMNS, 9)) if request.parts else next(found)
        for request, row in zip(requests, rows, strict=True)
    ]


def moments_of(k: int) -> int:
    """How many sums `gather` gives: of s u and s^2/2 u, and of s^2, s^3/2 and s^4/4 times the products u u'."""
    return 2 * k + 3 * (k * (k + 1) // 2)


def as_rows(requests: list[Request]) -> Float64[np.ndarray, "r 11"]:
    """The numbers of each question."""
    rows = np.zeros((len(requests), QUESTION))
    for row, (level, packet, velocity, acceleration, parts) in zip(rows, requests, strict=True):
        row[:5] = level, parts, packet.first, len(packet), packet.t_ref_low_us
        row[5 : 5 + len(velocity)] = velocity
        if acceleration is not None:
            row[8 : 8 + len(acceleration)] = acceleration
    return rows


def _found(numbers: Float64[np.ndarray, "r m"], k: int) -> list[Found]:
    """From score, events inside and the sums of `gather`."""
    products = numbers[:, 2 + 2 * k :].reshape(len(numbers), 3, -1)
    fishers = np.empty((len(numbers), 2 * k, 2 * k))
    lower = np.tril_indices(k)
    for part, (rows, columns) in zip((0, 1, 1, 2), ((0, 0), (0, k), (k, 0), (k, k)), strict=True):
        fishers[:, rows + lower[0], columns + lower[1]] = products[:, part]
        fishers[:, rows + lower[1], columns + lower[0]] = products[:, part]
    return [
        Found(float(row[0]), row[2 : 2 + 2 * k], fisher, int(row[1]))
        for row, fisher in zip(numbers, fishers, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class DeviceScorer(Scorer):
    """Scores a packet by asking for it."""

    ask: Ask | None = None
    level: int = 0

    def __call__(
        self,
        packet: Packet,
        velocity: Float[np.ndarray, "k"],
        acceleration: Float[np.ndarray, "k"] | None = None,
    ) -> Score:
        """Score of the packet for this motion; its slopes stay on the device."""
        assert self.ask is not None
        assert isinstance(packet, DevicePacket)
        ask, request = self.ask, Request(self.level, packet, velocity, acceleration)
        found: Found = ask(request)
        return Score(
            found.above_empty + self.empty(len(packet)),
            found.gradient,
            found.fisher,
            found.inside,
            np.empty((self.warp.parameters, 0), np.float32),
            lambda: ask(request._replace(parts=True)),
        )
