"""Events of a camera that rotates before a panorama, with the exact rotation: for tests, demos and comparisons.

Each pixel compares log intensity with its value at the pixel's last event and fires when the difference exceeds the
pixel's threshold, as in Lichtsteiner et al. (2008). The simulator has threshold spread, refractory period, background
noise and hot pixels; it has no photoreceptor bandwidth, no leak and no read-out queue.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from pauca.errors import ConfigError
from pauca.events.camera import Camera, undistortion_table
from pauca.events.kernels.simulate import expose, look
from pauca.events.recording import GroundTruth, Recording
from pauca.events.simulation.motion import look_times, orientations, random_motion, resample
from pauca.events.simulation.panorama import Faces, Scene, image_panorama, shapes_panorama, texture_panorama
from pauca.events.types import Events

DAVIS240C = Camera(
    (240, 180),
    *(199.092366542, 198.82882047, 132.192071378, 110.712660011),
    *(-0.368436311798, 0.150947243557, -0.000296130534, -0.000759431726, 0.0),
)
"""The camera of the UZH Event-Camera Dataset (Mueggler et al., IJRR 2017)."""

_BUFFER = 1 << 20  # events the kernel writes before it hands over


@dataclass(frozen=True)
class SimulateConfig:
    """What is simulated. Defaults resemble a DAVIS 240C that is turned by hand."""

    scene: Scene = "texture"
    """Procedural panorama: cloudy texture, or flat polygons."""
    image: Path | None = None
    """An image to look at instead: equirectangular (twice as wide as high), or any other, repeated in mirrors."""
    duration_s: float = 2.0
    """Seconds of random motion; a given motion lasts as long as it lasts."""
    peak_deg_s: float = 300.0
    """Highest angular speed of the random motion."""
    bandwidth_hz: float = 2.0
    """Highest frequency in the random motion."""
    contrast_on: float = 0.4
    """Rise of log intensity that makes an ON event."""
    contrast_off: float = 0.4
    """Fall of log intensity that makes an OFF event."""
    contrast_spread: float = 0.04
    """Standard deviation of the thresholds over the pixels, as a share."""
    refractory_us: float = 200.0
    """How long a pixel is blind after an event."""
    noise_hz: float = 0.5
    """Background events of each pixel a second, half ON, half OFF."""
    hot_pixels: int = 0
    """Pixels that fire by themselves all the time."""
    hot_pixel_hz: float = 500.0
    """Events of each of them a second."""
    step_pixels: float = 0.5
    """Farthest motion of any pixel between two looks at the panorama; brightness is linear in between."""
    seed: int = 0
    """The same seed gives the same recording, bit for bit."""

    def __post_init__(self) -> None:
        for name in ("duration_s", "peak_deg_s", "bandwidth_hz", "contrast_on", "contrast_off", "step_pixels"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be positive")
        for name in ("contrast_spread", "refractory_us", "noise_hz", "hot_pixels", "hot_pixel_hz", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must not be negative")


def simulate(
    config: SimulateConfig | None = None, *, camera: Camera = DAVIS240C, motion: GroundTruth | None = None
) -> Recording:
    """Simulate a recording of a rotating event camera.

    Args:
        config: scene, sensor and random motion.
        camera: size, intrinsics and distortion of the camera.
        motion: times and angular velocities to follow (resampled at 1 kHz, linear in between); None for a random
            motion. Its quaternions are not used: the camera starts looking straight ahead (+z).

    Returns:
        Events, camera, and as ground truth the exact angular velocity and orientation at 1 kHz.

    Examples:
        >>> recording = simulate(SimulateConfig(scene="shapes", duration_s=1.0, seed=7))
    """
    config = config or SimulateConfig()
    # Independent streams: a longer recording or another noise level leaves the scene and the motion as they were.
    scene_rng, motion_rng, sensor_rng, noise_rng = np.random.default_rng(config.seed).spawn(4)
    t_s, omega = (
        resample(motion)
        if motion
        else random_motion(config.duration_s, config.peak_deg_s, config.bandwidth_hz, motion_rng)
    )
    bearings = _unit_bearings(camera)
    pixels_per_radian = _pixels_per_radian(bearings, camera.size)
    faces = _panorama(config, camera, scene_rng)
    turned = orientations(t_s, omega)
    step_times_us, rotations = look_times(t_s, omega, turned, pixels_per_radian, config.step_pixels)
    signal = _expose(faces, step_times_us, rotations, bearings, config, sensor_rng)
    noise = _noise(step_times_us[-1], bearings.shape[1], config, noise_rng)
    events = _merge([*signal, noise], round(t_s[0] * 1e6), camera.size)
    truth = GroundTruth(t_s, omega, Rotation.from_matrix(turned).as_quat())
    return Recording(events, camera, name=f"simulated {config.image or config.scene}", ground_truth=truth)


def _unit_bearings(camera: Camera) -> Float[np.ndarray, "3 pixels"]:
    table = undistortion_table(camera).reshape(-1, 2).astype(float)
    rays = np.concatenate([table, np.ones((len(table), 1))], axis=1)
    return np.ascontiguousarray((rays / np.linalg.norm(rays, axis=1, keepdims=True)).T, np.float32)


def _pixels_per_radian(bearings: Float[np.ndarray, "3 pixels"], size: tuple[int, int]) -> float:
    """Where the lens spreads directions most: how many pixels a point can move while the camera turns by 1 rad."""
    rays = bearings.reshape(3, size[1], size[0]).astype(float)
    angles = [np.linalg.norm(np.diff(rays, axis=axis), axis=0).min(initial=math.inf) for axis in (1, 2)]
    return 1 / min(angles)


def _panorama(config: SimulateConfig, camera: Camera, rng: np.random.Generator) -> Faces:
    focal = math.sqrt(camera.fx * camera.fy)
    texels = max(64, math.ceil(3 * focal))  # a face is two focal lengths wide: 1.5 texels a pixel
    if config.image is not None:
        return image_panorama(config.image, texels)
    return {"texture": texture_panorama, "shapes": shapes_panorama}[config.scene](texels, focal, rng)


_Fired = tuple[np.ndarray, np.ndarray, np.ndarray]  # microseconds since the start, pixel, ON


def _expose(
    faces: Faces,
    times_us: Float[np.ndarray, "m"],
    rotations: Float[np.ndarray, "m 3 3"],
    bearings: Float[np.ndarray, "3 pixels"],
    config: SimulateConfig,
    rng: np.random.Generator,
) -> list[_Fired]:
    n = bearings.shape[1]
    spread = 1 + config.contrast_spread * rng.standard_normal((2, n))
    # A threshold near zero would fire without end; no calibrated sensor has one.
    thresholds = np.maximum(spread, 0.2) * [[config.contrast_off], [config.contrast_on]]
    thresholds = thresholds.astype(np.float32)
    old = np.empty(n, np.float32)
    look(faces, rotations[0], bearings, old)
    # The camera has been running: each pixel is somewhere between its two thresholds.
    reference = old + (thresholds[0] - rng.random(n) * thresholds.sum(axis=0)).astype(np.float32)
    ready_us = np.zeros(n)
    start = np.zeros(2, np.int64)
    fired: list[_Fired] = []
    while start[0] < len(times_us) - 1:
        out = np.empty(_BUFFER), np.empty(_BUFFER, np.int32), np.empty(_BUFFER, np.uint8)
        state = old, reference, ready_us
        count = expose(faces, rotations, times_us, config.refractory_us, bearings, thresholds, start, *state, *out)
        fired.append((out[0][:count].copy(), out[1][:count].copy(), out[2][:count].copy()))
    return fired


def _noise(duration_us: float, pixels: int, config: SimulateConfig, rng: np.random.Generator) -> _Fired:
    """Background and hot pixels: Poisson processes that know nothing of the scene."""
    seconds = duration_us / 1e6
    hot = rng.choice(pixels, min(config.hot_pixels, pixels), replace=False)
    background = rng.integers(0, pixels, rng.poisson(config.noise_hz * seconds * pixels))
    pixel = np.concatenate([background, np.repeat(hot, rng.poisson(config.hot_pixel_hz * seconds, len(hot)))])
    return rng.uniform(0, duration_us, len(pixel)), pixel.astype(np.int32), rng.integers(0, 2, len(pixel), np.uint8)


def _merge(parts: list[_Fired], start_us: int, size: tuple[int, int]) -> Events:
    t = np.concatenate([part[0] for part in parts])
    order = np.argsort(t, kind="stable")
    pixel = np.concatenate([part[1] for part in parts])[order]
    on = np.concatenate([part[2] for part in parts])[order]
    y, x = np.divmod(pixel, size[0])
    return Events(np.rint(t[order]).astype(np.int64) + start_us, x.astype(np.uint16), y.astype(np.uint16), on, size)
