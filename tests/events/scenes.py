"""Small packets for tests: points on a plane, seen by a rotating or shifting camera."""

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from pauca.events import Camera, Events, Frame, Packet, Warp, reference

CAMERA = Camera((64, 48), 60.0, 62.0, 31.0, 22.0)


def random_packet(seed: int, n: int = 400) -> Packet:
    """Events without any structure; every parameter moves them."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-0.4, 0.4, n), rng.uniform(-0.3, 0.3, n)
    dt = rng.uniform(-0.05, 0.05, n)
    columns = (column.astype(np.float32) for column in (x, y, dt))
    return Packet(*columns, rng.integers(0, 2, n).astype(np.uint8), 0, -50_000, 50_000)


def without_kinks(packet: Packet, frame: Frame, warp: Warp, velocity, acceleration) -> Packet:
    """Bilinear votes have a kink where an event crosses a pixel's center: leave out the events that are about to."""
    warped, _ = reference.warp_events(packet, frame, warp, velocity, acceleration)
    smooth = np.all(np.abs(warped - np.round(warped)) > 1e-3, axis=0)
    return replace(packet, **{name: getattr(packet, name)[smooth] for name in ("x", "y", "dt_s", "p")})


def rotating_events(
    omega, seed: int = 0, points: int = 80, per_point: int = 60, duration_us: int = 20_000, acceleration=(0, 0, 0)
) -> Events:
    """Points that a camera with angular velocity `omega` at the middle sees; each gives events of one polarity."""
    rng = np.random.default_rng(seed)
    world = np.stack([rng.uniform(-0.45, 0.45, points), rng.uniform(-0.3, 0.3, points), np.ones(points)], axis=1)
    which = np.repeat(np.arange(points), per_point)
    t_us = np.sort(rng.integers(0, duration_us + 1, which.size))
    t_us[[0, -1]] = 0, duration_us
    rng.shuffle(which)
    dt = (t_us - duration_us / 2)[:, None] * 1e-6
    turned = dt * np.asarray(omega) + dt**2 / 2 * np.asarray(acceleration)
    seen = Rotation.from_rotvec(-turned).apply(world[which])
    u, v = CAMERA.distort(seen[:, 0] / seen[:, 2], seen[:, 1] / seen[:, 2])
    inside = (u >= 0) & (u <= 63) & (v >= 0) & (v <= 47)
    p = (which % 2).astype(np.uint8)
    return Events(
        t_us[inside] + 5_000_000, u[inside].astype(np.float32), v[inside].astype(np.float32), p[inside], (64, 48)
    )


def jittered(events: Events, sigma: float = 0.5, seed: int = 0) -> Events:
    """Events beside where they belong, as real ones are: points that coincide exactly have no slopes to compare."""
    rng = np.random.default_rng(seed)
    x, y = (axis + sigma * rng.standard_normal(len(events)).astype(np.float32) for axis in (events.x, events.y))
    return Events(events.t_us, x, y, events.p, events.size)


def whole_pixels(events: Events) -> Events:
    """As a sensor tells them, without a fraction of a pixel."""
    x, y = (np.rint(axis).astype(np.uint16) for axis in (events.x, events.y))
    return Events(events.t_us, x, y, events.p, events.size)


def random_events(t_us, x=None, y=None, p=None, size=(64, 48)) -> Events:
    """Events at given times; what is not given of the rest is drawn uniformly."""
    n = len(t_us)
    rng = np.random.default_rng(0)
    x = rng.integers(0, size[0], n) if x is None else x
    y = rng.integers(0, size[1], n) if y is None else y
    p = rng.integers(0, 2, n) if p is None else p
    return Events.from_arrays(np.asarray(t_us), np.asarray(x), np.asarray(y), np.asarray(p), size)


def poisson_times(rate_hz: float, seconds: float, seed: int = 1) -> np.ndarray:
    """Times (us) of events that know nothing of each other."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.integers(0, int(seconds * 1e6), rng.poisson(rate_hz * seconds)))
