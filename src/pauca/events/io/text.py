"""Text recordings: one event a line, `t x y p` (UZH), plain or gzip, with or without header lines."""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np

from pauca.errors import InputError
from pauca.events.io.repair import RawColumns, TimeUnit
from pauca.events.kernels.text import NO_NUMBER, NO_TIME, TOO_FEW, TOO_MANY, parse_lines
from pauca.events.recording import Finding, Remedy

_BLOCK_BYTES = 1 << 26  # parsed at a time, so memory holds the events and not the text
_GZIP_BYTES = 1 << 10  # decompressed at a time: what a damaged file loses before the damage
_HEADER_LINES = 50  # looked at in search of the first event
_POWER: dict[TimeUnit, int] = {"s": 6, "ms": 3, "us": 0, "ns": -3}
_UNUSED = -1

_COLUMN_NAMES = {
    **dict.fromkeys(("t", "ts", "t_s", "t_us", "time", "times", "timestamp", "timestamps"), 0),
    **dict.fromkeys(("x", "xs", "col", "column"), 1),
    **dict.fromkeys(("y", "ys", "row"), 2),
    **dict.fromkeys(("p", "ps", "pol", "polarity", "on"), 3),
}
_REASONS = {
    TOO_FEW: "lines with too few columns",
    TOO_MANY: "lines with too many columns",
    NO_NUMBER: "lines with something that is no number",
    NO_TIME: "times that are no finite numbers",
}


def read_text(path: Path, time_unit: TimeUnit | None) -> RawColumns:
    """Read a text recording. Decimal seconds become microseconds by their digits, without rounding errors.

    Args:
        path: plain text or gzip; separators are blanks, tabs, commas or semicolons; `#` and `%` begin comments. A
            first line of two integers is the size of the sensor; a line of names (t, x, y, p) the order of columns.
        time_unit: unit of the times; None takes decimals as seconds and integers as microseconds.

    Raises:
        InputError: where no line is an event.
    """
    findings: list[Finding] = []
    header = _read_header(path)
    unit: TimeUnit = time_unit or ("s" if header.decimal_times else "us")
    parsed = _parse(path, header, unit, findings)
    if parsed.fractional and time_unit is None and unit == "us":
        # The first times were whole (0, 1), later ones are not: the guess was wrong.
        unit, findings = "s", []
        parsed = _parse(path, header, unit, findings)
    for reason, text in _REASONS.items():
        if count := int(parsed.bad_count[reason]):
            findings.append(Finding(Remedy.DROPPED, text, count, f"line {parsed.bad_line[reason] + 1}"))
    if header.skipped:
        findings.append(Finding(Remedy.NOTED, "header lines skipped", header.skipped, "line 1"))
    if time_unit is None and unit == "us":
        findings.append(Finding(Remedy.NOTED, "times are whole numbers: taken as microseconds"))
    t, x, y, p = parsed.columns
    return RawColumns(
        "text",
        t,
        x,
        y,
        p,
        unit="us",
        unit_is_certain=time_unit is not None,
        said_unit=unit,
        size=header.size,
        findings=findings,
        first_line=header.lines + 1 if parsed.lines == len(t) else None,
    )


@dataclass
class _Header:
    lines: int = 0  # before the first event
    skipped: int = 0  # of these, lines that mean nothing to us
    size: tuple[int, int] | None = None
    columns: tuple[int, ...] = (0, 1, 2, 3)
    decimal_times: bool = False


@dataclass
class _Parsed:
    columns: list[np.ndarray]
    bad_count: np.ndarray
    bad_line: np.ndarray  # counted from 0, of the whole file
    lines: int  # after the header
    fractional: bool


def _read_header(path: Path) -> _Header:
    """What stands before the first event, and what the first event's line tells about the columns."""
    header = _Header()
    damage: list[Finding] = []
    text = next(_blocks(path, damage, 1 << 16), b"")
    if not text.strip():
        raise InputError(f"{path}: {'nothing can be read: ' + str(damage[0]) if damage else 'is empty'}")
    lines = text.decode("ascii", "replace").splitlines()
    for line in lines[:_HEADER_LINES]:
        words = re.split(r"[\s,;]+", line.strip(" \t\r,;#%").lower())
        if not words[0] or line.lstrip()[:1] in "#%":
            _take_names(words, header)
        elif all(_is_number(word) for word in words):
            if len(words) == 2 and header.lines == 0 and all(word.isdigit() for word in words):
                header.size = (int(words[0]), int(words[1]))
            else:
                return _take_first_event(words, header, path)
        elif not _take_names(words, header):
            header.skipped += 1
        header.lines += 1
    raise InputError(
        f"{path}: none of the first {header.lines} lines is an event, four numbers t x y p; line 1 is {lines[0][:60]!r}"
    )


