"""One recording over several processes: in pieces that do not depend on how many processes there are."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from pauca.errors import ConfigError, PaucaError
from pauca.events.alignment import Aligner
from pauca.events.camera import Camera
from pauca.events.gyro_prior import GyroPrior
from pauca.events.settings import AlignConfig
from pauca.events.types import Alignment, Events
from pauca.events.windows import joined

T = TypeVar("T")
R = TypeVar("R")

PIECE_EVENTS = 3_000_000
"""Events of a piece: 42 MB, about four seconds of one core."""

_WARM_PACKETS = 4  # before a piece, aligned for what they tell about its beginning: 4 % more work


class Workers:
    """Processes that share work; a single one is this process itself. Use it as a context manager.

    Raises:
        ConfigError: fewer than one.
    """

    def __init__(self, count: int = 1) -> None:
        if count < 1:
            raise ConfigError(f"workers {count} must be at least 1")
        self.count, self._pool = count, None

    def __enter__(self) -> "Workers":
        if self.count > 1:  # spawn: a fork would copy threads' locks
            # Ctrl-C reaches every process; this one alone ends the work.
            context, ignored = multiprocessing.get_context("spawn"), (signal.SIGINT, signal.SIG_IGN)
            self._pool = ProcessPoolExecutor(self.count, context, signal.signal, ignored)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[[T], R], items: Iterable[T], ahead: int = 1) -> Iterator[R]:
        """What the work makes of each item, in order; so many items more than there are processes wait their turn.

        Raises:
            PaucaError: a process has died.
        """
        if self._pool is None:
            yield from map(work, items)
            return
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(work, item))
                if len(waiting) >= self.count + ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenExecutor:
            raise PaucaError(
                f"one of {self.count} processes ended in the middle of its work, for want of memory perhaps; try fewer "
                "workers"
            ) from None


@dataclass(frozen=True, eq=False)
class _Piece:
    camera: Camera
    config: AlignConfig
    prior: GyroPrior | None
    before: Events | None  # the last events before it
    events: Events


def align_in_pieces(
    chunks: Iterable[Events], aligner: Aligner, workers: Workers, done: int = 0
) -> Iterator[list[Alignment]]:
    """The packets of one piece of `PIECE_EVENTS` events after the other; every event is in one packet.

    A piece begins with what the last four packets before it tell, and a packet ends where it ends. Where they are
    depends on the events alone, so results are the same, bit for bit, for any number of workers. `Aligner.follow` gives
    other packets near the seams.

    Args:
        chunks: the events in order.
        aligner: its camera, settings and prior are taken; hot pixels and noise are the caller's.
        workers: who does the work.
        done: so many events, whole pieces, are known already.
    """
    camera, config = aligner.camera, aligner.config
    warm = _WARM_PACKETS * config.cut(camera.size).most
    pieces = islice(_pieces(chunks, PIECE_EVENTS, warm), -(-done // PIECE_EVENTS), None)
    yield from workers.map(
        _aligned, (_Piece(camera, config, aligner.prior, before, events) for before, events in pieces)
    )


def _pieces(chunks: Iterable[Events], size: int, warm: int) -> Iterator[tuple[Events | None, Events]]:
    """Pieces of exactly so many events, but for the last, each with some of the events before it."""
    parts: list[Events] = []
    held, before = 0, None
    for chunk in chunks:
        parts.append(chunk)
        held += len(chunk)
        while held >= size:
            whole = joined(parts)
            yield before, whole[:size]
            before = whole[max(0, size - warm) : size]
            parts, held = [whole[size:]], held - size
    if held:
        yield before, joined(parts)


def _aligned(piece: _Piece) -> list[Alignment]:
    aligner = Aligner(piece.camera, piece.config, piece.prior)
    if piece.before is not None:
        for _ in aligner.follow(piece.before):
            pass
    return list(aligner.follow(piece.events))
