"""Answers to the questions of many chains: events go to the device once, and each round of questions at once."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from pauca.errors import InputError
from pauca.events.camera import Camera, undistortion_table
from pauca.events.device import reference
from pauca.events.device.batch import Batch, Plane, Stored
from pauca.events.device.parts import sums_over_parts
from pauca.events.device.shared import NO_FRACTIONS
from pauca.events.kernels.pack import pack_events
from pauca.events.score import Scorer
from pauca.events.types import Events

MOST_PLACES = (1 << 31) - 1  # for events on a device: kernels get them as 32-bit numbers
_WIDEST = 1 << 15  # pixels of a sensor, which are sent in 15 bits
_ROWS_AT_ONCE = 1 << 21  # events of whose parts sums are made together; 700 MB on the device


class Engine:
    """Holds the events of so many chains on a device, and scores packets of them.

    Args:
        device: where; on a CPU, torch takes the place of the kernels, for tests.
        camera: of all chains.
        scorers: of the aligner, from full resolution on.
        slots: how many chains there are at a time.
        capacity: most events of a slot.
    """

    def __init__(self, device: torch.device, camera: Camera, scorers: list[Scorer], slots: int, capacity: int) -> None:
        if max(camera.size) > _WIDEST:
            raise InputError(f"a sensor of {camera.size} pixels: on a GPU, {_WIDEST} are the most along an axis")
        self.device, self.capacity = device, -(-capacity // 4) * 4  # of 16 bytes: Triton compiles for others anew
        self._free = list(range(slots))
        bearings = torch.tensor(undistortion_table(camera), device=device)
        words, times = torch.empty(2, slots * self.capacity, dtype=torch.int32, device=device)
        self._stored = Stored(words, times, bearings)
        self._planes = [
            Plane.of(each.frame, each.warp, each.pixel_score, each.vote, each.blur_sigma, device) for each in scorers
        ]
        self._host = torch.empty(2, self.capacity, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._sent: Any = None

    def take(self, windows: list[list[Events]]) -> tuple[int, list[int]]:
        """Send windows that follow each other, each in parts, to the device.

        Returns:
            The slot where they are, which is free again with `give_back`; the index of each window's first event.
        """
        if any(part.undistorted for parts in windows for part in parts):
            raise InputError(NO_FRACTIONS)
        slot = self._free.pop()
        if self._sent is not None:
            self._sent.synchronize()  # what was written here before is on its way still
        words, times = self._host.numpy()
        start, done, firsts = slot * self.capacity, 0, []
        for parts in windows:
            firsts.append(start + done)
            for part in parts:
                end = done + len(part)
                assert end <= self.capacity
                pack_events(part.t_us, part.x, part.y, part.p, words[done:end], times[done:end])
                done = end
        self._stored.words[start : start + done].copy_(self._host[0, :done], non_blocking=True)
        self._stored.times[start : start + done].copy_(self._host[1, :done], non_blocking=True)
        if self.device.type == "cuda":
            self._sent = torch.cuda.current_stream(self.device).record_event()
        return slot, firsts

    def give_back(self, slot: int) -> None:
        """The events in a slot are not needed any more."""
        self._free.append(slot)

    def answer(self, questions: Float64[np.ndarray, "r 11"]) -> list[np.ndarray]:
        """Score, events inside and sums of `gather` of each question; sums over parts, where it is about these."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # of this thread
        answers: list[Any] = [None] * len(questions)
        kinds = questions[:, 0] * 2 + questions[:, 1]
        for kind in np.unique(kinds):
            chosen = np.flatnonzero(kinds == kind)
            level, parts = divmod(int(kind), 2)
            work = self._sums if parts else self._scores
            for i, answer in zip(chosen, work(level, questions[chosen]), strict=True):
                answers[i] = answer
        return answers

    def _scores(self, level: int, questions: Float64[np.ndarray, "r 11"]) -> Float64[np.ndarray, "r m"]:
        batch, plane = Batch.of(questions, self.device), self._planes[level]
        images, inside = self._kernels.vote(self._stored, batch, plane)
        values, slopes = self._kernels.score_images(images, plane)
        moments, _ = self._kernels.gather(self._stored, batch, plane, slopes)
        return torch.cat([values[:, None], inside.double()[:, None], moments], dim=1).cpu().numpy()

    def _sums(self, level: int, questions: Float64[np.ndarray, "r 11"]) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for some in _no_larger(questions, _ROWS_AT_ONCE):
            batch, plane = Batch.of(some, self.device), self._planes[level]
            images, _ = self._kernels.vote(self._stored, batch, plane)
            _, slopes = self._kernels.score_images(images, plane)
            _, rows = self._kernels.gather(self._stored, batch, plane, slopes, each=True)
            assert rows is not None
            sums = sums_over_parts(rows, batch.where[:, 1], plane.warp.parameters)
            found += [*torch.cat(sums, dim=1).flatten(1).cpu().numpy()]
        return found

    @property
    def _kernels(self) -> Any:
        if self.device.type != "cuda":
            return reference
        from pauca.events.device import kernels

        return kernels


def _no_larger(questions: Float64[np.ndarray, "r 11"], most: int) -> list[Float64[np.ndarray, "_ 11"]]:
    """Groups of which each has room for its largest packet so many times, or one packet."""
    ends = [0]
    for i in range(1, len(questions)):
        if (i + 1 - ends[-1]) * questions[ends[-1] : i + 1, 3].max() > most:
            ends.append(i)
    return [questions[first:end] for first, end in pairwise([*ends, len(questions)])]
