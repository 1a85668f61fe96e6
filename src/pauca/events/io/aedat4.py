"""AEDAT4, iniVation's recordings (DV): packets of events, inertial samples and frames, each compressed by itself.

The format: https://docs.inivation.com/software/software-advanced-usage/file-formats/aedat-4.0.html
"""

import math
import os
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import lz4.frame
import numpy as np

from pauca.errors import InputError
from pauca.events.io.flatbuffer import Table
from pauca.events.io.source import Block, Source, choose
from pauca.events.kernels.flatbuffer import read_samples
from pauca.events.recording import Finding, Inertial, Remedy

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"#!AER-DAT4.0\r\n"
_EVENT = np.dtype({"names": ["t", "x", "y", "p"], "formats": ["<i8", "<i2", "<i2", "?"], "itemsize": 16})
_LARGEST_HEADER = 1 << 24
_LARGEST_PACKET = 1 << 30  # bytes, decompressed; more is damage
_MOST_GROWTH = 255  # times as many bytes as it reads can LZ4 give
_BUFFER_BYTES = 1 << 20  # a packet has 5 kB
_TOGETHER = 1 << 16  # events that become one block: a packet has some hundred
_LZ4_SIZE_SAID = 0x08  # in a frame's fifth byte
_DAMAGE = (struct.error, ValueError, IndexError, RuntimeError, EOFError, zstd.ZstdError)
_STANDARD_GRAVITY = 9.80665  # m/s^2; accelerations are stored in it, angular velocities in deg/s


@dataclass
class _Stream:
    kind: str  # EVTS, IMUS, FRME, TRIG
    size: tuple[int, int] | None


def open_aedat4(path: Path, stream: str | None = None) -> Source:
    """Open an AEDAT4 recording; its times are microseconds since 1970.

    Args:
        path: the file.
        stream: number of the stream of events, where there are several.

    Raises:
        InputError: where the header is damaged, there are no events, or several streams and none is named.
    """
    try:
        compression, end, streams, start = _header(path)
        decompress = _DECOMPRESS[compression]
    except (*_DAMAGE, KeyError, ElementTree.ParseError) as error:
        raise InputError(f"{path}: damaged header of AEDAT4 ({error}); copy it again") from None
    numbers = [str(number) for number, each in streams.items() if each.kind == "EVTS"]
    chosen = int(choose(numbers, stream, path, one="stream", several="streams of events"))

    def blocks(found: list[Finding]) -> Iterator[Block]:
        samples: list[np.ndarray] = []
        frames: list[int] = []
        waiting: list[memoryview] = []
        held = 0
        for kind, content in _packets(path, start, end, streams, chosen, decompress, found):
            if kind == "EVTS":
                waiting.append(content)
                held += len(content) // _EVENT.itemsize
                if held >= _TOGETHER:
                    yield _block(waiting)
                    waiting, held = [], 0
            else:
                (samples if kind == "IMUS" else frames).append(content)
        yield _block(waiting)
        source.inertial, source.frame_times_us = _inertial(samples), np.array(frames, np.int64)

    source = Source("AEDAT4", blocks, size=streams[chosen].size)
    return source


def _block(packets: list[memoryview]) -> Block:
    events = np.frombuffer(b"".join(packets), _EVENT)
    t, x, y, p = (np.ascontiguousarray(events[name]) for name in "txyp")
    return Block(t, x, y, p.view(np.uint8))


