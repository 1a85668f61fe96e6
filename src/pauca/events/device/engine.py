"""Answers to the questions of many chains: events go to the device once, and each round of questions at once."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int32, Int64
from torch import Tensor

from pauca.errors import InputError
from pauca.events.camera import Camera, undistortion_table
from pauca.events.device import reference
from pauca.events.device.batch import Batch, Plane, Stored
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
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())  # which may change
        self.device, self.capacity = device, -(-capacity // 4) * 4  # of 16 bytes: Triton compiles for others anew
        self._free = list(range(slots))
        bearings = torch.tensor(undistortion_table(camera), device=device)
        words, times = torch.empty(2, slots * self.capacity, dtype=torch.int32, device=device)
        self._stored = Stored(words, times, bearings)
        self._planes = [
            Plane.of(each.frame, each.warp, each.pixel_score, each.vote, each.blur_sigma, device) for each in scorers
        ]
        self._host, self._left = self._pinned(2 * self.capacity, torch.int32).view(2, -1), None
        self._asked, self._found = self._pinned(0, torch.int32), self._pinned(0, torch.float64)

    def take(self, windows: list[list[Events]]) -> tuple[int, list[int]]:
        """Send windows that follow each other, each in parts, to the device.

        Returns:
            The slot where they are, which is free again with `give_back`; the index of each window's first event.
        """
        if any(part.undistorted for parts in windows for part in parts):
            raise InputError(
                "events that are undistorted already, with fractions of pixels, cannot go to a GPU: choose device cpu"
            )
        slot = self._free.pop()
        start, done, firsts = slot * self.capacity, 0, []
        if self._left is not None:
            self._left.synchronize()  # what was written here before is on its way still
        words, times = self._host.numpy()
        for parts in windows:
            firsts.append(start + done)
            for part in parts:
                end = done + len(part)
                assert end <= self.capacity
                pack_events(part.t_us, part.x, part.y, part.p, words[done:end], times[done:end])
                done = end
        self._stored.words[start : start + done].copy_(self._host[0, :done], non_blocking=True)
        self._stored.times[start : start + done].copy_(self._host[1, :done], non_blocking=True)
        self._left = self._mark()
        return slot, firsts

    def give_back(self, slot: int) -> None:
        """The events in a slot are not needed any more."""
        self._free.append(slot)

    def answer(self, questions: Float64[np.ndarray, "r 11"]) -> list[np.ndarray]:
        """Score, events inside and sums of `gather` of each question; sums over parts, where it is about these."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # of this thread
        groups = list(_groups(questions))
        asked = [questions[chosen] for _, _, chosen in groups]
        work = zip(groups, asked, self._send([Batch.words(some) for some in asked]), strict=True)
        found = []
        for (level, parts, _), some, words in work:
            found.append((self._sums if parts else self._scores)(Batch.at(words, some), self._planes[level]))
        answers: list[Any] = [None] * len(questions)
        for (_, _, chosen), numbers in zip(groups, self._fetch(found), strict=True):
            for i, answer in zip(chosen, numbers, strict=True):
                answers[i] = answer
        return answers

    def _scores(self, batch: Batch, plane: Plane) -> Float64[Tensor, "r m"]:
        images, inside = self._kernels.vote(self._stored, batch, plane)
        values, slopes = self._kernels.score_images(images, plane)
        moments, _ = self._kernels.gather(self._stored, batch, plane, slopes)
        return torch.cat([values[:, None], inside[:, None], moments], dim=1)

    def _sums(self, batch: Batch, plane: Plane) -> Float64[Tensor, "r m"]:
        images, _ = self._kernels.vote(self._stored, batch, plane)
        _, slopes = self._kernels.score_images(images, plane)
        _, rows = self._kernels.gather(self._stored, batch, plane, slopes, each=True)
        assert rows is not None
        return self._kernels.sums_over_parts(rows, batch, plane)

    def _send(self, messages: list[Int32[np.ndarray, "_"]]) -> list[Int32[Tensor, "_"]]:
        """Several messages in one transfer, each as it is on the device."""
        lengths = [len(message) for message in messages]
        if len(self._asked) < sum(lengths):
            self._asked = self._pinned(2 * sum(lengths), torch.int32)
        asked = self._asked[: sum(lengths)]
        np.concatenate(messages, out=asked.numpy())
        return list(asked.to(self.device, non_blocking=True).split(lengths))

    def _fetch(self, found: list[Float64[Tensor, "_ _"]]) -> list[Float64[np.ndarray, "_ _"]]:
        """Several results in one transfer, and the only wait: the GPU works on one while the next is launched."""
        flat = torch.cat([each.flatten() for each in found])
        if len(self._found) < len(flat):
            self._found = self._pinned(2 * len(flat), torch.float64)
        here = self._found[: len(flat)]
        here.copy_(flat, non_blocking=True)
        if (done := self._mark()) is not None:
            done.synchronize()  # of this alone: events that are on their way are not waited for
        parts = np.split(here.numpy().copy(), np.cumsum([each.numel() for each in found])[:-1])
        return [part.reshape(each.shape) for part, each in zip(parts, found, strict=True)]

    def _pinned(self, count: int, kind: torch.dtype) -> Tensor:
        """Memory here that transfers need not wait for."""
        return torch.empty(count, dtype=kind, pin_memory=self.device.type == "cuda")

    def _mark(self) -> Any:
        """What tells when all so far is done, on a GPU."""
        return torch.cuda.current_stream(self.device).record_event() if self.device.type == "cuda" else None

    @property
    def _kernels(self) -> Any:
        if self.device.type != "cuda":
            return reference
        from pauca.events.device import kernels

        return kernels


def _groups(questions: Float64[np.ndarray, "r 11"]) -> Iterator[tuple[int, bool, Int64[np.ndarray, "_"]]]:
    """Questions that are answered together: level, whether about parts, and which they are."""
    kinds = (questions[:, 0] * 2 + questions[:, 1]).astype(np.int64)
    for kind in np.flatnonzero(np.bincount(kinds)):
        level, parts = divmod(int(kind), 2)
        chosen = np.flatnonzero(kinds == kind)
        for first, end in _no_larger(questions[chosen, 3].tolist(), _ROWS_AT_ONCE) if parts else [(0, len(chosen))]:
            yield level, bool(parts), chosen[first:end]


def _no_larger(events: list[float], most: int) -> Iterator[tuple[int, int]]:
    """Ranges of which each has room for its largest packet so many times, or one packet."""
    ends, largest = [0], 0.0
    for i, count in enumerate(events):
        largest = max(largest, count)
        if i > ends[-1] and (i + 1 - ends[-1]) * largest > most:
            ends.append(i)
            largest = count
    return pairwise([*ends, len(events)])
