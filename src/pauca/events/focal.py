"""Whether the focal length is right: how pan and tilt move the border of the image, beside how they move its middle.

A turn by omega moves a point at x focal lengths from the axis by f omega (1 + x^2). In the middle of the image a wrong
focal length cannot be told from another velocity; towards the border it can. Half of a view of 60 degrees moves by a
third more there, and five percent of that are half a pixel in a packet of 24 pixels: little for one packet, much for
twenty. What events alone cannot tell is a scale that changes nothing at the border: of a roll, or of a narrow lens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from pauca.events.camera import Camera, undistortion_table
from pauca.events.given import expect
from pauca.events.kernels.bearings import look_up_bearings, seconds_since
from pauca.events.kernels.warp import rotate
from pauca.events.likelihood import NegativeBinomial
from pauca.events.score import Scorer
from pauca.events.settings import AlignConfig
from pauca.events.trajectory import Trajectory
from pauca.events.types import Alignment, Events, Status
from pauca.events.warp import Frame

_PACKETS = 16  # that are asked
_FEWEST = 6  # below, their scatter says too little
_MOVED_PIXELS = 4.0  # by pan and tilt, of a packet that is asked
_BESIDE = 0.03  # of the focal length, to both sides: where the slopes are taken
_STEP = 0.005  # of the focal length, for differences
_BEARING_STEP = 1e-3
_MARGIN = 1.0  # pixels from the edge of the sensor, which a point may not leave within the packet
_BORDER = 8  # pixels around the sensor; points that stay within it need no more
_TOO_SHORT = 0.006  # what right focal lengths seem to be, on average over the trials of `benchmarks/events_focal.py`
_FLOOR = 0.007  # and the standard deviation of that
_LARGEST = 0.05  # standard deviation from which on nothing is known
_DEVIATIONS = 3.0  # from which on the focal length is doubted
_UNIT = (np.float32(1), np.float32(1), np.float32(0), np.float32(0))


@dataclass(frozen=True)
class FocalLength:
    """By which factor the calibration's focal length should be multiplied, as the events see it."""

    factor: float
    sigma: float  # standard deviation of the factor
    packets: int  # that were asked

    @property
    def off(self) -> float:
        """By which share of itself the calibration's focal length is too long."""
        return 1 / self.factor - 1

    @property
    def doubtful(self) -> bool:
        """Whether the calibration's focal length contradicts the events."""
        return abs(self.factor - 1) > _DEVIATIONS * self.sigma

    def in_words(self) -> str:
        """A sentence for people."""
        percent, sigma = 100 * self.off, 100 * self.sigma / self.factor**2
        wrong = (
            f"the focal length seems {abs(percent):.1f} % too {'long' if percent > 0 else 'short'} (+- {sigma:.1f} %)"
        )
        remedy = f"check the calibration; multiplied by {self.factor:.3f} it would agree"
        return f"{wrong}, and velocities are wrong by as much: {remedy}" if self.doubtful else wrong


def telling_packets(alignments: Sequence[Alignment], pixels_per_rad: float) -> dict[int, Alignment]:
    """Packets to ask, by number: of those that moved the image, as many as needed, spread over the recording."""
    moving = []
    for i, each in enumerate(expect(alignments, Sequence)):
        seconds = (each.end_us - each.start_us) * 1e-6
        moved = pixels_per_rad * seconds * float(np.linalg.norm(each.velocity[:2]))
        if each.status is Status.CONVERGED and each.motion == "rotation" and moved > _MOVED_PIXELS:
            moving.append(i)
    at = np.unique(np.linspace(0, len(moving) - 1, _PACKETS).astype(int)) if moving else []
    return {moving[i]: alignments[moving[i]] for i in at}


def ask_focal_length(
    packets: Iterable[tuple[Events, Alignment]], camera: Camera, config: AlignConfig | None = None
) -> FocalLength | None:
    """Ask packets for the focal length; None where they do not tell: a narrow lens, a roll, too few of them.

    Args:
        packets: events of each, and the rotation that was found with this camera (`telling_packets`).
        camera: the calibration that is doubted.
        config: how events are scored.
    """
    probe = _Probe(camera, config or AlignConfig())
    slopes = np.array([slope for window, found in packets if (slope := probe(window, found)) is not None])
    if len(slopes) < _FEWEST:
        return None
    # The slope falls linearly and crosses zero at the most probable focal length.
    slope, curvature = slopes.mean(axis=1), (slopes[:, 0] - slopes[:, 1]) / (2 * _BESIDE)
    if curvature.sum() <= 0:
        return None
    off = float(slope.sum() / curvature.sum())
    scatter = slope - off * curvature
    spread = np.sqrt(np.sum(scatter**2) * len(slopes) / (len(slopes) - 1)) / curvature.sum()
    sigma = float(np.hypot(spread, _FLOOR))
    return FocalLength(float(np.exp(off - _TOO_SHORT)), sigma, len(slopes)) if sigma < _LARGEST else None


def widened(trajectory: Trajectory, focal: FocalLength | None) -> Trajectory:
    """The trajectory; if the focal length is doubtful, with what that does to pan and tilt added to its covariances."""
    if focal is None or not focal.doubtful:
        return trajectory
    wrong = focal.off * trajectory.velocity * (1.0, 1.0, 0.0)
    return replace(trajectory, covariance=trajectory.covariance + wrong[:, :, None] * wrong[:, None, :])


