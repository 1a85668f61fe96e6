"""Where pieces are aligned: a device, with room for so many at once. Each process has its own."""

import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from pauca.events.alignment import Aligner
from pauca.events.device.engine import Engine
from pauca.events.device.follow import Setting, Work, at_once, follow
from pauca.events.device.requests import Ask, Resident
from pauca.events.shared import SharedEvents
from pauca.events.types import Alignment, Events
from pauca.events.windows import joined


@dataclass(frozen=True)
class Place:
    """A device and what is done there; another process can be told of it, before it is used here."""

    setting: Setting
    device: str
    at_once: int  # pieces
    capacity: int  # most events of one, with those before it

    @cached_property
    def _engine(self) -> Engine:
        camera, scorers = self.setting.camera, Aligner(*self.setting).scorers
        return Engine(torch.device(self.device), camera, scorers, self.at_once, self.capacity)

    def follow(self, pieces: Iterable[list[list[Events]]]) -> Iterator[list[Alignment]]:
        """The packets of each piece, in order.

        Args:
            pieces: windows of each, which follow each other, each in parts; the packets are those of the last one.
        """
        return at_once(self.setting, map(self._work, pieces), self._engine.answer, self.at_once)

    def _work(self, windows: list[list[Events]]) -> Work:
        slot, firsts = self._engine.take(windows)
        residents = [Resident(joined(parts), first) for parts, first in zip(windows, firsts, strict=True)]

        def work(ask: Ask) -> list[Alignment]:
            try:
                return follow(self.setting, residents, ask)
            finally:
                self._engine.give_back(slot)

        return work


@lru_cache(maxsize=1)  # its memory is used for one group after the other
def _told(place: bytes) -> Place:
    return pickle.loads(place)


def follow_group(place: bytes, group: list[SharedEvents]) -> list[list[Alignment]]:
    """What a process makes of pieces that another one has written.

    Args:
        place: a pickled `Place`.
        group: no more pieces than it has room for.
    """
    return list(_told(place).follow([[window] for window in shared.windows()] for shared in group))
