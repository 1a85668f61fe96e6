"""Whether the parts of a packet, in time and over the sensor, tell the motion that was found for all of it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pauca.events.kernels.parts import accumulate_parts
from pauca.events.newton import scaled_cholesky
from pauca.events.score import Score
from pauca.events.types import Packet

_IN_TIME = 3.0  # 10 of 1,093 ordinary packets are above, at reversals; of those of a vibration of 60 Hz all
_OVER_SENSOR = 10.0  # 3 of 1,093 (shapes at 2,000 deg/s); of those half of a moving object nine in ten
_SEEN_PIXELS = 0.1  # a smaller displacement of the parts disputes nothing, however certain it is
_SPANS = 8  # of a packet, with as many events each
_COLUMNS, _ROWS = 4, 3  # of the sensor


class Consistency(NamedTuple):
    """How far parts of a packet contradict the motion of the whole."""

    ratio: float  # the sum of g' F^-1 g over its degrees of freedom: about one where the motion explains all parts
    pixels: float  # root mean square of where the parts would like to be instead


class Consistencies(NamedTuple):
    """Over the time of a packet, and over the sensor."""

    in_time: Consistency
    over_sensor: Consistency

    @property
    def dispute(self) -> float:
        """By how much more the errors of the events add up than independent ones would; at least one."""
        return max(1.0, self.in_time.ratio, self.over_sensor.ratio)

    @property
    def disputed(self) -> bool:
        """Whether some parts tell another motion."""
        limits = ((self.in_time, _IN_TIME), (self.over_sensor, _OVER_SENSOR))
        return any(found.ratio > limit and found.pixels > _SEEN_PIXELS for found, limit in limits)


def consistencies(
    packet: Packet, score: Score, parameters: int, sharpness: float, pixels: Float[np.ndarray, "k"]
) -> Consistencies:
    """Ask the events of eighths of the packet how they would like to be shifted from where the motion puts them, and
    the events of twelfths of the sensor at which velocity they would like to move.

    A vibration, or a reversal, within the packet shows in the first; things that move by themselves, a translation near
    a scene or a wrong calibration in the second. It costs no evaluation: the slopes are those at the motion found.

    Args:
        packet: the events.
        score: their score at the motion.
        parameters: how many were estimated.
        sharpness: curvature of the score over its Fisher matrix.
        pixels: by how much one unit of each velocity moves the average pixel in a second.
    """
    spans = (np.arange(len(packet)) * _SPANS // max(1, len(packet))).astype(np.uint8)
    in_time = _compare(score, np.ones(len(packet), np.float32), spans, _SPANS, parameters, pixels / sharpness)
    regions = _slot(packet.x, _COLUMNS) + _COLUMNS * _slot(packet.y, _ROWS)
    half_s = (packet.end_us - packet.start_us) * 0.5e-6
    lever = pixels * half_s / sharpness
    over_sensor = _compare(score, packet.dt_s, regions.astype(np.uint8), _COLUMNS * _ROWS, parameters, lever)
    return Consistencies(in_time, over_sensor)


def _slot(values: np.ndarray, slots: int) -> np.ndarray:
    """Which of equal parts of their range each value is in."""
    low, high = float(values.min()), float(values.max())
    return np.clip((values - low) / max(high - low, 1e-9) * slots, 0, slots - 1).astype(np.int64)


def _compare(
    score: Score, weight: np.ndarray, part: np.ndarray, parts: int, parameters: int, lever: np.ndarray
) -> Consistency:
    k = len(score.slopes)
    gradient, fisher = np.empty((parts, k)), np.empty((parts, k, k))
    accumulate_parts(score.slopes, weight, part, gradient, fisher)
    total, steps = 0.0, []
    for g, f in zip(gradient, fisher, strict=True):
        if scaled_cholesky(f) is not None:
            step = np.linalg.solve(f, g)
            total += float(g @ step)
            steps.append(step * lever)
    if not steps:
        return Consistency(1.0, 0.0)
    pixels = np.sqrt(np.mean(np.sum(np.square(steps), axis=1)))
    return Consistency(total / max(1, k * len(steps) - parameters), float(pixels))
