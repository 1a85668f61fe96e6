"""Whether the events of a window agree with the motion that was found for all of them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pauca.events.consistency import Consistencies, consistencies
from pauca.events.continuous.groups import ROLL
from pauca.events.continuous.window import Window
from pauca.events.kernels.cells import slopes_in_cells
from pauca.events.score import Score
from pauca.events.trajectory import Trajectory
from pauca.events.types import Packet, Status
from pauca.events.warp import Frame

# Windows of ordinary motion of seven simulated scenes: the ratio in time is 2.4 to 6 (80 %), over the sensor 1 to 5.8.
_USUAL = 4.0  # in time; where it is higher, errors add up: its rank correlation with the error is 0.4 to 0.75
_IN_TIME = 100.0  # a vibration between the knots: 280 to 750; within reach of the knots up to 55, ordinary motion 10
_IN_TIME_PIXELS = 0.2  # and 0.3 to 0.6; 0.03 to 0.1 in ordinary motion
_OVER_SENSOR = 10.0  # nine in ten windows with half of the events on a moving object
_OVER_SENSOR_PIXELS = 0.1


class Warped(NamedTuple):
    """Where a search ended: warped pixels, and the slope of the score at each event."""

    x: Float[np.ndarray, "n"]
    y: Float[np.ndarray, "n"]
    slope_x: Float[np.ndarray, "n"]
    slope_y: Float[np.ndarray, "n"]


class Dispute(NamedTuple):
    """What the parts of a window say."""

    factor: float  # by which errors are larger than independent ones would be, squared
    in_time: bool  # parts of the window contradict it, in time
    over_sensor: bool  # or some part of the sensor does


def dispute(window: Window, warped: Warped, frame: Frame, parameters: int, sharpness: float) -> Dispute:
    """Compare parts of a window, in time and over the sensor, with its motion; costs no evaluation."""
    time, sensor = _consistencies(window, warped, frame, parameters, sharpness)
    return Dispute(
        max(1.0, time.ratio / _USUAL),
        time.ratio > _IN_TIME and time.pixels > _IN_TIME_PIXELS,
        sensor.ratio > _OVER_SENSOR and sensor.pixels > _OVER_SENSOR_PIXELS,
    )


def confirmed(
    packets: Trajectory, knots_us: Float[np.ndarray, "knots"], within_us: float = 30_000.0
) -> Bool[np.ndarray, "knots"]:
    """Where a packet nearby is disputed, too: windows of fast ordinary motion alone can be, one in thirteen of them."""
    disputed = np.array([status is Status.DISPUTED for status in packets.status])
    counts = np.concatenate([[0], np.cumsum(disputed)])
    first = np.searchsorted(packets.end_us, knots_us - within_us)
    last = np.searchsorted(packets.start_us, knots_us + within_us, side="right")
    return counts[np.maximum(first, last)] > counts[first]


def persistent(
    disputed: Bool[np.ndarray, "knots"], knots_us: Float[np.ndarray, "knots"], within_us: float = 100_000.0
) -> Bool[np.ndarray, "knots"]:
    """Where a quarter of the knots nearby are disputed: what moves by itself does so for a while."""
    counts = np.concatenate([[0], np.cumsum(disputed)])
    first = np.searchsorted(knots_us, knots_us - within_us)
    last = np.searchsorted(knots_us, knots_us + within_us, side="right")
    return 4 * (counts[last] - counts[first]) > last - first


def _consistencies(window: Window, warped: Warped, frame: Frame, parameters: int, sharpness: float) -> Consistencies:
    fx, fy, cx, cy = frame.intrinsics
    intrinsics = np.float32(fx), np.float32(fy), np.float32(cx), np.float32(cy)
    slopes, dt_s = np.empty((3, len(window.x)), np.float32), np.empty(len(window.x), np.float32)
    where = window.fraction, window.first, intrinsics, window.reference, np.float32(window.step_s)
    slopes_in_cells(*warped, *where, slopes, dt_s)
    half_us = round(window.step_s * 0.5e6 * (len(window.first) - 1))
    packet = Packet(window.x, window.y, dt_s, window.image, 0, -half_us, half_us)
    score = Score(0.0, np.zeros(6), np.zeros((6, 6)), len(window.x), slopes)
    pixels = np.array([fy, fx, ROLL * frame.camera.size[0]])
    return consistencies(packet, score, parameters, sharpness, pixels)
