"""How events become pictures: the settings of `pictures_of` and of `EventClassifier`."""

from dataclasses import dataclass
from typing import Literal

from pauca import events
from pauca.choices import check_choices
from pauca.errors import ConfigError

Framing = Literal["fit", "fixed", "sensor"]
Moving = Literal["auto", "rotation", "translation"]


@dataclass(frozen=True)
class PictureConfig:
    """How a recording becomes pictures.

    Windows of events are aligned by the likelihood and put on top of each other to views; a view is cut to a square
    around what moves, and becomes a gray picture: how many events an edge made, whatever their polarity, which only
    says which way the edge moved.
    """

    align: bool = True
    """Align the events; with --no-align they are counted where the sensor saw them."""
    motion: Moving = "auto"
    """What moves: `rotation` of a camera, or `translation` parallel to the image (an object before a camera at rest, or
    a camera without calibration); `auto` is rotation where a calibration is known."""
    views: int = 5
    """Most pictures of a recording: the most informative ones, spread over it."""
    view_s: float = 0.35
    """Longest time in one picture, in seconds."""
    framing: Framing = "fit"
    """What a picture shows: `fit`, a square around what moves, scaled to fill it; `fixed`, a square around what moves,
    of seven tenths of the sensor's longer side, where size tells things apart; `sensor`, all of it."""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.views < 1:
            raise ConfigError(f"views {self.views}: a recording needs at least one picture")
        if not self.view_s > 0:
            raise ConfigError(f"view_s {self.view_s} must be positive")

    def aligner(self, size: tuple[int, int], camera: events.Camera | None) -> events.Aligner:
        """What aligns the windows of a sensor of this size, by its calibration where that is known."""
        rotates = self.motion == "rotation" or (self.motion == "auto" and camera is not None)
        border = min(60, max(8, max(size) // 4))
        settings = events.AlignConfig(motion="rotation" if rotates else "translation", border=border)
        return events.Aligner(camera or events.Camera.pinhole(size), settings)

    def view_config(self) -> events.ViewConfig:
        """When a view ends."""
        return events.ViewConfig(longest_s=self.view_s)