class _Probe:
    """Slopes of the score by the logarithm of the focal length, at one that is a little shorter, and a little longer.

    Events are turned and put back onto the raw sensor, where without motion no focal length changes anything. Points
    that enter or leave the sensor within the packet are left out: a shorter way at the border would pack their events,
    and they alone would ask for a focal length that is 2 to 18 % longer.
    """

    def __init__(self, camera: Camera, config: AlignConfig) -> None:
        self._camera = camera
        frame, score = Frame(camera, _BORDER), NegativeBinomial(config.r, config.beta)
        self._scorer = Scorer(frame, pixel_score=score, vote=config.vote, blur_sigma=config.blur_sigma)

    def __call__(self, events: Events, found: Alignment) -> tuple[float, float] | None:
        dt_s = np.empty(len(events), np.float32)
        seconds_since(events.t_us, found.t_ref_us, dt_s)
        kept = self._stays(events, dt_s, found)
        if kept.mean() < 0.5:
            return None
        events, dt_s = events.where(kept), dt_s[kept]
        try:
            low, high = (self._slope(events, dt_s, found, side * _BESIDE) for side in (-1, 1))
        except np.linalg.LinAlgError:
            return None
        return low, high

    def _turned(
        self, events: Events, dt_s: np.ndarray, found: Alignment, longer: float
    ) -> tuple[Camera, Float[np.ndarray, "2 n"]]:
        """The camera with another focal length, and the events' bearings for it after the rotation. The velocity
        moves the middle of the image as before."""
        factor = float(np.exp(longer))
        camera = replace(self._camera, fx=factor * self._camera.fx, fy=factor * self._camera.fy)
        bearings = _bearings(events, camera)
        velocity, acceleration = (part / (factor, factor, 1.0) for part in (found.velocity, found.acceleration))
        return camera, _rotated(bearings, dt_s, velocity, acceleration)

    def _on_sensor(self, events: Events, camera: Camera, bearings: np.ndarray) -> Float[np.ndarray, "2 n"]:
        """Pixels of the frame."""
        plain = camera.without_distortion if events.undistorted else camera
        return np.stack(plain.distort(*bearings.astype(float))).astype(np.float32) + np.float32(_BORDER)

    def _slope(self, events: Events, dt_s: np.ndarray, found: Alignment, longer: float) -> float:
        """Slope by the focal length, with the best velocity and acceleration for each."""
        camera, bearings = self._turned(events, dt_s, found, longer)
        pixels = self._on_sensor(events, camera, bearings)
        beside = self._on_sensor(events, *self._turned(events, dt_s, found, longer + _STEP))
        _, _, slopes = self._scorer.at_pixels(pixels, events.p)
        by_focal = np.sum(slopes * (beside - pixels), axis=0) / _STEP
        by_x, by_y = (
            np.sum(slopes * (self._on_sensor(events, camera, bearings + step) - pixels), axis=0) / _BEARING_STEP
            for step in np.float32(_BEARING_STEP) * np.eye(2, dtype=np.float32)[:, :, None]
        )
        x, y = bearings
        along = by_x * x + by_y * y
        by_turn = np.stack([-y * along - by_y, by_x + x * along, x * by_y - y * by_x])
        parts = np.concatenate([by_turn * dt_s, by_turn * dt_s**2 / 2, by_focal[None]]).astype(float)
        fisher, gradient = parts @ parts.T, parts.sum(axis=1)
        return float(gradient[6] - np.linalg.solve(fisher[:6, :6], fisher[:6, 6]) @ gradient[:6])

    def _stays(self, events: Events, dt_s: np.ndarray, found: Alignment) -> Bool[np.ndarray, "n"]:
        """Which events belong to points that are on the sensor at both ends of the packet."""
        middle = _rotated(_bearings(events, self._camera), dt_s, found.velocity, found.acceleration)
        kept = np.ones(len(events), bool)
        width, height = self._camera.size
        for at_s in (float(dt_s.min()), float(dt_s.max())):
            times = np.full(len(events), at_s, np.float32)
            u, v = self._on_sensor(events, self._camera, _rotated(middle, times, -found.velocity, -found.acceleration))
            u, v = u - _BORDER, v - _BORDER
            kept &= (u > _MARGIN) & (u < width - 1 - _MARGIN) & (v > _MARGIN) & (v < height - 1 - _MARGIN)
        return kept


def _bearings(events: Events, camera: Camera) -> Float[np.ndarray, "2 n"]:
    x, y = np.empty((2, len(events)), np.float32)
    if events.undistorted:
        x[:], y[:] = (events.x - camera.cx) / camera.fx, (events.y - camera.cy) / camera.fy
    else:
        look_up_bearings(events.x, events.y, undistortion_table(camera), x, y)
    return np.stack([x, y])


def _rotated(
    bearings: np.ndarray, dt_s: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray
) -> Float[np.ndarray, "2 n"]:
    out = np.empty_like(bearings)
    v, a = (tuple(np.float32(part) for part in vector) for vector in (velocity, acceleration))
    rotate(bearings[0], bearings[1], dt_s, v, a, _UNIT, out[0], out[1])
    return out
