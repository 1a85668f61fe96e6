"""What knots and packets say together: the velocity at the knots, how far it may be off, whether it can be trusted.

Knots follow a motion that bends, and wander where it is slow; packets know their own mean and nothing within. They err
in other places, so that together they are off by less than either.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pauca.events.trajectory import Trajectory
from pauca.events.types import Status

# Fitted to the errors of the moving trials of `benchmarks/events_trust.py` with seeds 7 and 8.
_STATED = 0.44  # part of the deviations that windows and packets state, of their geometric mean
_LAG = 0.37  # part of the geometric mean of what packets state and of a lag of the events by a pixel
_PIXELS = 0.0042  # from knot to knot; large sensors have so many events that what is stated is far below it
_BENDS = 0.26  # part of the bend at a knot

_LAG_PIXELS = 0.3  # by which the events of a packet lag, when it is weighed against the knots
_DOUBT = 2.0  # times the variance that a packet states, when it is weighed against the knots
_SLOWEST = 20.0  # pixels a second; below, a lag is no longer in time
_CONTRADICTED = 4.0  # joint deviations between a packet and the knots within it
_FAR_US = 20_000
_NOTHING = 1e4  # (rad/s)^2; variance of a knot about which its windows say nothing, which packets then decide
_SAMPLES = 21
_SEEN = (Status.CONVERGED, Status.REST, Status.DISPUTED)  # packets that have found a motion


def reconciled(knots: Trajectory, packets: Trajectory, pixels: Float[np.ndarray, "3"]) -> Trajectory:
    """The knots, drawn towards the velocities of packets as far as these are surer, with covariances of both.

    Args:
        knots: a velocity that is linear between them.
        packets: of the same recording.
        pixels: a second, by which one unit of each velocity moves the average pixel.
    """
    seen = np.array([status in _SEEN for status in packets.status]) & np.isfinite(packets.covariance).all(axis=(1, 2))
    if len(knots) < 2 or not seen.any():
        return knots
    said, stated = _Packets.of(packets, seen), knots.covariance
    known = np.array([np.isfinite(each).all() for each in stated])
    knots = replace(knots, covariance=np.where(known[:, None, None], stated, _NOTHING * np.eye(3)))
    moves = known & ~np.array([status is Status.REST for status in knots.status])
    covariance = _covariance(knots, said, pixels)
    compared = _compare(knots, covariance, said, pixels)
    velocity = knots.velocity + moves[:, None] * compared.correction
    return replace(
        knots,
        velocity=velocity,
        covariance=np.where(moves[:, None, None], covariance, stated),
        acceleration=_slopes(velocity, knots),
        status=_status(knots, packets, compared.contradiction),
    )


def _status(knots: Trajectory, packets: Trajectory, contradiction: Float[np.ndarray, "knots"]) -> tuple[Status, ...]:
    """What the windows say, if the packet that holds a knot does not know better.

    A packet that found nothing, or none nearby: the prior alone may have drawn a line to there. A knot at rest in a
    packet that is disputed moves, in one by 56 deg/s. What packets dispute and knots do not, they have resolved: 234 of
    such knots are off by more than four deviations as seldom as the others.
    """
    last = np.clip(np.searchsorted(packets.start_us, knots.t_us, side="right") - 1, 0, len(packets) - 1)
    outside_us = np.maximum(knots.t_us - packets.end_us[last], packets.start_us[last] - knots.t_us)
    told = []
    for status, packet, gap_us, apart in zip(
        knots.status, [packets.status[i] for i in last], outside_us, contradiction, strict=True
    ):
        if status.trusted and (packet not in _SEEN or gap_us > _FAR_US):
            told.append(Status.DEGENERATE)
        elif status.trusted and (apart > _CONTRADICTED or (status, packet) == (Status.REST, Status.DISPUTED)):
            told.append(Status.DISPUTED)
        else:
            told.append(status)
    return tuple(told)


class _Packets(NamedTuple):
    """The packets that have found a motion."""

    t_us: Float[np.ndarray, "n"]  # their middles
    half_us: Float[np.ndarray, "n"]
    velocity: Float[np.ndarray, "n 3"]
    covariance: Float[np.ndarray, "n 3 3"]

    @classmethod
    def of(cls, packets: Trajectory, seen: Bool[np.ndarray, "packets"]) -> "_Packets":
        middle_us, half_us = (packets.start_us + packets.end_us) / 2, (packets.end_us - packets.start_us) / 2
        return cls(middle_us[seen], half_us[seen], packets.velocity[seen], packets.covariance[seen])


def _as_packets_see(knots: Trajectory, middle_us: np.ndarray, half_us: np.ndarray) -> Float[np.ndarray, "n 3"]:
    """The velocity that packets would find in their middles if the knots were right.

    What is fitted to displacements x(t), a velocity and an acceleration, has the velocity
    integral of x t dt / integral of t^2 dt: a mean of the velocities with the weight 1 - (t / half)^2.
    """
    at = np.linspace(-1, 1, _SAMPLES)
    weight = (1 - at**2) / np.sum(1 - at**2)
    times_us = middle_us[:, None] + half_us[:, None] * at
    return np.stack([np.interp(times_us, knots.t_us, part) @ weight for part in knots.velocity.T], axis=1)


def _interpolated(times_us: np.ndarray, t_us: np.ndarray, values: Float[np.ndarray, "n ..."]) -> np.ndarray:
    """Linear in between, constant beyond the ends; of arrays of any shape."""
    flat = values.reshape(len(values), -1)
    return np.stack([np.interp(times_us, t_us, part) for part in flat.T], axis=1).reshape(-1, *values.shape[1:])


def _covariance(knots: Trajectory, said: _Packets, pixels: np.ndarray) -> Float[np.ndarray, "knots 3 3"]:
    """Covariances with the correlations of the knots, and the deviations that the terms above add up to."""
    stated = _deviations(knots.covariance)
    by_packets = _interpolated(knots.t_us, said.t_us, _deviations(said.covariance))
    beyond = (knots.t_us < said.t_us[0]) | (knots.t_us > said.t_us[-1])
    by_packets = np.where(beyond[:, None], np.maximum(stated, by_packets), by_packets)  # no packet lies to one side
    variance = (_PIXELS / (pixels * np.gradient(knots.t_s)[:, None])) ** 2 + (_BENDS * _bends(knots)) ** 2
    variance += by_packets * (_STATED**2 * stated + _LAG**2 * _lag(knots, pixels))
    scale = np.sqrt(variance) / np.maximum(stated, 1e-12)
    return knots.covariance * scale[:, :, None] * scale[:, None, :]


def _deviations(covariance: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, "n 3"]:
    return np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))


def _lag(knots: Trajectory, pixels: np.ndarray) -> Float[np.ndarray, "knots 3"]:
    """What a velocity is off by if its events lag behind by a pixel: the acceleration times that time. Pixels wait for
    a threshold, before a smooth texture for longer than at a sharp edge, and there packets state more, too."""
    speed = np.linalg.norm(knots.velocity * pixels, axis=1)
    gain = np.linalg.norm(_slopes(knots.velocity, knots) * pixels, axis=1)
    return (gain / np.hypot(speed, _SLOWEST))[:, None] / pixels


def _bends(knots: Trajectory) -> Float[np.ndarray, "knots 3"]:
    """Second differences; those of the first and the last knot are their neighbors'."""
    if len(knots) < 3:
        return np.zeros_like(knots.velocity)
    return np.diff(knots.velocity, 2, axis=0)[np.clip(np.arange(len(knots)) - 1, 0, len(knots) - 3)]


