"""What a decoder gives: the facts of a file's header, and its events block by block, as they are stored.

A file is read whole by taking all blocks, and as a stream by taking one after the other: there is one decoder for both.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from pauca.errors import InputError
from pauca.events.camera import Camera
from pauca.events.recording import Finding, GroundTruth, Inertial

TimeUnit = Literal["s", "ms", "us", "ns"]

MICROSECONDS: dict[TimeUnit, float] = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
"""Microseconds in each unit of time."""

BLOCK_BYTES = 1 << 22
"""How much of a binary file is decoded at a time: a million events of four bytes."""

_NAMED = 12  # recordings of a file that a refusal names


@dataclass
class Block:
    """Some events as they are stored: any type of number, one of each column for each event."""

    t: np.ndarray  # in the source's unit
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    line: int | None = field(
        default=None, kw_only=True
    )  # of the first event, counted from 1, where each further line is one event

    def __len__(self) -> int:
        return len(self.t)

    def check(self, path: Path) -> None:
        """Refuse columns that are no numbers, or do not belong together."""
        columns = {"t": self.t, "x": self.x, "y": self.y, "p": self.p}
        for name, column in columns.items():
            if column.ndim != 1 or column.dtype.kind not in "biuf":
                raise InputError(
                    f"{path}: {name} is {column.dtype} of shape {column.shape}, expected one number for each event"
                )
        check_lengths({name: len(column) for name, column in columns.items()}, path)


def holds_plain(kinds: dict[str, str]) -> bool:
    """Whether columns of these kinds (numpy's letters) are pixels and polarities as they seem."""
    return kinds["x"] in "iu" and kinds["y"] in "iu" and kinds["p"] in "ub"


def check_lengths(lengths: dict[str, int], path: Path) -> None:
    """Refuse columns of different length.

    Raises:
        InputError: which says how long each is.
    """
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise InputError(f"{path}: columns of different length ({told}), so which belong together is unknown")


class StartAgain(Exception):
    """A decoder found that it took the file for something else; its source is right now, and reading begins anew."""


@dataclass
class Source:
    """A file of events: what is known before the first event, and the events in blocks."""

    format: str
    blocks: Callable[[list[Finding]], Iterator[Block]]  # one pass over the file; trouble met goes to the list
    unit: TimeUnit = "us"
    unit_is_certain: bool = True  # said by the user or by the file, not guessed from the look of the numbers
    said_unit: TimeUnit | None = None  # the unit in the file, where the blocks' times are converted already
    plain: bool = True  # pixels are integers, and polarity 0/1: nothing has to be looked at before it is understood
    size: tuple[int, int] | None = None
    camera: Callable[[tuple[int, int]], Camera | None] = lambda size: None  # for this size; InputError: it is unfit
    no_camera: str = ""  # why what the file says of a camera is not said of this one
    ground_truth: GroundTruth | None = None
    findings: list[Finding] = field(default_factory=list)  # in the header
    inertial: Inertial | None = None  # these two are complete after a pass over the blocks
    frame_times_us: np.ndarray | None = None


def merged(blocks: Iterable[Block], path: Path, least: int = 1 << 16) -> Iterator[Block]:
    """Blocks of at least so many events, checked: a camera's packets of some hundred would cost more than decoding."""
    waiting: list[Block] = []
    held = 0
    for block in blocks:
        block.check(path)
        if block.line is not None or (not waiting and len(block) >= least):
            yield from _together(waiting)
            yield block
            waiting, held = [], 0
            continue
        waiting.append(block)
        held += len(block)
        if held >= least:
            yield from _together(waiting)
            waiting, held = [], 0
    yield from _together(waiting)


def _together(blocks: list[Block]) -> Iterator[Block]:
    if len(blocks) > 1:
        yield Block(*(np.concatenate([getattr(block, name) for block in blocks]) for name in "txyp"))
    else:
        yield from blocks


def choose(names: list[str], wanted: str | None, path: Path, *, one: str, several: str, nothing: str = "") -> str:
    """Which of a file's recordings to read: the one that is named, or the only one.

    Args:
        names: what the file holds.
        wanted: the user's choice (`group`); None takes the only one.
        path: the file, for messages.
        one: what one of them is, such as `topic`.
        several: what all of them are, such as `topics of events`.
        nothing: what to say where there is none.

    Raises:
        InputError: where the choice is not there, or there is none, or several.
    """
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    told = ", ".join(names[:_NAMED]) + more or "none"
    if wanted is not None:
        matching = [name for name in names if name.strip("/") == wanted.strip("/")]
        if not matching:
            raise InputError(f"{path}: no events in {one} {wanted!r}; {several}: {told}")
        return matching[0]
    if not names:
        raise InputError(f"{path}: {nothing or f'{several}: none'}")
    if len(names) > 1:
        raise InputError(f"{path}: holds {len(names)} {several} ({told}); say which (group, --group)")
    return names[0]


def read_pieces(path: Path, start: int, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """A file's bytes from `start` on, piece by piece."""
    with path.open("rb") as file:
        file.seek(start)
        while piece := file.read(size):
            yield piece
