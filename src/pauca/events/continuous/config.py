"""How the velocity is estimated as a function of time."""

from dataclasses import dataclass

from pauca.errors import ConfigError
from pauca.events.given import check_kinds


@dataclass(frozen=True)
class TrajectoryConfig:
    """A velocity that is linear between knots, in windows that overlap.

    Defaults are from `benchmarks/events_accuracy.py`; neighboring values do as well.
    """

    knot_pixels: float = 4.0
    """Path of the events, in pixels, from one knot to the next."""
    knot_s: float = 0.02
    """Longest time from one knot to the next, for slow motion of a hand; seconds. A steadier one has three times that,
    one that shakes less."""
    window: int = 6
    """Intervals between knots that are estimated together."""
    step: int = 3
    """Intervals from one window to the next: `window / step` windows hold each event."""
    density: float = 1.0
    """Events for each pixel of the sensor that a window takes at most; of more, every second, third, ... is left."""
    turn_deg: float = 45.0
    """Turn of the direction of motion from which on events get images of their own."""
    unsigned: float = 0.3
    """Weight, in windows that turn, of the image of all events; the rest is for the images of each direction."""
    turning: float = 0.2
    """Weight of the likelihood against the prior in windows that turn: pixels are silent there until they cross a
    threshold again, and the likelihood is confident of a turn that comes late."""
    jerk: float | None = None
    """Strength of the jerk that the prior expects, rad/s^2 per root of a second; None: what packets show."""

    def __post_init__(self) -> None:
        check_kinds(self)
        if not (self.knot_pixels > 0 and 0 < self.knot_s <= 0.1):
            raise ConfigError(
                f"knot_pixels {self.knot_pixels} must be positive, and knot_s {self.knot_s} lie in 0..0.1 seconds"
            )
        if not 1 <= self.step <= self.window <= 30:
            raise ConfigError(f"step {self.step} must lie in 1..window, and window {self.window} be at most 30")
        if not self.density > 0:
            raise ConfigError(f"density {self.density} must be positive")
        if not 0 < self.turn_deg <= 180:
            raise ConfigError(f"turn_deg {self.turn_deg} must lie in 0..180 degrees")
        if not (0 <= self.unsigned <= 1 and 0 < self.turning <= 1):
            raise ConfigError(f"unsigned {self.unsigned} and turning {self.turning} are weights: 0 to 1")
        if self.jerk is not None and not self.jerk > 0:
            raise ConfigError(f"jerk {self.jerk} must be positive")
