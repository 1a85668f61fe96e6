"""Pieces of a recording, aligned at once, by processes that share what the CPU decides, with images on a device."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice

import torch

from pauca.errors import ConfigError, DeviceError
from pauca.events.alignment import Aligner
from pauca.events.device.engine import MOST_PLACES, Engine
from pauca.events.device.follow import Setting, Work, at_once, follow, follow_group
from pauca.events.device.requests import Ask, Resident
from pauca.events.device.serving import Server
from pauca.events.device.shared import SharedEvents
from pauca.events.types import Alignment, Events
from pauca.events.windows import joined
from pauca.events.workers import Workers
from pauca.runs import resolve_device

AT_ONCE = 32
"""Pieces that one process has on their way together; 1.3 GB of a recording in its memory, and 0.8 GB on the device."""

_OF_A_WORKER = 8  # pieces that one of several processes gets at a time: while it waits for the device, others work
Piece = tuple[list[Events], list[Events]]
"""The events before it, whose packets tell about its beginning, and its own, each in parts that follow each other."""


def align_on_device(
    pieces: Iterable[Piece], aligner: Aligner, workers: Workers, capacity: int, device: str = "cuda"
) -> Iterator[list[Alignment]]:
    """The packets of each piece, in order, as an `Aligner` finds them that follows the events before and the piece.

    Images are made on the device, for one packet of each piece that is on its way at a time. What is decided about
    packets is decided on the CPU, by what an `Aligner` does; several processes share that, and ask this one.

    Args:
        pieces: in order.
        aligner: its camera, settings and prior are taken.
        workers: who decides.
        capacity: most events of a piece, with those before it.
        device: cuda; cpu for tests.

    Raises:
        ConfigError: more workers than a device has places for.
        DeviceError: there is no such device, or it has too little memory, or several processes cannot share it here.
        InputError: the events cannot be sent to it.
    """
    if workers.count > 1 and not hasattr(os, "memfd_create"):
        raise DeviceError(f"workers {workers.count} share a GPU on Linux alone; choose 1")
    slots, of_a_worker = _slots(workers.count, capacity)
    setting, windows = Setting(aligner.camera, aligner.config, aligner.prior), map(_windows, pieces)
    try:
        engine = Engine(resolve_device(device), aligner.camera, aligner.scorers, slots, capacity)
        if workers.count == 1:
            works = (_work(engine, setting, each) for each in windows)
            yield from at_once(setting, works, lambda questions, _: engine.answer(questions), slots)
        else:
            yield from _by_several(engine, setting, windows, workers, of_a_worker)
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"device {device} has too little memory free for {slots} pieces at once: {error}") from error


def _slots(count: int, capacity: int) -> tuple[int, int]:
    """Places for pieces on the device; how many of them a process gets at a time."""
    groups = 1 if count == 1 else count + 1  # one waits for the first process that is free
    fit = MOST_PLACES // (capacity + 3) // groups
    if not fit:
        raise ConfigError(
            f"workers {count} are too many for one GPU with pieces of {capacity:,} events; try "
            f"{max(1, MOST_PLACES // (capacity + 3) - 1)} or fewer"
        )
    of_a_worker = min(AT_ONCE if count == 1 else _OF_A_WORKER, fit)
    return groups * of_a_worker, of_a_worker


def _windows(piece: Piece) -> list[list[Events]]:
    before, events = piece
    return [before, events] if before else [events]


def _work(engine: Engine, setting: Setting, windows: list[list[Events]]) -> Work:
    slot, firsts = engine.take(windows)
    residents = [Resident(joined(parts), first) for parts, first in zip(windows, firsts, strict=True)]

    def work(ask: Ask) -> list[Alignment]:
        found = follow(setting, residents, ask)
        engine.give_back(slot)
        return found

    return work


def _by_several(
    engine: Engine, setting: Setting, pieces: Iterator[list[list[Events]]], workers: Workers, of_a_worker: int
) -> Iterator[list[Alignment]]:
    held: deque[list[tuple[SharedEvents, int]]] = deque()
    free: list[int] = []  # files that can be written anew: the memory of a new one would have to be cleared before

    def groups() -> Iterator[list[tuple[SharedEvents, list[int]]]]:
        while group := list(islice(pieces, of_a_worker)):
            sent = [
                (*engine.take(windows), SharedEvents.of(windows, free.pop() if free else None)) for windows in group
            ]
            held.append([(shared, slot) for slot, _, shared in sent])
            yield [(shared, firsts) for _, firsts, shared in sent]

    with Server(engine.answer) as server:
        try:
            for found in workers.map(partial(follow_group, setting, server.address), groups()):
                for shared, slot in held.popleft():
                    free.append(shared.file)
                    engine.give_back(slot)
                yield from found
        except Exception as error:
            raise server.error or error from None
        finally:
            for file in (*free, *(shared.file for group in held for shared, _ in group)):
                os.close(file)
