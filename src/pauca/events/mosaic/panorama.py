"""All events of a turning camera in one picture of the whole sphere."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from pauca.errors import ConfigError, InputError
from pauca.events.alignment import Aligner
from pauca.events.camera import Camera
from pauca.events.coverage import nothing_there
from pauca.events.given import check_kinds, expect
from pauca.events.mosaic.attitude import Attitude
from pauca.events.mosaic.closures import SEGMENT_EVENTS, Closure, Segment, balance, find_closures
from pauca.events.mosaic.shelf import Shelf
from pauca.events.passes import Chunks, parts_of, pieces_between
from pauca.events.recording import Recording, camera_of
from pauca.events.settings import AlignConfig
from pauca.events.trajectory import Trajectory
from pauca.events.types import Events
from pauca.events.warp import Frame
from pauca.events.windows import thinned

_CHUNK = 1 << 17  # events that are projected at a time; each takes some 300 bytes meanwhile


@dataclass(frozen=True)
class PanoramaConfig:
    """How a panorama is made."""

    pixels_per_degree: float | None = None
    """Resolution; None for that of the sensor's middle."""
    close_loops: bool = True
    """Correct the drift of the orientation wherever the camera comes back to what it saw before, unless
    --no-close-loops is given."""
    reach_deg: float = 8.0
    """The largest drift, in degrees, that is looked for."""
    segment_deg: float = 4.0
    """Degrees that the camera turns within one of the segments that are compared."""
    segment_s: float = 0.2
    """Longest duration of a segment, in seconds."""

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.pixels_per_degree is not None and not 0 < self.pixels_per_degree <= 60:
            raise ConfigError(f"pixels_per_degree {self.pixels_per_degree} must lie above 0 and be at most 60")
        for name in ("reach_deg", "segment_deg", "segment_s"):
            if not 0 < getattr(self, name) < 90:
                raise ConfigError(f"{name} {getattr(self, name)} must lie between 0 and 90")


@dataclass(frozen=True, eq=False)
class Panorama:
    """Events over directions, as seen from the camera at the first time.

    Longitude grows to the right from -180 degrees at the first column; latitude falls from 90 degrees at the first row.
    The middle of the image is where the camera looked first.
    """

    images: Float[np.ndarray, "2 height width"]  # OFF and ON events a pixel
    pixels_per_degree: float
    attitude: Attitude
    closures: tuple[Closure, ...]
    drift_deg: float  # the largest correction that closures made; 0 without any

    def cropped(self, margin: int = 4) -> Float[np.ndarray, "2 h w"]:
        """The part that holds events; an image whose events lie around its edge is turned to have them together."""
        seen = self.images.sum(0) > 0
        columns = np.flatnonzero(seen.any(0))
        if columns.size == 0:
            return self.images
        gaps = np.diff(np.append(columns, columns[0] + seen.shape[1]))
        first = int(columns[(int(gaps.argmax()) + 1) % len(columns)])  # after the widest part that was never seen
        turned = np.roll(self.images, -first, axis=2)
        width = int(np.flatnonzero(turned.sum(0).any(0)).max()) + 1
        rows = np.flatnonzero(seen.any(1))
        return turned[:, max(0, rows[0] - margin) : rows[-1] + 1 + margin, :width]


def panorama(
    recording: Chunks,
    trajectory: Trajectory,
    camera: Camera | None = None,
    config: PanoramaConfig = PanoramaConfig(),
    progress: Callable[[int], None] | None = None,
) -> Panorama:
    """The mosaic of a recording whose camera turned as a trajectory says.

    >>> mosaic = panorama(recording, align(recording))
    >>> mosaic.images.sum(0)  # events a pixel of the sphere

    Args:
        recording: the events, and their camera where `camera` is not given; what `open_events` returned is read chunk
            by chunk, up to three times.
        trajectory: what `align` found for it; where it cannot be trusted, the velocity is that between its neighbors.
        camera: calibration.
        config: resolution and loop closure.
        progress: called with how many more events are done with.

    Raises:
        InputError: no camera, no events, or a trajectory without any velocity that can be trusted, or of another time.
    """
    parts, camera = parts_of(recording), camera_of(recording, camera)
    trajectory, config = expect(trajectory, Trajectory), expect(config, PanoramaConfig)
    if isinstance(recording, Recording | Events) and not any(len(part) for part in parts):
        raise InputError("the recording holds no events")
    attitude, aligner = Attitude.from_trajectory(trajectory), Aligner(camera, AlignConfig())
    closures: list[Closure] = []
    drift = 0.0
    if config.close_loops:
        attitude, closures, drift = _closed(parts, attitude, aligner, config)
    density = config.pixels_per_degree or float(np.radians(1) * camera.fx)
    images = _project(parts, attitude, aligner, density, progress)
    if not images.any():
        raise nothing_there(trajectory)
    return Panorama(images, density, attitude, tuple(closures), float(np.degrees(drift)))


