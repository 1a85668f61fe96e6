"""Text recordings: one event a line, `t x y p` (UZH), plain or gzip, with or without header lines."""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np

from pauca.errors import InputError
from pauca.events.io.source import Block, Source, StartAgain, TimeUnit
from pauca.events.kernels.text import NO_NUMBER, NO_TIME, TOO_FEW, TOO_MANY, parse_lines
from pauca.events.recording import Finding, Remedy

_BLOCK_BYTES = 1 << 24  # parsed at a time, so memory holds the events and not the text
_GZIP_BYTES = 1 << 10  # decompressed at a time: what a damaged file loses before the damage
_HEADER_LINES = 50  # looked at in search of the first event
_POWER: dict[TimeUnit, int] = {"s": 6, "ms": 3, "us": 0, "ns": -3}
_UNUSED = -1
_ENOUGH_LINES = 10  # for a guess at the order of columns
_TRUTH = {"true": 1.0, "false": 0.0}  # as pandas writes a polarity

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


def open_text(path: Path, time_unit: TimeUnit | None, columns: str | None = None) -> Source:
    """Open a text recording. Decimal seconds become microseconds by their digits, without rounding errors.

    Args:
        path: plain text or gzip; separators are blanks, tabs, commas or semicolons; `#` and `%` begin comments. A
            first line of two integers is the size of the sensor; a line of names (t, x, y, p) the order of columns.
        time_unit: unit of the times; None takes decimals as seconds and integers as microseconds.
        columns: what the columns are, such as `x,y,p,t`; None where a line of names or the numbers tell.

    Raises:
        InputError: where no line is an event.
    """
    header = _read_header(path, _named_columns(columns))

    def blocks(found: list[Finding]) -> Iterator[Block]:
        unit = source.said_unit or "us"
        for block, fractional in _parse(path, header, unit, found):
            if fractional and time_unit is None and unit == "us":
                # The first times were whole (0, 1), later ones are not: the guess was wrong.
                source.said_unit, source.findings = "s", _notes(header)
                raise StartAgain
            yield block

    unit: TimeUnit = time_unit or ("s" if header.decimal_times else "us")
    notes = _notes(header)
    if time_unit is None and unit == "us":
        notes.append(Finding(Remedy.NOTED, "times are whole numbers: taken as microseconds"))
    certain = time_unit is not None
    source = Source(
        "text",
        blocks,
        unit_is_certain=certain,
        said_unit=unit,
        plain=False,  # a pixel may have a fraction, a polarity be -1
        size=header.size,
        findings=notes,
    )
    return source


def _notes(header: "_Header") -> list[Finding]:
    notes = []
    if header.guessed:
        told = " ".join("txyp"[role] for role in header.columns)
        notes.append(Finding(Remedy.NOTED, f"columns taken as {told}, from the look of the first lines"))
    if header.skipped:
        notes.append(Finding(Remedy.NOTED, "header lines skipped", header.skipped, "line 1"))
    return notes


@dataclass
class _Header:
    lines: int = 0  # before the first event
    skipped: int = 0  # of these, lines that mean nothing to us
    size: tuple[int, int] | None = None
    columns: tuple[int, ...] = (0, 1, 2, 3)
    decimal_times: bool = False
    guessed: bool = False


def _named_columns(columns: str | None) -> tuple[int, ...] | None:
    """The user's order of columns, `x,y,p,t` or `- t x y p`."""
    if columns is None:
        return None
    words = re.split(r"[\s,;]+", columns.strip().lower())
    roles = tuple(_UNUSED if word == "-" else _COLUMN_NAMES.get(word, -2) for word in words)
    if sorted(role for role in roles if role != _UNUSED) != [0, 1, 2, 3]:
        raise InputError(f"columns {columns!r}: name t, x, y and p once each, such as x,y,p,t; a - skips a column")
    return roles


