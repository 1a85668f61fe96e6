"""Whether the parts of a packet, in time and over the sensor, tell the motion that was found for all of it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pauca.events.kernels.parts import accumulate_parts, compare_parts
from pauca.events.score import Score
from pauca.events.types import Packet

_IN_TIME = 3.0  # 10 of 1,093 ordinary packets are above, at reversals; of those of a vibration of 60 Hz all
_OVER_SENSOR = 10.0  # 3 of 1,093 (shapes at 2,000 deg/s); of those half of a moving object nine in ten
_SEEN_PIXELS = 0.1  # a smaller displacement of the parts disputes nothing, however certain it is
_FAR_PIXELS = 0.25  # a larger one in time disputes however uncertain it is: 4 of 1,754 ordinary packets, at 2 deg/s
SPANS = 8  # of a packet, with as many events each
COLUMNS, ROWS = 4, 3  # of the sensor


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
        """By how much the variance is larger than that of independent events; at least one."""
        return max(1.0, self.in_time.ratio) * max(1.0, self.over_sensor.ratio)

    @property
    def moves_within(self) -> bool:
        """Whether parts in time lie apart: a vibration is back where it began after its period."""
        return self.in_time.ratio > _IN_TIME

    @property
    def object_moves(self) -> bool:
        """Whether parts of the sensor tell other motions."""
        return self.over_sensor.ratio > _OVER_SENSOR and self.over_sensor.pixels > _SEEN_PIXELS

    @property
    def disputed(self) -> bool:
        """Whether some parts tell another motion."""
        seen = self.moves_within and self.in_time.pixels > _SEEN_PIXELS
        return seen or self.object_moves or self.in_time.pixels > _FAR_PIXELS


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
    spans, regions = sums_over_parts(packet, score.slopes) if score.parts is None else score.parts()
    half_s = (packet.end_us - packet.start_us) * 0.5e-6
    lever = pixels / sharpness
    return Consistencies(_compare(spans, parameters, lever), _compare(regions, parameters, lever * half_s))


def sums_over_parts(
    packet: Packet, slopes: Float[np.ndarray, "k n"]
) -> tuple[Float[np.ndarray, "spans 9"], Float[np.ndarray, "regions 9"]]:
    """Sums of the events' slopes and of their products, see `accumulate_parts`."""
    spans, regions = np.empty((SPANS, 9)), np.empty((COLUMNS * ROWS, 9))
    grid = (*_slots(packet.x, COLUMNS), *_slots(packet.y, ROWS))
    accumulate_parts(slopes, packet.x, packet.y, packet.dt_s, grid, spans, regions)
    return spans, regions


def _slots(values: np.ndarray, slots: int) -> tuple[int, float, float]:
    """Equal parts of a range: how many, where it begins, and parts per unit."""
    low, high = float(values.min()), float(values.max())
    return slots, low, slots / max(high - low, 1e-9)


def _compare(sums: Float[np.ndarray, "parts 9"], parameters: int, lever: Float[np.ndarray, "k"]) -> Consistency:
    total, square, regular = compare_parts(sums, lever)
    if not regular:
        return Consistency(1.0, 0.0)
    return Consistency(float(total) / max(1, regular * len(lever) - parameters), float(np.sqrt(square)))
