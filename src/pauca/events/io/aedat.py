"""AEDAT 2.0 and 3.1, the recordings of jAER and cAER: DVS128 and DAVIS.

jAER counts rows from the bottom and columns from the right; here x points right and y down.
"""

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pauca.errors import InputError
from pauca.events.io.source import Block, Source, read_pieces
from pauca.events.kernels.aedat2 import decode_words
from pauca.events.recording import Finding, Remedy

MAGIC = b"#!AER-DAT"
_DAVIS_SIZES = {"240": (240, 180), "346": (346, 260), "208": (208, 192), "128": (128, 128), "640": (640, 480)}
_LONGEST_HEADER = 1 << 20
_POLARITY_EVENTS = 1  # of AEDAT 3's types of packets


def open_aedat(path: Path) -> Source:
    """Open an AEDAT 2.0 recording of a DVS128 or DAVIS, or the polarity events of an AEDAT 3.1 file.

    Raises:
        InputError: another version, or a camera that the header does not name.
    """
    with path.open("rb") as file:
        start = file.read(_LONGEST_HEADER)
    version = re.match(rb"#!AER-DAT(\d)\.", start)
    header = start[: _after_header(start)]
    if version and version[1] == b"2":
        return _open_2(path, header)
    if version and version[1] == b"3":
        return Source("AEDAT 3.1", lambda found: _packets_3(path, len(header), found))
    raise InputError(f"{path}: AEDAT {start[9:12]!r}; supported are 2.0, 3.1 and 4.0: save it again with jAER or DV")


def _after_header(data: bytes) -> int:
    """The header's lines begin with #; the last of AEDAT 3 says that it ends there."""
    start = 0
    while data[start : start + 1] == b"#":
        end = data.find(b"\n", start) + 1
        if not end:
            break
        ends_here = data[start:end].startswith(b"#!END-HEADER")
        start = end
        if ends_here:
            break
    return start


def _open_2(path: Path, header: bytes) -> Source:
    chip = re.search(r"# AEChip: \S*(DVS128|DAVIS)(\d*)", header.decode("latin-1"), re.IGNORECASE)
    davis = chip is not None and chip[1].upper() == "DAVIS"
    if chip is not None and davis and chip[2] not in _DAVIS_SIZES:
        raise InputError(f"{path}: a DAVIS{chip[2]}; supported are DAVIS {', '.join(_DAVIS_SIZES)}")
    size = _DAVIS_SIZES[chip[2]] if chip is not None and davis else (128, 128)

    def blocks(found: list[Finding]) -> Iterator[Block]:
        others, last, wraps, rest = 0, 0, 0, 0
        for piece in read_pieces(path, len(header)):
            rest, n = len(piece) % 8, len(piece) // 8
            columns = np.empty(n, np.int64), np.empty(n, np.uint16), np.empty(n, np.uint16), np.empty(n, np.uint8)
            words = np.frombuffer(piece, np.uint32, 2 * n)
            count, last, wraps, largest = decode_words(words, davis, size, last, wraps, columns)
            if chip is None and largest >= 1 << 15:
                told = "an AEDAT 2.0 file that does not name its camera; supported are DVS128 and DAVIS"
                raise InputError(f"{path}: {told}")
            others += n - count
            yield Block(*(column[:count] for column in columns))
        if rest:
            told = f"the last event, cut short by the end of the file ({rest} bytes of 8)"
            found.append(Finding(Remedy.LOST, told))
        if others:
            found.append(Finding(Remedy.NOTED, f"{others:,} samples of frames, triggers and the inertial sensor"))

    return Source("AEDAT 2.0", blocks, size=size)


def _packets_3(path: Path, start: int, found: list[Finding]) -> Iterator[Block]:
    any_events = False
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while start < end:
            file.seek(start)
            head = file.read(28)
            if len(head) < 28:
                found.append(Finding(Remedy.LOST, f"all after byte {start:,}: a packet's header cut short"))
                break
            kind, _, size, _, overflow, _, number, _ = struct.unpack("<hhiiiiii", head)
            behind = start + 28 + size * number
            if size <= 0 or number < 0 or behind > end or overflow < 0:
                found.append(Finding(Remedy.LOST, f"all after byte {start:,}: a packet cut short or damaged"))
                break
            if kind == _POLARITY_EVENTS and size == 8:
                any_events = True
                events = np.frombuffer(file.read(size * number), "<u4").reshape(-1, 2)
                valid = events[events[:, 0] & 1 == 1]
                address, t_us = valid[:, 0], valid[:, 1].astype(np.int64) + (overflow << 31)
                on = (address >> 1 & 1).astype(np.uint8)
                yield Block(t_us, address >> 17 & 0x7FFF, address >> 2 & 0x7FFF, on)
            start = behind
    if not any_events:
        raise InputError(f"{path}: an AEDAT 3 file without polarity events")
