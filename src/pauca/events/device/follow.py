"""Pieces that are on a device, aligned at once: each by an `Aligner` of its own, which asks for scores."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pauca.events.alignment import Aligner
from pauca.events.camera import Camera
from pauca.events.device.chains import in_step
from pauca.events.device.requests import Answers, Ask, DeviceScorer, Resident, answered
from pauca.events.gyro_prior import GyroPrior
from pauca.events.recording import Recording, events_of
from pauca.events.score import Scorer
from pauca.events.settings import AlignConfig
from pauca.events.types import Alignment, Events, Packet


@dataclass(eq=False)
class DeviceAligner(Aligner):
    """An aligner whose scorer asks for the scores of packets that are on a device."""

    ask: Ask | None = None
    residents: tuple[Resident, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        scorers: list[Scorer] = [
            DeviceScorer(each.frame, each.warp, each.pixel_score, each.vote, each.blur_sigma, ask=self.ask, level=level)
            for level, each in enumerate(self._estimator.scorers)
        ]
        self._estimator.scorers = scorers

    def packet(self, events: Events | Recording) -> Packet:
        """The packet of events that are on the device; of others as usual, which nothing can score."""
        events = events_of(events)
        for resident in self.residents if len(events) else ():
            if (packet := resident.packet(events, self._reference_us(events))) is not None:
                return packet
        return super().packet(events)


Work = Callable[[Ask], list[Alignment]]


class Setting(NamedTuple):
    """What all pieces have in common."""

    camera: Camera
    config: AlignConfig
    prior: GyroPrior | None


def follow(setting: Setting, residents: list[Resident], ask: Ask) -> list[Alignment]:
    """The packets of the last of several windows, which an `Aligner` finds that follows all of them."""
    aligner = DeviceAligner(*setting, ask=ask, residents=tuple(residents))
    found: list[Alignment] = []
    for resident in residents:
        found = list(aligner.follow(resident.events, whole=False))
    return found


def at_once(setting: Setting, works: Iterable[Work], answers: Answers, most: int) -> Iterator[list[Alignment]]:
    """What the works find, in order, with so many on their way at a time."""
    k = Aligner(*setting).scorers[0].warp.parameters
    return in_step(works, lambda requests: answered(requests, answers, k), most)
