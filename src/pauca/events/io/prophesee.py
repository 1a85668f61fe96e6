"""Prophesee's binary recordings: RAW (EVT2, EVT3) and DAT, with their text headers."""

import re
from pathlib import Path

import numpy as np

from pauca.errors import InputError
from pauca.events.io.repair import RawColumns
from pauca.events.kernels.prophesee import count_evt3, decode_dat, decode_evt2, decode_evt3
from pauca.events.recording import Finding, Remedy

_DAT_CD_TYPES = (0x00, 0x0C)  # 2D events and CD events, eight bytes each


def is_prophesee(start: bytes) -> bool:
    """Whether a file's first bytes are the header of a RAW or DAT file, and not comments over text."""
    header, _ = _split(start)
    return bool(re.search(r"^% (evt \d|format EVT|Data file|integrator_name|plugin_name)", header, re.MULTILINE))


def read_prophesee(path: Path) -> RawColumns:
    """Read a RAW file in EVT2 or EVT3, or a DAT file of change-detection events; their times are microseconds.

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
    word = np.dtype("<u2" if encoding == "EVT3" else "<u4")
    whole = word.itemsize * (2 if encoding == "DAT" else 1)
    words = np.frombuffer(body[: len(body) // whole * whole], word)
    findings = []
    if len(body) % whole:
        findings.append(Finding(Remedy.LOST, "the last event or word, cut short by the end of the file"))
    columns, (early, unknown) = _decode(encoding, words)
    if early:
        findings.append(Finding(Remedy.DROPPED, "events before the first time", early, "event 1"))
    if unknown:
        findings.append(Finding(Remedy.DROPPED, "words of no known type", unknown))
    t, x, y, p = columns
    return RawColumns(encoding, t, x, y, p, unit="us", unit_is_certain=True, size=_size(header), findings=findings)


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
        if version in ("2", "3"):
            return f"EVT{version}"
        raise InputError(f"{path}: is in EVT{version}; supported are EVT2 and EVT3: convert it with Metavision")
    if path.suffix.lower() == ".dat" or header.startswith("% Data file"):
        return "DAT"
    raise InputError(f"{path}: a Prophesee header without its encoding (% evt 2.0 or % evt 3.0); export the file again")


def _size(header: str) -> tuple[int, int] | None:
    """From `% geometry 640x480`, `% format EVT3;height=720;width=1280`, or lines `% Width 304`, `% Height 240`."""
    if geometry := re.search(r"^% geometry (\d+)x(\d+)", header, re.MULTILINE):
        return int(geometry[1]), int(geometry[2])
    width, height = (re.search(rf"[ ;]{side}[ =](\d+)", header, re.IGNORECASE) for side in ("width", "height"))
    return (int(width[1]), int(height[1])) if width and height else None


def _decode(encoding: str, words: np.ndarray) -> tuple[tuple[np.ndarray, ...], tuple[int, int]]:
    most = count_evt3(words) if encoding == "EVT3" else len(words)
    columns = tuple(np.empty(most, dtype) for dtype in (np.int64, np.uint16, np.uint16, np.uint8))
    decode = {"EVT2": decode_evt2, "EVT3": decode_evt3, "DAT": decode_dat}[encoding]
    n, early, unknown = decode(words, *columns)
    return tuple(column[:n] for column in columns), (early, unknown)