def _read_header(path: Path, columns: tuple[int, ...] | None) -> _Header:
    """What stands before the first event, and what the first lines tell about the columns."""
    header = _Header(columns=columns or (0, 1, 2, 3))
    damage: list[Finding] = []
    text = next(_blocks(path, damage, 1 << 16), b"")
    if not text.strip():
        raise InputError(f"{path}: {'nothing can be read: ' + str(damage[0]) if damage else 'is empty'}")
    lines = text.decode("ascii", "replace").splitlines()
    named = columns is not None
    for line in lines[:_HEADER_LINES]:
        words = _words(line.lower())
        if not any(words) or line.lstrip()[:1] in "#%":
            named |= columns is None and _take_names(words, header)
        elif all(_is_number(word) for word in words):
            if len(words) == 2 and header.lines == 0 and all(word.isdigit() for word in words):
                header.size = (int(words[0]), int(words[1]))
            else:
                if not named and len(words) == 4:
                    _guess_columns(lines[header.lines : header.lines + _HEADER_LINES], header)
                return _take_first_event(words, header, path)
        elif columns is None and _take_names(words, header):
            named = True
        else:
            header.skipped += 1
        header.lines += 1
    raise InputError(
        f"{path}: none of the first {header.lines} lines is an event, four numbers t x y p; line 1 is {lines[0][:60]!r}"
    )


def _words(line: str) -> list[str]:
    """The columns of a line; an empty first one, as pandas names its index, counts where commas separate them."""
    stripped = line.strip(" \t\r#%")
    if stripped.startswith(","):
        return ["", *_words(stripped[1:])]
    return re.split(r"[\s,;]+", stripped.strip(" \t\r,;#%"))


def _guess_columns(lines: list[str], header: _Header) -> None:
    """Another order than t x y p, where the numbers leave only one: time alone grows, polarity alone is 0/1 or -1/1."""
    rows = [words for words in map(_words, lines) if len(words) == 4 and all(map(_is_number, words))]
    if len(rows) < _ENOUGH_LINES:
        return
    table = np.array([[_as_number(word) for word in row] for row in rows])
    grows = (np.diff(table, axis=0) >= 0).all(0) & (np.ptp(table, axis=0) > 0)
    binary = np.isin(table, (0, 1)).all(0) | np.isin(table, (-1, 1)).all(0)
    if grows[0] or grows.sum() != 1 or binary.sum() != 1 or (grows & binary).any():
        return
    time, polarity = int(np.argmax(grows)), int(np.argmax(binary))
    x, y = (column for column in range(4) if column not in (time, polarity))
    roles = [0] * 4
    for column, role in ((time, 0), (x, 1), (y, 2), (polarity, 3)):
        roles[column] = role
    header.columns, header.guessed = tuple(roles), True


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
            "t x y p; say what they are (columns, --columns t,x,y,p,-), or begin the file with a line of their names"
        )
    header.decimal_times = any(mark in words[header.columns.index(0)] for mark in ".e")
    return header


def _as_number(word: str) -> float:
    return _TRUTH[word.lower()] if word.lower() in _TRUTH else float(word)


def _is_number(word: str) -> bool:
    try:
        _as_number(word)
    except ValueError:
        return False
    return True


def _parse(path: Path, header: _Header, unit: TimeUnit, findings: list[Finding]) -> Iterator[tuple[Block, bool]]:
    """Events in blocks, and whether a time among them has a fraction of a unit."""
    columns = np.asarray(header.columns, np.int64)
    total_count, total_line = np.zeros(4, np.int64), np.full(4, -1, np.int64)
    line = skip = header.lines
    for block in _blocks(path, findings, _BLOCK_BYTES):
        text = np.frombuffer(block, np.uint8)
        if skip:
            text, skip = _without_lines(text, skip), 0
        n_lines = int(np.count_nonzero(text == ord("\n")))
        out = [np.empty(n_lines, dtype) for dtype in (np.int64, np.float32, np.float32, np.float32)]
        count, first = np.zeros(4, np.int64), np.full(4, -1, np.int64)
        n, parsed_lines, fractional = parse_lines(
            text, columns, _POWER[unit], out[0], out[1], out[2], out[3], count, first
        )
        total_line = np.where((total_line < 0) & (first >= 0), first + line, total_line)
        total_count += count
        yield Block(*(column[:n] for column in out), line=line + 1 if parsed_lines == n else None), fractional
        line += parsed_lines
    for reason, text in _REASONS.items():
        if count := int(total_count[reason]):
            findings.append(Finding(Remedy.DROPPED, text, count, f"line {total_line[reason] + 1}"))


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
