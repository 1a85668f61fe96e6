"""Prophesee's binary recordings: RAW (EVT2, EVT2.1, EVT3) and DAT, with their text headers."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pauca.errors import InputError
from pauca.events.io.source import Block, Source, read_pieces
from pauca.events.kernels.prophesee import (
    EARLY,
    STATE,
    UNKNOWN,
    count_evt3,
    count_evt21,
    decode_dat,
    decode_evt2,
    decode_evt3,
    decode_evt21,
)
from pauca.events.recording import Finding, Remedy

_HEADER, _LONGEST_HEADER = 1 << 14, 1 << 20
_PIECE_BYTES = 1 << 20  # decoded at a time; a word of EVT3 may hold twelve events
_DTYPES = (np.int64, np.uint16, np.uint16, np.uint8)
_DAT_CD_TYPES = (0x00, 0x0C)  # 2D events and CD events, eight bytes each


def is_prophesee(start: bytes) -> bool:
    """Whether a file's first bytes are the header of a RAW or DAT file, and not comments over text."""
    header, _ = _split(start)
    return bool(re.search(r"^% (evt \d|format EVT|Data file|integrator_name|plugin_name)", header, re.MULTILINE))


def open_prophesee(path: Path) -> Source:
    """Open a RAW file in EVT2, EVT2.1 or EVT3, or a DAT file of change-detection events; its times are microseconds.

    Raises:
        InputError: another encoding, or a header that says none.
    """
    with path.open("rb") as file:
        header, rest = _split(first := file.read(_HEADER))
        if len(rest) < 2 or rest.startswith(b"% "):  # the header may go on
            header, rest = _split(first + file.read(_LONGEST_HEADER))
    encoding, start = _encoding(header, path), len(header)
    if encoding == "DAT" and len(rest) >= 2:
        kind, size = rest[0], rest[1]
        if kind not in _DAT_CD_TYPES or size != 8:
            raise InputError(
                f"{path}: DAT of type {kind} with {size} bytes an event; supported are CD events of 8 bytes"
            )
        start += 2
    decoder = Decoder(encoding, legacy="endianness=legacy" in header)

    def blocks(found: list[Finding]) -> Iterator[Block]:
        decoder.reset()
        end = start
        for piece in read_pieces(path, start, _PIECE_BYTES):
            end += len(piece)
            yield Block(*decoder.decode(piece))
        if decoder.rest:
            place = f"at byte {end - len(decoder.rest):,}"
            found.append(Finding(Remedy.LOST, f"the last event or word, cut short by the end of the file {place}"))
        found += decoder.findings()

    return Source(encoding, blocks, size=_size(header))


class Decoder:
    """Decodes a stream piece by piece, wherever it is cut.

    Args:
        encoding: EVT2, EVT2.1, EVT3 or DAT.
        legacy: EVT2.1 with the halves of its words swapped.
    """

    def __init__(self, encoding: str, legacy: bool = False) -> None:
        self._encoding, self._shifts = encoding, (28, 32) if legacy else (60, 0)
        self._word = np.dtype({"EVT3": "<u2", "EVT2.1": "<u8"}.get(encoding, "<u4"))
        self._whole = self._word.itemsize * (2 if encoding == "DAT" else 1)
        self.reset()

    def reset(self) -> None:
        """Begin a stream."""
        self._state, self.rest = np.zeros(STATE, np.int64), b""

    def decode(self, piece: bytes | memoryview) -> tuple[np.ndarray, ...]:
        """Events t (us), x, y, p of the next bytes; those of a word that is cut wait for the rest of it."""
        if self.rest:
            piece = self.rest + bytes(piece)
        end = len(piece) // self._whole * self._whole
        self.rest = bytes(piece[end:])
        words, state = np.frombuffer(piece, self._word, end // self._word.itemsize), self._state
        most = {"EVT3": count_evt3, "EVT2.1": lambda words: count_evt21(words, *self._shifts)}.get(self._encoding, len)
        room = most(words)
        columns = tuple(np.empty(room, dtype) for dtype in _DTYPES)
        if self._encoding == "EVT2.1":
            n = decode_evt21(words, *self._shifts, state, *columns)
        else:
            n = {"EVT2": decode_evt2, "EVT3": decode_evt3, "DAT": decode_dat}[self._encoding](words, state, *columns)
        return tuple(column[:n] for column in columns)

    def findings(self) -> list[Finding]:
        """What had to be left out so far: events before the first time, and words of no known type."""
        found = []
        if early := int(self._state[EARLY]):
            found.append(Finding(Remedy.DROPPED, "events before the first time", early, "event 1"))
        if unknown := int(self._state[UNKNOWN]):
            found.append(Finding(Remedy.DROPPED, "words of no known type", unknown))
        return found


def _split(data: bytes) -> tuple[str, bytes]:
    """Header lines, which begin with `% `, and the binary rest."""
    end = 0
    while data[end : end + 2] == b"% " and (line_end := data.find(b"\n", end) + 1):
        line, end = data[end:line_end], line_end
        if line.strip() == b"% end":
            break
    return data[:end].decode("latin-1"), data[end:]


def _encoding(header: str, path: Path) -> str:
    said = re.search(r"^% (?:evt|format) (?:EVT)?([\d.]+)", header, re.MULTILINE)
    if said:
        version = said[1].rstrip(".").removesuffix(".0")
        version = {"21": "2.1"}.get(version, version)
        if version in ("2", "2.1", "3"):
            return f"EVT{version}"
        raise InputError(f"{path}: is in EVT{version}; supported are EVT2, EVT2.1 and EVT3: convert it with Metavision")
    if path.suffix.lower() == ".dat" or header.startswith("% Data file"):
        return "DAT"
    raise InputError(f"{path}: a Prophesee header without its encoding (% evt 2.0 or % evt 3.0); export the file again")


def _size(header: str) -> tuple[int, int] | None:
    """From `% geometry 640x480`, `% format EVT3;height=720;width=1280`, or lines `% Width 304`, `% Height 240`."""
    if geometry := re.search(r"^% geometry (\d+)x(\d+)", header, re.MULTILINE):
        return int(geometry[1]), int(geometry[2])
    width, height = (re.search(rf"[ ;]{side}[ =](\d+)", header, re.IGNORECASE) for side in ("width", "height"))
    return (int(width[1]), int(height[1])) if width and height else None
