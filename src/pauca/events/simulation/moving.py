"""An object that moves by itself in front of the panorama: a textured disc that swings through the image.

The disc shows the same panorama from elsewhere, seen by a second camera that turns as the disc swings; inside its rim
the second camera's events count, outside the first one's. What the rim itself covers and uncovers makes no events.
"""

import math

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

SLOWEST_RAD_S = math.radians(100.0)
"""The disc swings at least so fast, however slow the camera is."""

_SWING = 0.25  # of the image's half diagonal, to each side
_START = Rotation.from_rotvec([0.0, 2.0, 0.0]).as_matrix()  # where the disc's part of the panorama lies


def swing(
    t_s: Float[np.ndarray, "n"],
    omega: Float[np.ndarray, "n 3"],
    bearings: Float[np.ndarray, "3 pixels"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "n 3"]:
    """Angular velocity (rad/s) of the camera relative to the disc: a sine about a random axis in the image plane."""
    reach = _SWING * float(np.arccos(bearings[2].min()))
    speed = max(float(np.linalg.norm(omega, axis=1).max()), SLOWEST_RAD_S)
    angle = rng.uniform(0, 2 * math.pi)
    phase = rng.uniform(0, 2 * math.pi)
    along = speed * np.cos(speed / reach * (t_s - t_s[0]) + phase)
    return along[:, None] * [math.cos(angle), math.sin(angle), 0.0]


def start() -> Float[np.ndarray, "3 3"]:
    """Orientation of the second camera at the start, camera to world: far from where the first one looks."""
    return _START.copy()


def distances(
    fired: tuple[np.ndarray, ...],
    t_s: Float[np.ndarray, "n"],
    turned: Float[np.ndarray, "n 3 3"],
    bearings: Float[np.ndarray, "3 pixels"],
) -> Float[np.ndarray, "events"]:
    """Angle (rad) of each event from the middle of the disc, which is straight ahead at the start."""
    ahead = turned[0][:, 2]  # world direction of the disc's middle, as the second camera sees it
    middle = np.einsum("nji,j->ni", turned, ahead)
    at_event = np.stack([np.interp(fired[0] / 1e6, t_s - t_s[0], part) for part in middle.T])
    cosine = np.einsum("ck,ck->k", at_event, bearings[:, fired[1]])
    return np.arccos(np.clip(cosine, -1, 1))


def radius_for_share(background: Float[np.ndarray, "n"], moving: Float[np.ndarray, "m"], share: float) -> float:
    """Radius (rad) of the disc with which it makes this share of all events, from all events' distances.

    At most what holds three quarters of the background's events: where even that is not enough, the share is smaller.
    """
    background, moving = np.sort(background), np.sort(moving)
    low, high = 0.0, float(background[3 * len(background) // 4]) if len(background) else math.pi
    for _ in range(40):
        radius = (low + high) / 2
        inside = np.searchsorted(moving, radius)
        outside = len(background) - np.searchsorted(background, radius)
        low, high = (low, radius) if inside > share * (inside + outside) else (radius, high)
    return (low + high) / 2


def chosen(
    background: Float[np.ndarray, "n"], moving: Float[np.ndarray, "m"], share: float
) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "m"]]:
    """Which events of the background and of the disc are seen."""
    radius = radius_for_share(background, moving, share)
    return background >= radius, moving < radius
