"""The first pass over a recording: packets, good enough to place the knots of a trajectory and to begin there."""

from dataclasses import dataclass, replace

from pauca.events.alignment import Aligner
from pauca.events.packets import PacketEstimator
from pauca.events.types import Alignment, Events, Packet
from pauca.events.windows import thinned

_REDUCED = 2  # pixels of the sensor in one of the image, per axis
_DENSITY = 0.35  # events for each pixel of the sensor that a packet takes; of more, every second, third, ... is left


@dataclass(eq=False)
class RoughAligner(Aligner):
    """Aligns the same packets with fewer events on images of half the size: 2.4 times as fast, and off by 3 deg/s where
    `Aligner` is off by 1.5 to 2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._estimator = PacketEstimator(self.camera, self.config, _REDUCED)

    def packet(self, events: Events) -> Packet:
        """As of `Aligner`, with as many events as are enough."""
        width, height = self.camera.size
        return super().packet(thinned(events, max(1, round(len(events) / (_DENSITY * width * height)))))

    def _align(self, events: Events) -> Alignment:
        return replace(super()._align(events), n_events=len(events))