def _slopes(velocity: np.ndarray, knots: Trajectory) -> Float[np.ndarray, "knots 3"]:
    return np.gradient(velocity, knots.t_s, axis=0)


class _Compared(NamedTuple):
    """How knots differ from packets, in the middle of each packet and linear in between."""

    correction: Float[np.ndarray, "knots 3"]  # the difference, as far as packets are surer: the shape stays the knots'
    contradiction: Float[np.ndarray, "knots"]  # in joint deviations, of the worst axis


def _compare(knots: Trajectory, covariance: np.ndarray, said: _Packets, pixels: np.ndarray) -> _Compared:
    ours = _interpolated(said.t_us, knots.t_us, np.diagonal(covariance, axis1=1, axis2=2))
    stated = np.diagonal(said.covariance, axis1=1, axis2=2)
    theirs = _DOUBT * stated + (_LAG_PIXELS * _interpolated(said.t_us, knots.t_us, _lag(knots, pixels))) ** 2
    apart = said.velocity - _as_packets_see(knots, said.t_us, said.half_us)
    contradiction = (np.abs(apart) / np.sqrt(ours + stated)).max(axis=1)
    moved, contradicted = (
        _interpolated(knots.t_us, said.t_us, each) for each in (ours / (ours + theirs) * apart, contradiction)
    )
    return _Compared(moved, contradicted)
