"""How far an estimate may be off: the noise of its events, what its parts dispute, and the hysteresis of the pixels."""

import math

import numpy as np
from jaxtyping import Float

from pauca.events.kernels.linear import invert
from pauca.events.newton import LEAST_PIVOT, Optimum
from pauca.events.types import Packet

CALIBRATION = 1.4
"""The factor on the variance by the noise of the events, with the other terms below and those of `history`. Fitted to
the errors of 3,500 packets of the moving trials of `benchmarks/events_trust.py`: 1.51 with seed 7, 1.33 with seed 8.
With 1.4 the 68 % interval holds 72 and 70 %, the 95 % interval 94 and 95 %, for large deviations as for small ones."""

_ROLL = 1 / 3
"""Part of that for a roll; fitted 0.33 and 0.34. Pixels that lag behind their edges shift all of an image alike: an
error of pan and tilt, which events do not show as noise. A roll shifts opposite sides to opposite directions."""

_SCALES = CALIBRATION * np.sqrt(np.outer([1, 1, _ROLL], [1, 1, _ROLL]))
_FLATTEST = 0.2  # least curvature, relative to the Fisher matrix, that is believed
_HYSTERESIS_PIXELS = 1.3  # how far the image of an edge may lag behind the edge
_FORGET_PIXELS = 1.5  # over how much motion in one direction it does so
_ALONG = np.linspace(0, 1, 21)[:, None]  # where in a packet its flow is looked at


def sharpness_of(optimum: Optimum) -> float:
    """Mean ratio of the curvature that the search has learned to the Fisher matrix.

    Sharp edges have 2 to 4, and errors of a fifth of what the Fisher matrix says; smooth texture that hardly moved has
    0.4, and errors of five times that.
    """
    return max(float(np.trace(optimum.shape)) / len(optimum.shape), _FLATTEST)


def noise_of(optimum: Optimum, sharpness: float) -> Float[np.ndarray, "n n"]:
    """What the noise of the events leaves open: the sandwich H^-1 F H^-1 of curvature H and Fisher matrix F, with
    H = sharpness x F: single entries of a curvature that few steps have seen mean little."""
    fisher = optimum.here.fisher
    noise = np.empty_like(fisher)
    if not invert(fisher, LEAST_PIVOT, noise):
        noise = np.linalg.inv(fisher)  # raises where it is singular
    return noise / sharpness**2


def calibrated(noise: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """Covariance of velocities of which the noise is known."""
    return noise * _SCALES[: len(noise), : len(noise)]


def hysteresis_of(
    packet: Packet, point: Float[np.ndarray, "n"], pixels: Float[np.ndarray, "k"]
) -> Float[np.ndarray, "k k"]:
    """Covariance of a velocity by the hysteresis of the pixels: one that has fired ON needs a step of both thresholds
    to fire OFF. Where the direction turns within the packet, or the image moves little, events lie beside the edge
    that caused them, alike in all of the packet.

    Args:
        packet: the events.
        point: the motion found.
        pixels: by how much one unit of each component moves the average pixel in a second.
    """
    duration_s = (packet.end_us - packet.start_us) * 1e-6
    lag = _HYSTERESIS_PIXELS * _lagging(packet, point, len(pixels), pixels) / (pixels * duration_s)
    return np.diag(lag**2)


def _lagging(packet: Packet, point: np.ndarray, k: int, pixels: np.ndarray) -> float:
    """Which part of the hysteresis shows: all of it if the direction reverses or nothing moves, none of it in a long,
    straight motion."""
    start_s, end_s = (packet.start_us - packet.t_ref_us) * 1e-6, (packet.end_us - packet.t_ref_us) * 1e-6
    acceleration = point[k:] if len(point) > k else np.zeros(k)
    # Pixels a second.
    flow = point[:k] * pixels + (start_s + (end_s - start_s) * _ALONG) * (acceleration * pixels)
    speed = np.sqrt(np.einsum("ij,ij->i", flow, flow))
    turn = (1 - float(flow[0] @ flow[-1]) / (float(speed[0] * speed[-1]) + 1e-9)) / 2
    moved = float(speed.sum()) / len(speed) * (end_s - start_s)
    return math.hypot(turn, math.exp(-((moved / _FORGET_PIXELS) ** 2)))
