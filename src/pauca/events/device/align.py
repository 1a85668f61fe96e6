"""Pieces of a recording, aligned at once, by processes that each have images of their packets made on the device."""

import os
import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

import torch

from pauca.errors import DeviceError
from pauca.events.alignment import Aligner
from pauca.events.device.engine import MOST_PLACES
from pauca.events.device.follow import Setting
from pauca.events.device.place import Place, follow_group
from pauca.events.shared import SharedEvents, new_file
from pauca.events.types import Alignment, Events
from pauca.events.workers import Workers
from pauca.runs import resolve_device

AT_ONCE = 32
"""Pieces that one process has on their way together; 1.3 GB of a recording in its memory, and 0.8 GB on the device."""

_OF_A_WORKER = 8  # pieces that one of several processes gets at a time: while it decides, others use the device
_WRITERS = 8
"""Threads that copy events for other processes: 3 million take one of them 25 ms, or 50 into memory that is new."""

Piece = tuple[list[Events], list[Events]]
"""The events before it, whose packets tell about its beginning, and its own, each in parts that follow each other."""


def align_on_device(
    pieces: Iterable[Piece], aligner: Aligner, workers: Workers, capacity: int, device: str = "cuda"
) -> Iterator[list[Alignment]]:
    """The packets of each piece, in order, as an `Aligner` finds them that follows the events before and the piece.

    Images are made on the device, for one packet of each piece that is on its way at a time. What is decided about
    packets is decided on the CPU, by what an `Aligner` does. Several processes share all of that: each uses the device
    by itself. One that answered all others was slower: 50 million events/s on an H200, where these gave 77.

    Args:
        pieces: in order.
        aligner: its camera, settings and prior are taken.
        workers: who does the work.
        capacity: most events of a piece, with those before it.
        device: cuda; cpu for tests.

    Raises:
        DeviceError: there is no such device, or it has too little memory; or processes cannot share events here.
        InputError: the events cannot be sent to it.
    """
    if workers.count > 1 and not hasattr(os, "memfd_create"):
        raise DeviceError(f"workers {workers.count} share events on Linux alone; choose 1")
    most = _fitting(AT_ONCE if workers.count == 1 else _OF_A_WORKER, capacity)
    place = Place(Setting(aligner.camera, aligner.config, aligner.prior), str(resolve_device(device)), most, capacity)
    windows = map(_windows, pieces)
    try:
        if workers.count == 1:
            yield from place.follow(windows)
        else:
            yield from _by_several(place, windows, workers)
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"device {device} has too little memory free for {workers.count * most} pieces at once: {error}"
        ) from error


def _fitting(count: int, capacity: int) -> int:
    """So many pieces, or fewer where there are not places for them."""
    return max(1, min(count, MOST_PLACES // (capacity + 3)))


def _windows(piece: Piece) -> list[list[Events]]:
    before, events = piece
    return [before, events] if before else [events]


def _by_several(place: Place, pieces: Iterator[list[list[Events]]], workers: Workers) -> Iterator[list[Alignment]]:
    held: deque[list[SharedEvents]] = deque()
    files: list[int] = []
    free: list[int] = []  # those that can be written anew: the memory of a new one would have to be cleared before

    def file() -> int:
        if not free:
            files.append(new_file())
            free.append(files[-1])
        return free.pop()

    def groups() -> Iterator[list[SharedEvents]]:
        while group := list(islice(pieces, place.at_once)):
            held.append(list(writers.map(SharedEvents.of, group, [file() for _ in group])))
            yield held[-1]

    with ThreadPoolExecutor(_WRITERS) as writers:
        try:
            for found in workers.map(partial(follow_group, pickle.dumps(place)), groups()):
                free += [shared.file for shared in held.popleft()]
                yield from found
        finally:
            writers.shutdown(cancel_futures=True)
            for each in files:
                os.close(each)