def _closed(
    parts: Iterable[Events], attitude: Attitude, aligner: Aligner, config: PanoramaConfig
) -> tuple[Attitude, list[Closure], float]:
    """The attitude without drift: first the large part of it, then, from there, what is left."""
    frame = Frame(aligner.camera, 0)
    pixel_rad = 1 / aligner.camera.fx
    closures: list[Closure] = []
    drift = 0.0
    for reach_deg in (config.reach_deg, min(2.0, config.reach_deg)):
        with Shelf() as shelf:
            segments = _segments(parts, attitude, aligner, config, shelf)
            found = find_closures(segments, frame, max(2, round(np.radians(reach_deg) / pixel_rad)))
        if not found:
            break
        corrections = balance(segments, found, pixel_rad)
        drift = max(drift, float(np.linalg.norm(corrections, axis=1).max()))
        attitude = attitude.corrected(np.array([segment.middle_us for segment in segments]), corrections)
        closures = found
    return attitude, closures, drift


def _segments(
    parts: Iterable[Events], attitude: Attitude, aligner: Aligner, config: PanoramaConfig, shelf: Shelf
) -> Sequence[Segment]:
    times_us = attitude.times_us
    speed = np.linalg.norm(attitude.velocity, axis=1)
    path = np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2 * np.diff(times_us) * 1e-6)])
    edges = [0]
    while edges[-1] < len(times_us) - 1:
        first = edges[-1]
        end = int(np.searchsorted(path, path[first] + np.radians(config.segment_deg)))
        edges.append(min(max(end, first + 1), first + max(1, round(config.segment_s * 1e3)), len(times_us) - 1))
    found = []
    for (first, end), part in zip(pairwise(edges), pieces_between(parts, times_us[edges]), strict=True):
        part, middle = thinned(part, max(1, len(part) // SEGMENT_EVENTS)), (first + end) // 2
        packet = aligner.packet(part)
        rays = shelf.put(attitude.rays(part.t_us, packet.x, packet.y))
        found.append(Segment(int(times_us[middle]), attitude.turned[middle], rays, float(path[middle])))
    return found


def _project(
    parts: Iterable[Events],
    attitude: Attitude,
    aligner: Aligner,
    density: float,
    progress: Callable[[int], None] | None,
) -> Float[np.ndarray, "2 height width"]:
    width, height = round(360 * density), round(180 * density)
    images = np.zeros(2 * height * width, np.float32)
    begin_us, end_us = int(attitude.times_us[0]), int(attitude.times_us[-1]) + 1
    for part in (whole[first : first + _CHUNK] for whole in parts for first in range(0, len(whole), _CHUNK)):
        inside = part.between(begin_us, end_us)
        packet = aligner.packet(inside)
        x, y, z = attitude.rays(inside.t_us, packet.x, packet.y).T
        longitude, latitude = np.degrees(np.arctan2(x, z)), np.degrees(np.arctan2(-y, np.hypot(x, z)))
        column = np.minimum(((longitude + 180) * density).astype(np.int64), width - 1)
        row = np.clip(((90 - latitude) * density).astype(np.int64), 0, height - 1)
        np.add.at(images, (inside.p.astype(np.int64) * height + row) * width + column, np.float32(1))
        if progress is not None:
            progress(len(part))
    return images.reshape(2, height, width)
