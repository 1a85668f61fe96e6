"""What the packets before tell about one: whether its motion follows from theirs, and how far it bends within."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from pauca.events.consistency import Consistencies
from pauca.events.kernels.linear import solve
from pauca.events.newton import LEAST_PIVOT
from pauca.events.packets import Estimate
from pauca.events.types import Packet, Status
from pauca.events.uncertainty import calibrated

_USUAL = 2.0  # contradiction below which the noise stays as it is: 93 % of 3,700 packets of moving trials
_CONTRADICTED, _APART_PIXELS = 4.0, 3.0  # from both on a packet is disputed: 1 %, most of them of a vibration
_BENDS = 40.0  # a motion with jerk j, fitted without it over T seconds, is off by j T^2 / 40 in its middle
_AFTER_OBJECT_US, _OVER_SENSOR = 100_000, 2.0  # packets that followed the object alone: up to 82 ms after, 2.2 to 9.9
_REMEMBERED_US = 1_000_000
# Half of a packet may have a motion of its own (`halves`) where parts of the sensor disagree by so much: one in twelve
# ordinary simulated packets, and all real ones; where halves agree, the next is asked after so many microseconds.
_ASKED_FROM, _ASKED_EVERY_US = 2.0, 200_000
_FURTHEST = 3.0  # times the longer packet; between the middles of packets that are compared
_UNEVEN = 4.0  # one of the gaps that tell a jerk may be so many times the other


class _Past(NamedTuple):
    t_us: int
    duration_us: int
    point: Float[np.ndarray, "2k"]
    noise: Float[np.ndarray, "2k 2k"]
    jerk: Float[np.ndarray, "k"]  # change of the acceleration per second, by the packets before


@dataclass(frozen=True, eq=False)
class History:
    """The packets of the last second; never changes, so that an aligner can go back to it.

    What a packet cannot know by itself: a vibration in its whole length, or a reversal that the hysteresis of the
    pixels falsifies, leaves parts of the packet in agreement. Then the velocities of packets that follow each other
    differ by another amount than their accelerations tell, or bend.
    """

    pixels: Float[np.ndarray, "k"]  # a second, by which one unit of each velocity moves the average pixel
    _past: tuple[_Past, ...] = ()
    _object_us: int | None = None  # end of the last packet with something moving by itself
    _asked_us: int | None = None  # end of the last packet of which halves were asked

    def told(self, after_us: int) -> dict[str, Any]:
        """Plain values of what was remembered after a time: enough to restore it, with all that was told before."""
        past = [
            {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in one._asdict().items()}
            for one in self._past
            if one.t_us > after_us
        ]
        return {"past": past, "object_us": self._object_us, "asked_us": self._asked_us}

    @classmethod
    def restored(cls, pixels: Float[np.ndarray, "k"], told: Iterable[dict[str, Any]]) -> "History":
        """A history from what others told, in order."""
        past: list[_Past] = []
        object_us = asked_us = None
        for values in told:
            object_us, asked_us = values["object_us"], values.get("asked_us")
            past += [
                _Past(one["t_us"], one["duration_us"], *(np.array(one[name]) for name in ("point", "noise", "jerk")))
                for one in values["past"]
            ]
        recent = (one for one in past if one.t_us > past[-1].t_us - _REMEMBERED_US)
        return cls(pixels, tuple(recent), object_us, asked_us)

    def asks(self, packet: Packet, estimate: Estimate) -> bool:
        """Whether halves of a packet that has been judged are to be asked for motions of their own."""
        if estimate.status is not Status.CONVERGED or estimate.parts is None:
            return False
        recent = self._asked_us is not None and 0 <= packet.end_us - self._asked_us < _ASKED_EVERY_US
        return not recent and estimate.parts.over_sensor.ratio > _ASKED_FROM

    def answered(self, packet: Packet, estimate: Estimate, disagree: bool) -> tuple[Estimate, "History"]:
        """The estimate and the past, knowing whether halves of the packet have motions of their own."""
        if not disagree:
            return estimate, replace(self, _asked_us=packet.end_us)
        # No object is remembered: a whole that is wrong follows nothing, and one wrong window of a millisecond cost all
        # of the next 100 ms. The next packet is asked by itself.
        return estimate._replace(status=Status.DISPUTED), self

    def judge(self, packet: Packet, estimate: Estimate) -> tuple[Estimate, "History"]:
        """The estimate with what its past adds to the covariance, or disputed by it; and the past of the next one."""
        if estimate.noise is None or estimate.parts is None:
            return estimate, self
        if self._past and packet.t_ref_us < self._past[-1].t_us - _REMEMBERED_US:  # another recording
            return History(self.pixels).judge(packet, estimate)
        k, duration_us = len(self.pixels), packet.end_us - packet.start_us
        now = _Past(packet.t_ref_us, duration_us, estimate.point, estimate.noise, np.zeros(k))
        disputed, covariance = self._may_follow_object(packet, estimate.parts), estimate.covariance
        before = self._before(now, _FURTHEST * duration_us)
        if before is not None:
            now = now._replace(jerk=self._jerk(now, before))
            contradiction, apart = _compare(before, now, self.pixels)
            disputed |= contradiction > _CONTRADICTED and apart > _APART_PIXELS
            more = max(1.0, (contradiction / _USUAL) ** 2) - 1
            bend = np.maximum(np.abs(now.jerk), np.abs(before.jerk)) * (duration_us * 1e-6) ** 2 / _BENDS
            covariance = covariance + more * calibrated(now.noise[:k, :k]) + np.diag(bend**2)
        past = self._past
        if estimate.status in (Status.CONVERGED, Status.DISPUTED):
            past = (*past[_forgotten(past, now.t_us) :], now)
        object_us = packet.end_us if estimate.parts.object_moves else self._object_us
        status = Status.DISPUTED if disputed and estimate.status is Status.CONVERGED else estimate.status
        judged = estimate._replace(covariance=covariance, status=status)
        return judged, History(self.pixels, past, object_us, self._asked_us)

    def _before(self, now: _Past, longest_us: float) -> _Past | None:
        """The last packet with its middle half a packet earlier, if it is not long ago."""
        for past in reversed(self._past):
            gap_us = now.t_us - past.t_us
            if 2 * gap_us >= now.duration_us:
                return past if gap_us <= max(longest_us, _FURTHEST * past.duration_us) else None
        return None

    def _jerk(self, now: _Past, before: _Past) -> Float[np.ndarray, "k"]:
        """Second difference of the velocity: those of accelerations would be ten times as noisy."""
        k = len(self.pixels)
        first = self._before(before, _FURTHEST * now.duration_us)
        if first is None:
            return np.zeros(k)
        early_s, late_s = (before.t_us - first.t_us) * 1e-6, (now.t_us - before.t_us) * 1e-6
        if max(early_s, late_s) > _UNEVEN * min(early_s, late_s):
            return np.zeros(k)
        early = (before.point[:k] - first.point[:k]) / early_s
        late = (now.point[:k] - before.point[:k]) / late_s
        return 2 * (late - early) / (early_s + late_s)

    def _may_follow_object(self, packet: Packet, parts: Consistencies) -> bool:
        """Whether it may be the motion of what moved by itself in the packets before: it swings, and fills the image
        with events where the camera is slow."""
        recent = self._object_us is not None and packet.start_us - self._object_us < _AFTER_OBJECT_US
        return recent and parts.over_sensor.ratio > _OVER_SENSOR


def _forgotten(past: tuple[_Past, ...], t_us: int) -> int:
    """How many of the packets, which are in order, are too long ago: windows of a millisecond make a thousand."""
    return next((i for i, one in enumerate(past) if one.t_us > t_us - _REMEMBERED_US), len(past))


def _compare(before: _Past, now: _Past, pixels: Float[np.ndarray, "k"]) -> tuple[float, float]:
    """How much the step between two velocities differs from what the accelerations tell: in standard deviations (root
    mean square over the components) and in pixels over the packet."""
    k, half_s = len(pixels), (now.t_us - before.t_us) * 0.5e-6
    apart, noise = np.zeros(k), np.zeros((k, k))
    for sign, past in ((1.0, now), (-1.0, before)):
        s = -sign * half_s  # each velocity as it is half-way between them
        apart += sign * (past.point[:k] + s * past.point[k:])
        noise += past.noise[:k, :k] + s * (past.noise[:k, k:] + past.noise[k:, :k]) + s**2 * past.noise[k:, k:]
    step = np.empty(k)
    if not solve(noise, apart, LEAST_PIVOT, step):
        step = np.linalg.solve(noise, apart)
    squared = float(apart @ step) / k
    return math.sqrt(max(0.0, squared)), math.hypot(*(apart * pixels)) * now.duration_us * 1e-6