def _take_names(words: list[str], header: _Header) -> bool:
    roles = tuple(_COLUMN_NAMES.get(re.sub(r"[(\[].*", "", word), _UNUSED) for word in words)
    known = [role for role in roles if role != _UNUSED]
    if sorted(known) != [0, 1, 2, 3]:
        return False
    header.columns = roles
    return True


def _take_first_event(words: list[str], header: _Header, path: Path) -> _Header:
    if len(words) != len(header.columns):
        raise InputError(
            f"{path}: line {header.lines + 1} has {len(words)} columns, expected {len(header.columns)}, such as "
            "t x y p; where there are more, begin the file with a line that names them, such as: t x y p depth"
        )
    header.decimal_times = any(mark in words[header.columns.index(0)] for mark in ".e")
    return header


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _parse(path: Path, header: _Header, unit: TimeUnit, findings: list[Finding]) -> _Parsed:
    parts: list[list[np.ndarray]] = []
    columns = np.asarray(header.columns, np.int64)
    total_count, total_line = np.zeros(4, np.int64), np.full(4, -1, np.int64)
    line, fractional, skip = header.lines, False, header.lines
    for block in _blocks(path, findings, _BLOCK_BYTES):
        text = np.frombuffer(block, np.uint8)
        if skip:
            text, skip = _without_lines(text, skip), 0
        n_lines = int(np.count_nonzero(text == ord("\n")))
        out = [np.empty(n_lines, dtype) for dtype in (np.int64, np.float32, np.float32, np.float32)]
        count, first = np.zeros(4, np.int64), np.full(4, -1, np.int64)
        n, parsed_lines, block_fractional = parse_lines(
            text, columns, _POWER[unit], out[0], out[1], out[2], out[3], count, first
        )
        total_line = np.where((total_line < 0) & (first >= 0), first + line, total_line)
        total_count += count
        line += parsed_lines
        fractional |= block_fractional
        parts.append([column[:n] for column in out])
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)] if len(parts) != 1 else parts[0]
    return _Parsed(joined, total_count, total_line, line - header.lines, fractional)


def _without_lines(text: np.ndarray, lines: int) -> np.ndarray:
    return text[np.flatnonzero(text == ord("\n"))[lines - 1] + 1 :]


def _blocks(path: Path, findings: list[Finding], size: int) -> Iterator[bytes]:
    """The file's bytes in blocks of whole lines, each ended by a newline; damage to a gzip file goes to `findings`."""
    rest = b""
    for chunk in _raw_blocks(path, findings, size):
        text = rest + chunk
        end = text.rfind(b"\n") + 1
        if end:
            yield text[:end]
        rest = text[end:]
    if rest:
        yield rest + b"\n"


def _raw_blocks(path: Path, findings: list[Finding], size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        if file.peek(2)[:2] != b"\x1f\x8b":
            while block := file.read(size):
                yield block
            return
        pieces, held = [], 0
        for piece in _unzipped(file, findings):
            pieces.append(piece)
            held += len(piece)
            if held >= size:
                yield b"".join(pieces)
                pieces, held = [], 0
        yield b"".join(pieces)


def _unzipped(file: BufferedReader, findings: list[Finding]) -> Iterator[bytes]:
    """Decompress piece by piece; gzip's own reader would lose what it had read when it met the damage."""
    member = zlib.decompressobj(wbits=31)
    fed = False
    while piece := file.read(_GZIP_BYTES):
        while piece:
            try:
                yield member.decompress(piece)
            except zlib.error as error:
                findings.append(Finding(Remedy.LOST, f"all after damage to the gzip file ({error})"))
                return
            fed = True
            piece = member.unused_data.lstrip(b"\0")  # archivers pad with zeros
            if member.eof:
                member, fed = zlib.decompressobj(wbits=31), False
    if fed:
        findings.append(Finding(Remedy.LOST, "all after the end of a truncated gzip file"))
