"""Events of a camera that rotates before a panorama, with the exact rotation: for tests, demos and comparisons.

Each pixel compares log intensity with its value at the pixel's last event and fires when the difference exceeds the
pixel's threshold, as in Lichtsteiner et al. (2008). The simulator has threshold spread, refractory period, background
noise and hot pixels; it has no photoreceptor bandwidth, no leak and no read-out queue.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation

from pauca.events.camera import Camera, undistortion_table
from pauca.events.given import expect
from pauca.events.kernels.simulate import expose, look
from pauca.events.recording import GroundTruth, Recording
from pauca.events.simulation import moving
from pauca.events.simulation.config import SimulateConfig
from pauca.events.simulation.motion import (
    look_times,
    orientations,
    plain_motion,
    random_motion,
    resample,
    vibration,
    with_warm_up,
)
from pauca.events.simulation.panorama import Faces, image_panorama, read_gray, shapes_panorama, texture_panorama
from pauca.events.types import Events

DAVIS240C = Camera(
    (240, 180),
    *(199.092366542, 198.82882047, 132.192071378, 110.712660011),
    *(-0.368436311798, 0.150947243557, -0.000296130534, -0.000759431726, 0.0),
)
"""The camera of the UZH Event-Camera Dataset (Mueggler et al., IJRR 2017)."""

_BUFFER = 1 << 20  # events the kernel writes before it hands over


def simulate(
    config: SimulateConfig | None = None,
    *,
    camera: Camera = DAVIS240C,
    motion: GroundTruth | None = None,
    image: UInt8[np.ndarray, "h w"] | None = None,
) -> Recording:
    """Simulate a recording of a rotating event camera.

    Args:
        config: scene, movement, sensor and disturbances.
        camera: size, intrinsics and distortion of the camera.
        motion: times and angular velocities to follow (resampled at 1 kHz, linear in between); None for
            the movement of `config`. Its quaternions are not used: the camera starts looking straight ahead (+z).
        image: pixels to look at, as `config.image` names a file of.

    Returns:
        Events, camera, and as ground truth the exact angular velocity and orientation at 1 kHz. The sensor has been
        running before the first event: its pixels are where the motion put them.

    Examples:
        >>> recording = simulate(SimulateConfig(scene="shapes", duration_s=1.0, seed=7))
    """
    config, camera = expect(config or SimulateConfig(), SimulateConfig), expect(camera, Camera)
    motion = None if motion is None else expect(motion, GroundTruth)
    # Independent streams: a longer recording or another noise level leaves the scene and the motion as they were.
    scene_rng, motion_rng, sensor_rng, noise_rng, object_rng = np.random.default_rng(config.seed).spawn(5)
    t_s, omega = resample(motion) if motion else _movement(config, motion_rng)
    if config.vibration_hz:
        omega = omega + vibration(t_s, config.vibration_deg_s, config.vibration_hz, config.vibration_axis)
    bearings = _unit_bearings(camera)
    sensor = _Sensor(config, bearings, _pixels_per_radian(bearings, camera.size), int(sensor_rng.integers(2**32)))
    faces = _panorama(config, camera, scene_rng, image)
    turned = orientations(t_s, omega)
    signal = _expose(faces, t_s, omega, turned, sensor)
    if config.moving_object:
        signal = _with_moving_object(signal, faces, t_s, omega, sensor, object_rng)
    noise = _noise((t_s[-1] - t_s[0]) * 1e6, bearings.shape[1], config, noise_rng)
    events = _merge([signal, noise], round(t_s[0] * 1e6), camera.size)
    truth = GroundTruth(t_s, omega, Rotation.from_matrix(turned).as_quat())
    name = f"simulated {'image' if image is not None else config.image or config.scene}"
    if config.undistorted:
        return Recording(_undistort(events, camera), _without_distortion(camera), name, ground_truth=truth)
    return Recording(events, camera, name, ground_truth=truth)


def _movement(config: SimulateConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    if config.movement == "random":
        return random_motion(config.duration_s, config.peak_deg_s, config.bandwidth_hz, rng)
    return plain_motion(config.movement, config.duration_s, config.peak_deg_s, config.axis)


def _unit_bearings(camera: Camera) -> Float[np.ndarray, "3 pixels"]:
    table = undistortion_table(camera).reshape(-1, 2).astype(float)
    rays = np.concatenate([table, np.ones((len(table), 1))], axis=1)
    return np.ascontiguousarray((rays / np.linalg.norm(rays, axis=1, keepdims=True)).T, np.float32)


def _pixels_per_radian(bearings: Float[np.ndarray, "3 pixels"], size: tuple[int, int]) -> float:
    """Where the lens spreads directions most: how many pixels a point can move while the camera turns by 1 rad."""
    rays = bearings.reshape(3, size[1], size[0]).astype(float)
    angles = [np.linalg.norm(np.diff(rays, axis=axis), axis=0).min(initial=math.inf) for axis in (1, 2)]
    return 1 / min(angles)


def _panorama(
    config: SimulateConfig, camera: Camera, rng: np.random.Generator, image: UInt8[np.ndarray, "h w"] | None
) -> Faces:
    focal = math.sqrt(camera.fx * camera.fy)
    texels = max(64, math.ceil(3 * focal))  # a face is two focal lengths wide: 1.5 texels a pixel
    if image is not None:
        return image_panorama(image, texels)
    if config.image is not None:
        return image_panorama(read_gray(config.image), texels)
    return {"texture": texture_panorama, "shapes": shapes_panorama}[config.scene](texels, focal, rng)


_Fired = tuple[np.ndarray, np.ndarray, np.ndarray]  # microseconds since the start, pixel, ON


@dataclass(frozen=True, eq=False)
class _Sensor:
    config: SimulateConfig
    bearings: Float[np.ndarray, "3 pixels"]
    pixels_per_radian: float
    seed: int  # of its thresholds and of where its pixels start


def _expose(
    faces: Faces,
    t_s: Float[np.ndarray, "n"],
    omega: Float[np.ndarray, "n 3"],
    turned: Float[np.ndarray, "n 3 3"],
    sensor: _Sensor,
) -> _Fired:
    """Events of the panorama, after the pixels have been warmed up."""
    longer_t_s, longer_omega = with_warm_up(t_s, omega, sensor.pixels_per_radian)
    longer = orientations(longer_t_s, longer_omega)
    longer = turned[0] @ longer[1].T @ longer
    step_pixels = sensor.config.step_pixels
    times_us, rotations = look_times(longer_t_s, longer_omega, longer, sensor.pixels_per_radian, step_pixels)
    times_us -= (longer_t_s[1] - longer_t_s[0]) * 1e6
    fired = _fire(faces, times_us, rotations, sensor)
    parts = [np.concatenate(column) for column in zip(*fired, strict=True)]
    kept = parts[0] >= 0
    return parts[0][kept], parts[1][kept], parts[2][kept]


def _fire(
    faces: Faces, times_us: Float[np.ndarray, "m"], rotations: Float[np.ndarray, "m 3 3"], sensor: _Sensor
) -> list[_Fired]:
    config, bearings, n = sensor.config, sensor.bearings, sensor.bearings.shape[1]
    rng = np.random.default_rng(sensor.seed)
    spread = 1 + config.contrast_spread * rng.standard_normal((2, n))
    # A threshold near zero would fire without end; no calibrated sensor has one.
    thresholds = np.maximum(spread, 0.2) * [[config.contrast_off], [config.contrast_on]]
    thresholds = thresholds.astype(np.float32)
    old = np.empty(n, np.float32)
    look(faces, rotations[0], bearings, old)
    # Each pixel starts somewhere between its two thresholds; the warm-up puts it where the motion wants it.
    reference = old + (thresholds[0] - rng.random(n) * thresholds.sum(axis=0)).astype(np.float32)
    ready_us = np.full(n, times_us[0])
    start = np.zeros(2, np.int64)
    fired: list[_Fired] = []
    while start[0] < len(times_us) - 1:
        out = np.empty(_BUFFER), np.empty(_BUFFER, np.int32), np.empty(_BUFFER, np.uint8)
        state = old, reference, ready_us
        count = expose(faces, rotations, times_us, config.refractory_us, bearings, thresholds, start, *state, *out)
        fired.append((out[0][:count].copy(), out[1][:count].copy(), out[2][:count].copy()))
    return fired


def _with_moving_object(
    signal: _Fired,
    faces: Faces,
    t_s: Float[np.ndarray, "n"],
    omega: Float[np.ndarray, "n 3"],
    sensor: _Sensor,
    rng: np.random.Generator,
) -> _Fired:
    swinging = moving.swing(t_s, omega, sensor.bearings, rng)
    turned = moving.start() @ orientations(t_s, swinging)
    disc = _expose(faces, t_s, swinging, turned, sensor)
    away = [moving.distances(fired, t_s, turned, sensor.bearings) for fired in (signal, disc)]
    kept = moving.chosen(away[0], away[1], sensor.config.moving_object)
    t, pixel, on = (np.concatenate([a[kept[0]], b[kept[1]]]) for a, b in zip(signal, disc, strict=True))
    return t, pixel, on


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


def _undistort(events: Events, camera: Camera) -> Events:
    """Sub-pixel positions without distortion, float32."""
    x, y = np.moveaxis(undistortion_table(camera)[events.y, events.x], -1, 0)
    x, y = x * camera.fx + camera.cx, y * camera.fy + camera.cy
    return Events(events.t_us, x.astype(np.float32), y.astype(np.float32), events.p, events.size)


def _without_distortion(camera: Camera) -> Camera:
    return Camera(camera.size, *camera.intrinsics)
