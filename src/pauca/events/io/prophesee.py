"""Prophesee's binary recordings: RAW (EVT2, EVT2.1, EVT3) and DAT, with their text headers."""

import re
from pathlib import Path

import numpy as np

from pauca.errors import InputError
from pauca.events.io.repair import RawColumns
from pauca.events.kernels.prophesee import count_evt3, count_evt21, decode_dat, decode_evt2, decode_evt3, decode_evt21
from pauca.events.recording import Finding, Remedy

_DAT_CD_TYPES = (0x00, 0x0C)  # 2D events and CD events, eight bytes each


def is_prophesee(start: bytes) -> bool:
    """Whether a file's first bytes are the header of a RAW or DAT file, and not comments over text."""
    header, _ = _split(start)
    return bool(re.search(r"^% (evt \d|format EVT|Data file|integrator_name|plugin_name)", header, re.MULTILINE))


def read_prophesee(path: Path) -> RawColumns:
    """Read a RAW file in EVT2, EVT2.1 or EVT3, or a DAT file of change-detection events; their times are microseconds.

    Raises:
        InputError: another encoding, or a header that says none.
    """
    data = path.read_bytes()
    header, body = _split(data)
    encoding = _encoding(header, path)
    if encoding == "DAT" and len(body) >= 2:
        kind, size = body[0], body[1]
        if kind not in _DAT_CD_TYPES or size != 8:
            raise InputError(
                f"{path}: DAT of type {kind} with {size} bytes an event; supported are CD events of 8 bytes"
            )
        body = body[2:]
    words, columns, (early, unknown) = decode(encoding, body, legacy="endianness=legacy" in header)
    findings = []
    if rest := len(body) - words.nbytes:
        place = f"at byte {len(data) - rest:,}"
        findings.append(Finding(Remedy.LOST, f"the last event or word, cut short by the end of the file {place}"))
    findings += findings_of(early, unknown)
    t, x, y, p = columns
    return RawColumns(encoding, t, x, y, p, unit="us", unit_is_certain=True, size=_size(header), findings=findings)


def findings_of(early: int, unknown: int) -> list[Finding]:
    """What a decoder had to leave out: events before the first time, and words of no known type."""
    found = []
    if early:
        found.append(Finding(Remedy.DROPPED, "events before the first time", early, "event 1"))
    if unknown:
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


def decode(
    encoding: str, body: bytes, legacy: bool = False
) -> tuple[np.ndarray, tuple[np.ndarray, ...], tuple[int, int]]:
    """Whole words of a stream, their events t x y p, and how many came before the first time or are of no known type.

    Args:
        encoding: EVT2, EVT2.1, EVT3 or DAT.
        body: the stream, without header.
        legacy: EVT2.1 with the halves of its words swapped.
    """
    word = np.dtype({"EVT3": "<u2", "EVT2.1": "<u8"}.get(encoding, "<u4"))
    whole = word.itemsize * (2 if encoding == "DAT" else 1)
    words = np.frombuffer(body, word, len(body) // whole * (whole // word.itemsize))
    shifts = (28, 32) if legacy else (60, 0)
    most = {"EVT3": count_evt3, "EVT2.1": lambda words: count_evt21(words, *shifts)}.get(encoding, len)(words)
    columns = tuple(np.empty(most, dtype) for dtype in (np.int64, np.uint16, np.uint16, np.uint8))
    if encoding == "EVT2.1":
        n, early, unknown = decode_evt21(words, *shifts, *columns)
    else:
        n, early, unknown = {"EVT2": decode_evt2, "EVT3": decode_evt3, "DAT": decode_dat}[encoding](words, *columns)
    return words, tuple(column[:n] for column in columns), (early, unknown)
