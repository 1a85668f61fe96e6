"""How far an estimate may be off: the noise of its events, what its parts dispute, and the hysteresis of the pixels."""

import numpy as np
from jaxtyping import Float

from pauca.events.newton import Optimum
from pauca.events.types import Packet

CALIBRATION = 1.12
"""The one factor on the covariance that makes 95 % intervals hold 95 %, with the terms below: over 1,806 packets of the
moving trials of `benchmarks/events_trust.py` with seed 7 (without 1280 x 720). The 68 % interval then holds 77 %,
because errors at reversals have heavier tails than a Gaussian; 0.7 % of packets are off by more than four standard
deviations; Spearman of error and deviation is 0.55."""

_FLATTEST = 0.2  # least curvature, relative to the Fisher matrix, that is believed
_HYSTERESIS_PIXELS = 1.0  # how far the image of an edge may lag behind the edge
_FORGET_PIXELS = 1.5  # over how much motion in one direction it does so


def sharpness_of(optimum: Optimum) -> float:
    """Mean ratio of the curvature that the search has learnt to the Fisher matrix.

    Sharp edges have 2 to 4, and errors of a fifth of what the Fisher matrix says; smooth texture that hardly moved has
    0.4, and errors of five times that.
    """
    return max(float(np.trace(optimum.shape)) / len(optimum.shape), _FLATTEST)


def noise_of(optimum: Optimum, sharpness: float) -> Float[np.ndarray, "n n"]:
    """What the noise of the events leaves open: the sandwich H^-1 F H^-1 of curvature H and Fisher matrix F, with
    H = sharpness x F: single entries of a curvature that few steps have seen mean little."""
    return np.linalg.inv(optimum.here.fisher) / sharpness**2


def covariance_of(
    packet: Packet,
    optimum: Optimum,
    sharpness: float,
    dispute: float,
    pixels: Float[np.ndarray, "k"],
) -> Float[np.ndarray, "k k"]:
    """Covariance of the velocity at an optimum.

    To the noise of the events comes hysteresis: a pixel that has fired ON needs a step of both thresholds to fire OFF.
    Where the direction turns within the packet, or the image moves little, events lie beside the edge that caused
    them, alike in all of the packet.

    Args:
        packet: the events.
        optimum: where the search ended.
        sharpness: see `sharpness_of`.
        dispute: see `Consistencies.dispute`.
        pixels: by how much one unit of each component moves the average pixel in a second.
    """
    k = len(pixels)
    noise = dispute**2 * noise_of(optimum, sharpness)[:k, :k]
    duration_s = (packet.end_us - packet.start_us) * 1e-6
    lag = _HYSTERESIS_PIXELS * _lagging(packet, optimum.point, k, pixels) / (pixels * duration_s)
    return CALIBRATION * (noise + np.diag(lag**2))


def _lagging(packet: Packet, point: np.ndarray, k: int, pixels: np.ndarray) -> float:
    """Which part of the hysteresis shows: all of it if the direction reverses or nothing moves, none of it in a long,
    straight motion."""
    times = np.linspace(packet.start_us - packet.t_ref_us, packet.end_us - packet.t_ref_us, 21) * 1e-6
    acceleration = point[k:] if len(point) > k else np.zeros(k)
    flow = (point[:k] + times[:, None] * acceleration) * pixels  # pixels a second
    speed = np.linalg.norm(flow, axis=1)
    turn = (1 - float(flow[0] @ flow[-1]) / (speed[0] * speed[-1] + 1e-9)) / 2
    moved = float(speed.mean()) * (packet.end_us - packet.start_us) * 1e-6
    return float(np.hypot(turn, np.exp(-((moved / _FORGET_PIXELS) ** 2))))
