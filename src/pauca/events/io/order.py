"""Events in order of time, while they stream by: single wrong times are taken out, small disorder is sorted."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from pauca.errors import InputError
from pauca.events.kernels.order import scan_order

SMALL_JUMP_US = 10_000
"""An event may come later than another that it precedes by this much, as merged or multi-threaded drivers write them;
more means two recordings in one file, a clock that was reset, or damage. A stream holds back so much time."""

_CONTEXT = 2  # events after a jump that tell which side of it is wrong
_NEVER = -(1 << 62)


class ClockError(InputError):
    """Times that step back too far for a recording in one piece."""

    def __init__(self, path: Path, place: str, back_us: int, at_us: int) -> None:
        super().__init__(
            f"{path}: {place}: time steps back by {back_us / 1e6:g} s, too far for a recording in one piece; cut the "
            "file there, or sort its events (sort, --sort) if it is merged from several"
        )
        self.place, self.back_us, self.at_us = place, back_us, at_us


@dataclass
class Piece:
    """Events as they will be, in the order of the file, and how to say where in the file each stood."""

    t: np.ndarray  # int64 microseconds
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    place: Callable[[int], str] = field(kw_only=True)

    def __len__(self) -> int:
        return len(self.t)

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        return self.t, self.x, self.y, self.p

    @cached_property
    def rises(self) -> bool:
        """Whether no time is before the one before it, as in nearly every piece: found several times faster than how
        far others are."""
        return not (self.t[1:] < self.t[:-1]).any()

    def cut(self, start: int, end: int) -> "Piece":
        place = self.place
        piece = Piece(*(column[start:end] for column in self.columns), place=lambda i: place(i + start))
        if self.__dict__.get("rises"):
            piece.__dict__["rises"] = True
        return piece

    def take(self, kept: np.ndarray) -> "Piece":
        """Those of a mask, or at some indices in their order."""
        index, place = np.flatnonzero(kept) if kept.dtype == np.bool_ else kept, self.place
        return Piece(*(column[index] for column in self.columns), place=lambda i: place(int(index[i])))

    def alone(self) -> "Piece":
        """The same, few events, which do not keep what they were cut from in memory."""
        places = [self.place(i) for i in range(len(self))]
        return Piece(*(column.copy() for column in self.columns), place=places.__getitem__)


def joined(first: Piece, second: Piece) -> Piece:
    """One piece of two."""
    n, before, behind = len(first), first.place, second.place
    columns = (np.concatenate(pair) for pair in zip(first.columns, second.columns, strict=True))
    return Piece(*columns, place=lambda i: before(i) if i < n else behind(i - n))


class LoneTimes:
    """Takes out events whose time alone is wrong, as a flipped bit leaves them: far from both neighbors."""

    def __init__(self, dropped: Callable[[int, str], None]) -> None:
        self._dropped = dropped
        self._pending: Piece | None = None  # the last two events: what follows them tells whether they are wrong
        self._bad = np.zeros(0, bool)  # of them
        self._before: int | None = None  # time of the event before them

    def push(self, piece: Piece) -> Iterator[Piece]:
        pending = self._pending
        if len(piece) > _CONTEXT and not self._bad.any():
            seam = piece.t[:1] if pending is None else np.concatenate([pending.t, piece.t[:1]])
            steady = seam.size < 2 or int(np.diff(seam).min()) >= -SMALL_JUMP_US
            if steady and (piece.rises or scan_order(piece.t, piece.t[0], piece.t[0])[2] <= SMALL_JUMP_US):
                if pending is not None:
                    yield pending
                settled = len(piece) - _CONTEXT
                yield piece.cut(0, settled)
                self._before = int(piece.t[settled - 1])
                self._pending, self._bad = piece.cut(settled, len(piece)).alone(), np.zeros(_CONTEXT, bool)
                return
        yield from self._settle(piece if pending is None else joined(pending, piece), final=False)

    def finish(self) -> Iterator[Piece]:
        if self._pending is not None:
            yield from self._settle(self._pending, final=True)

    def _settle(self, piece: Piece, final: bool) -> Iterator[Piece]:
        """Decide on all events but the last two, or on all."""
        known = 0 if self._before is None else 1
        t = piece.t if self._before is None else np.concatenate([[self._before], piece.t])
        bad = np.concatenate([np.zeros(known, bool), self._bad, np.zeros(len(piece) - len(self._bad), bool)])
        jumps = np.flatnonzero(np.diff(t) < -SMALL_JUMP_US)
        for i in jumps[jumps >= known]:
            if i + 2 >= len(t) and not final:
                continue
            if i + 2 < len(t) and t[i + 2] >= t[i] - SMALL_JUMP_US:
                bad[i + 1] = True
            elif i == 0 or t[i - 1] <= t[i + 1] + SMALL_JUMP_US:
                bad[i] = True
            elif i + 2 == len(t):
                bad[i + 1] = True
        bad = bad[known:]
        settled = len(piece) if final else max(0, len(piece) - _CONTEXT)
        wrong = bad[:settled]
        if count := int(np.count_nonzero(wrong)):
            self._dropped(count, piece.place(int(np.argmax(wrong))))
        if settled:
            yield piece.cut(0, settled).take(~wrong) if count else piece.cut(0, settled)
            self._before = int(piece.t[settled - 1])
        self._pending, self._bad = piece.cut(settled, len(piece)).alone(), bad[settled:]


class InOrder:
    """Sorts small disorder, stably, and holds back what later events may still precede.

    Args:
        path: the file, for messages.
        far: sort however far events are out of order; nothing can be passed on before all are there.
        refused: called before an error about the order of times, to raise a better one.
    """

    def __init__(self, path: Path, far: bool, refused: Callable[[], None]) -> None:
        self._path, self._far, self._refused = path, far, refused
        self._held: deque[Piece] = deque()
        self._last = self._latest = _NEVER
        self.steps_back, self.latest_by_us, self.first_place = 0, 0, ""

    def push(self, piece: Piece) -> Iterator[Piece]:
        if len(piece) == 0:
            return
        if piece.rises and piece.t[0] >= max(self._last, self._latest):
            count, first, late, latest = 0, -1, 0, piece.t[-1]
        else:
            count, first, _, late, latest = scan_order(piece.t, self._last, self._latest)
        if late > SMALL_JUMP_US and not self._far:
            yield from self._refuse(piece)
        if count and not self.steps_back:
            self.first_place = piece.place(first)
        self.steps_back += int(count)
        self.latest_by_us = max(self.latest_by_us, int(late))
        self._last, self._latest = int(piece.t[-1]), int(latest)
        self._held.append(piece)
        if self._far:
            return
        if late:
            self._merge()
        yield from self._before(self._latest - SMALL_JUMP_US)

    def _refuse(self, piece: Piece) -> Iterator[Piece]:
        """Pass on what comes before the first event that is too late, and say where that is."""
        behind = np.maximum.accumulate(np.maximum(piece.t, self._latest)) - piece.t
        worst = int(np.argmax(behind > SMALL_JUMP_US))
        self._refused()
        yield from self.push(piece.cut(0, worst))
        yield from self.finish()
        raise ClockError(self._path, piece.place(worst), int(behind[worst]), int(piece.t[worst]))

    def finish(self) -> Iterator[Piece]:
        if self._far and self.steps_back:
            self._merge()
        yield from self._held
        self._held.clear()

    def _merge(self) -> None:
        columns = [np.concatenate(column) for column in zip(*(piece.columns for piece in self._held), strict=True)]
        order = np.argsort(columns[0], kind="stable")
        self._held = deque([Piece(*(column[order] for column in columns), place=str)])

    def _before(self, limit_us: int) -> Iterator[Piece]:
        """What no later event can precede."""
        while self._held and self._held[0].t[-1] <= limit_us:
            yield self._held.popleft()
        if self._held and self._held[0].t[0] <= limit_us:
            piece = self._held[0]
            place = int(np.searchsorted(piece.t, limit_us, side="right"))
            yield piece.cut(0, place)
            self._held[0] = piece.cut(place, len(piece))