def _header(path: Path) -> tuple[int, int, dict[int, _Stream], int]:
    """Compression, end of the packets, streams by number, and where the packets begin."""
    with path.open("rb") as file:
        file.seek(len(MAGIC))
        said = file.read(4)
        length = struct.unpack("<I", said)[0]
        table = Table.root(said + file.read(min(length, _LARGEST_HEADER)))
        size = file.seek(0, os.SEEK_END)
    after = int(table.scalar(1, "q"))
    streams = {}
    for node in ElementTree.fromstring(table.text(2)).iter("node"):
        values = {attribute.get("key"): attribute.text or "" for attribute in node.findall("attr")}
        if "typeIdentifier" not in values:
            continue
        info = {attribute.get("key"): attribute.text or "" for attribute in node.findall("node[@name='info']/attr")}
        sized = "sizeX" in info and "sizeY" in info
        resolution = (int(info["sizeX"]), int(info["sizeY"])) if sized else None
        streams[int(node.get("name", ""))] = _Stream(values["typeIdentifier"], resolution)
    return int(table.scalar(0, "i")), after if 0 < after <= size else size, streams, len(MAGIC) + 4 + length


def _packets(
    path: Path,
    start: int,
    end: int,
    streams: dict[int, _Stream],
    chosen: int,
    decompress: Callable[[bytes], bytes],
    found: list[Finding],
) -> Iterator[tuple[str, Any]]:
    """All whole packets of events, inertial samples and frames; damage costs what follows it, and its place is said."""
    reads = {number: _CONTENTS[each.kind] for number, each in streams.items() if each.kind in ("IMUS", "FRME")}
    reads[chosen] = _CONTENTS["EVTS"]
    with path.open("rb", _BUFFER_BYTES) as file:
        file.seek(start)
        while start < end:
            try:
                number, length = struct.unpack("<ii", file.read(8))
                if number not in streams or length < 0 or start + 8 + length > end:
                    raise ValueError("cut short" if start + 8 + length > end else "no packet")
                packet, kind = file.read(length), streams[number].kind
                content = reads[number](decompress(packet)) if number in reads else None
            except _DAMAGE as error:
                what = f"all after damage at byte {start:,} of {file.seek(0, os.SEEK_END):,} ({str(error)[:80]})"
                found.append(Finding(Remedy.LOST, what))
                return
            if content is not None:
                yield kind, content
            start += 8 + length


def _samples(buffer: bytes) -> np.ndarray:
    """Time (us), acceleration (g) and angular velocity (deg/s) of each inertial sample."""
    data = np.frombuffer(buffer, np.uint8)
    rows = np.empty((len(data) // 12, 7))  # a sample has an offset and a table with a time: more than twelve bytes
    count = read_samples(data, rows)
    if count < 0:
        raise ValueError("inertial samples beyond the end of their packet")
    return rows[:count].copy()


_CONTENTS: dict[str, Callable[[bytes], Any]] = {
    "EVTS": lambda buffer: Table.root(buffer).structs(0, _EVENT.itemsize),
    "IMUS": _samples,
    "FRME": lambda buffer: int(Table.root(buffer).scalar(0, "q")),
}


def _inertial(samples: list[np.ndarray]) -> Inertial | None:
    if not samples:
        return None
    table = np.concatenate(samples)
    return Inertial(table[:, 0].astype(np.int64), table[:, 4:] * math.pi / 180, table[:, 1:4] * _STANDARD_GRAVITY)


def _whole(piece: bytes, decompressor: lz4.frame.LZ4FrameDecompressor | zstd.ZstdDecompressor) -> bytes:
    """All of a compressed packet, unless it claims more than a packet can be."""
    data = decompressor.decompress(piece, max_length=_LARGEST_PACKET)
    if not decompressor.eof:
        raise ValueError("a packet that does not end")
    return data


def _lz4(piece: bytes) -> bytes:
    """As `_whole`, and five times as fast: memory need not be set aside for more than a small packet can hold."""
    if len(piece) * _MOST_GROWTH > _LARGEST_PACKET or piece[4] & _LZ4_SIZE_SAID:
        return _whole(piece, lz4.frame.LZ4FrameDecompressor())
    return lz4.frame.decompress(piece)


_DECOMPRESS: dict[int, Callable[[bytes], bytes]] = {
    0: bytes,
    1: _lz4,
    2: _lz4,
    3: lambda piece: _whole(piece, zstd.ZstdDecompressor()),
    4: lambda piece: _whole(piece, zstd.ZstdDecompressor()),
}
