"""What a long alignment has done so far, on disk: each packet as it is found, and what the next one starts from."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np

from pauca.errors import InputError
from pauca.events.alignment import Memory
from pauca.events.history import History
from pauca.events.types import Alignment, Status
from pauca.events.windows import Flow

Next = tuple[int, dict[str, Any]]  # so many packets are known, and what the next one starts from

_NEVER = -(1 << 62)
_ARRAYS = ("velocity", "acceleration", "covariance")
_NUMBERS = ("t_us", "t_ref_us", "start_us", "end_us", "n_events", "evaluations")


@dataclass(eq=False)
class Journal:
    """Lines of JSON: what is aligned and how, then the packets; a half line of a killed process is passed over.

    Args:
        path: the file; it stays until the work is whole.
        about: plain values that must be the same for the work to go on.
    """

    path: Path
    about: dict[str, Any]

    def read(self) -> tuple[list[Alignment], list[Next]]:
        """The packets that are known, and what was told of the next one's start, from which `memory_of` makes it.

        Raises:
            InputError: the file is not there, or tells of another recording or other settings.
        """
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise InputError(f"{self.path.parent}: nothing to resume: no interrupted run is here") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.path}: cannot be read ({error}); begin anew with --force") from None
        self._compare(lines[0] if lines else "")
        found: list[Alignment] = []
        whole, told = 0, []
        for line in lines[1:]:
            try:
                entry = json.loads(line)
                found.append(_alignment(entry["packet"]))
            except (ValueError, KeyError, TypeError):
                break
            if "next" in entry:
                whole = len(found)
                told.append((whole, entry["next"]))
        return found[:whole], told

    @contextmanager
    def writing(self, known: list[Alignment], told: list[Next]) -> Iterator["JournalWriter"]:
        """Write on, after the packets that are known already."""
        temporary = self.path.with_name(f".{self.path.name}")
        states = dict(told)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(self.about) + "\n")
            for i, alignment in enumerate(known, 1):
                file.write(_line(alignment, states.get(i)))
        temporary.replace(self.path)  # only now: the file before held the same
        with self.path.open("a", encoding="utf-8") as file:
            yield JournalWriter(file, known[-1].t_us if known else _NEVER)

    def _compare(self, first: str) -> None:
        try:
            before = dict(json.loads(first))
        except (TypeError, ValueError):
            raise InputError(f"{self.path}: damaged; begin anew with --force") from None
        now = json.loads(json.dumps(self.about))
        for name in now:
            if before.get(name) != now[name]:
                raise InputError(
                    f"{self.path.parent}: was begun with another {name}; resume it with the same, or begin anew with "
                    "--force"
                )


class JournalWriter:
    """Adds packets to a journal; each is on its way to the disk when `add` returns."""

    def __init__(self, file: IO[str], told_us: int = _NEVER) -> None:
        self._file, self._told_us = file, told_us

    def add(self, alignment: Alignment, memory: Memory | None) -> None:
        """Add a packet; with what the next one starts from, where the stream can be taken up after it."""
        state = None
        if memory is not None:
            state = {"shape": None if memory.shape is None else memory.shape.tolist()}
            state["flow"] = None if memory.flow is None else list(vars(memory.flow).values())
            state["history"] = None if memory.history is None else memory.history.told(self._told_us)
            self._told_us = alignment.t_us
        self._file.write(_line(alignment, state))
        self._file.flush()


def memory_of(last: Alignment, told: list[Next], pixels: np.ndarray) -> Memory:
    """What an aligner that is to go on starts from.

    Args:
        last: the last packet that is known.
        told: what the journal says.
        pixels: pixels a second of a unit of each velocity, as `Aligner.pixels` has it.

    Raises:
        InputError: what the journal says cannot be read.
    """
    try:
        state = told[-1][1]
        shape = None if state["shape"] is None else np.array(state["shape"], float)
        flow = None if state["flow"] is None else Flow(*map(float, state["flow"]))
        histories = [one["history"] for _, one in told if one["history"] is not None]
        return Memory(last, shape, flow, History.restored(pixels, histories) if histories else None)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"the journal of the interrupted run is damaged ({error!r}); begin anew with --force"
        ) from None


def _line(alignment: Alignment, state: dict[str, Any] | None) -> str:
    entry: dict[str, Any] = {"packet": {f.name: _plain(getattr(alignment, f.name)) for f in fields(alignment)}}
    return json.dumps(entry if state is None else entry | {"next": state}) + "\n"


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _alignment(values: dict[str, Any]) -> Alignment:
    arrays = {name: np.array(values[name], float) for name in _ARRAYS}
    k = len(arrays["velocity"])
    if [array.shape for array in arrays.values()] != [(k,), (k,), (k, k)]:
        raise ValueError("arrays of another shape")
    if not all(isinstance(values[name], int) for name in _NUMBERS):
        raise TypeError("a number that is none")
    return Alignment(**{**values, **arrays, "status": Status(values["status"])})
