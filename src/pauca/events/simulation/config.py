"""What is simulated: scene, motion, sensor and disturbances."""

import math
from dataclasses import dataclass
from pathlib import Path

from pauca.choices import check_choices
from pauca.errors import ConfigError
from pauca.events.given import check_kinds
from pauca.events.simulation.motion import Movement
from pauca.events.simulation.panorama import Scene

_POSITIVE = ("duration_s", "peak_deg_s", "bandwidth_hz", "contrast_on", "contrast_off", "step_pixels")
_NOT_NEGATIVE = (
    *("contrast_spread", "refractory_us", "noise_hz", "hot_pixels", "hot_pixel_hz", "seed"),
    *("vibration_hz", "vibration_deg_s"),
)


@dataclass(frozen=True)
class SimulateConfig:
    """What is simulated. Defaults resemble a DAVIS 240C that is turned by hand."""

    scene: Scene = "texture"
    """Procedural panorama: cloudy texture, or flat polygons."""
    image: Path | None = None
    """An image to look at instead: equirectangular (twice as wide as high), or any other, repeated in mirrors."""
    duration_s: float = 2.0
    """Seconds of motion; a given motion lasts as long as it lasts."""
    movement: Movement = "random"
    """How the camera turns: at random as by hand, not at all, at the peak speed, from rest to it, or with a stop in
    the middle third."""
    peak_deg_s: float = 300.0
    """Highest angular speed of the movement, in degrees a second."""
    bandwidth_hz: float = 2.0
    """Highest frequency in the random movement."""
    axis: tuple[float, float, float] = (0.0, 1.0, 0.0)
    """Axis of the constant, ramp and stop-and-go movements: camera x (right), y (down), z (forward, a roll)."""
    vibration_hz: float = 0.0
    """Frequency of a vibration that is added to the movement; 0 for none."""
    vibration_deg_s: float = 0.0
    """Peak angular speed of the vibration, in degrees a second."""
    vibration_axis: tuple[float, float, float] = (0.0, 1.0, 0.0)
    """Axis of the vibration: camera x (right), y (down), z (forward)."""
    moving_object: float = 0.0
    """Share of the scene's events (0 to 0.5) on a textured disc that swings through the image by itself."""
    contrast_on: float = 0.4
    """Rise of log intensity that makes an ON event."""
    contrast_off: float = 0.4
    """Fall of log intensity that makes an OFF event."""
    contrast_spread: float = 0.04
    """Standard deviation of the thresholds over the pixels, as a share."""
    refractory_us: float = 200.0
    """How long a pixel is blind after an event, in microseconds."""
    noise_hz: float = 0.5
    """Background events of each pixel a second, half ON, half OFF; real sensors have 0.02 to 30."""
    hot_pixels: int = 0
    """Number of pixels that fire by themselves all the time."""
    hot_pixel_hz: float = 500.0
    """Events of each hot pixel a second."""
    undistorted: bool = False
    """Write sub-pixel positions from which the lens distortion is undone, as rectified recordings have them; the
    camera that is saved has no distortion then."""
    step_pixels: float = 0.5
    """Farthest motion of any pixel between two looks at the panorama; brightness is linear in between."""
    seed: int = 0
    """Seed of scene, movement and noise: the same seed gives the same recording, bit for bit."""

    def __post_init__(self) -> None:
        check_kinds(self)
        check_choices(self)
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be positive")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must not be negative")
        for name in ("axis", "vibration_axis"):
            if not 0 < math.hypot(*getattr(self, name)) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, which has no direction")
        if not 0 <= self.moving_object <= 0.5:
            raise ConfigError(f"moving_object is {self.moving_object}, but must be a share from 0 to 0.5")
        if (self.vibration_hz > 0) != (self.vibration_deg_s > 0):
            raise ConfigError("a vibration needs both vibration_hz and vibration_deg_s")
