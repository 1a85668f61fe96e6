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
from xml.etree import ElementTree

import lz4.frame
import numpy as np

from pauca.errors import InputError
from pauca.events.io.flatbuffer import Table
from pauca.events.io.source import Block, Source, choose
from pauca.events.kernels.flatbuffer import (
    EVENT_BYTES,
    EVENTS,
    FRAME,
    SAMPLE_BYTES,
    SAMPLES,
    read_packets,
    split_packets,
)
from pauca.events.kernels.lz4 import unpack_frames
from pauca.events.recording import Finding, Inertial, Remedy

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"#!AER-DAT4.0\r\n"
_LARGEST_HEADER = 1 << 24
_LARGEST_PACKET = 1 << 30  # bytes, decompressed; more is damage
_MOST_GROWTH = 255  # times as many bytes as it reads can LZ4 give
_PIECE = 1 << 22  # bytes of the file that are looked at together
_ROOM = 1 << 22  # bytes of contents that are read together: a packet has some 10 kB
_LZ4_SIZE_SAID = 0x08  # in a frame's fifth byte
_LZ4 = (1, 2)
_DAMAGE = (struct.error, ValueError, IndexError, RuntimeError, EOFError, zstd.ZstdError)
_STANDARD_GRAVITY = 9.80665  # m/s^2; accelerations are stored in it, angular velocities in deg/s


class _Damage(Exception):
    """Nothing can be read from this byte of the file on."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(reason)
        self.at = at


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
    kinds = {number: _OTHERS.get(each.kind, 0) for number, each in streams.items()} | {chosen: EVENTS}

    def blocks(found: list[Finding]) -> Iterator[Block]:
        samples: list[np.ndarray] = []
        frames: list[np.ndarray] = []
        try:
            for spans, piece, start_of_piece in _pieces(path, start, end, kinds):
                for packets in _unpacked(piece, spans, start_of_piece, decompress, compression in _LZ4):
                    events, rows, times, wrong = _read(packets)
                    samples.append(rows)
                    frames.append(times)
                    yield events
                    if wrong is not None:
                        raise _Damage(wrong, "what a packet holds lies beyond its end")
        except _Damage as damage:
            what = f"all after damage at byte {damage.at:,} of {path.stat().st_size:,} ({str(damage)[:80]})"
            found.append(Finding(Remedy.LOST, what))
        source.inertial, source.frame_times_us = _inertial(samples), np.concatenate([np.empty(0, np.int64), *frames])

    source = Source("AEDAT4", blocks, size=streams[chosen].size)
    return source


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


def _pieces(path: Path, start: int, end: int, kinds: dict[int, int]) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Whole packets: where each begins and ends in a piece of the file and what it holds; the piece; where that is."""
    numbers, holds = np.array(list(kinds), np.int64), np.array(list(kinds.values()), np.int64)
    with path.open("rb") as file:
        size = _PIECE
        while start < end:
            file.seek(start)
            wanted = min(size, end - start)
            piece = np.frombuffer(file.read(wanted), np.uint8)
            spans = np.empty((len(piece) // 8, 3), np.int64)
            count, used, next_bytes = split_packets(piece, numbers, holds, spans)
            yield spans[:count], piece, start
            start += used
            if next_bytes < 0:
                raise _Damage(start, "no packet")
            # A file that has become shorter since it was opened holds no more of this packet than it has given.
            if start + next_bytes > end or (used == 0 and len(piece) < wanted):
                raise _Damage(start, "cut short")
            size = max(_PIECE, next_bytes)


@dataclass
class _Packets:
    """Contents of packets, back to back."""

    data: np.ndarray
    bounds: np.ndarray  # where each begins in `data`, and where the last ends
    kinds: np.ndarray
    places: np.ndarray  # where each begins in the file


def _unpacked(
    piece: np.ndarray, spans: np.ndarray, start: int, decompress: Callable[[bytes], bytes], lz4_frames: bool
) -> Iterator[_Packets]:
    """Packets decompressed, as many together as there is room for: LZ4 by a kernel, where that can, or by a library."""
    room, bounds = np.empty(_ROOM, np.uint8), np.empty(len(spans) + 1, np.int64)
    places, done = spans[:, 0] - 8 + start, 0
    while done < len(spans):
        left, wrong, data = spans[done:], None, room
        count = unpack_frames(piece, left[:, 0], left[:, 1], room, bounds) if lz4_frames else 0
        if count == 0:
            contents, wrong = _by_library(piece, left, decompress)
            count, data = len(contents), np.frombuffer(b"".join(contents), np.uint8)
            bounds[: count + 1] = np.cumsum([0, *map(len, contents)])
        yield _Packets(data, bounds[: count + 1], left[:count, 2], places[done:])
        done += count
        if wrong is not None:
            raise _Damage(int(places[done]), str(wrong))


def _by_library(
    piece: np.ndarray, spans: np.ndarray, decompress: Callable[[bytes], bytes]
) -> tuple[list[bytes], Exception | None]:
    """Contents of some packets, and what is wrong with the one that follows them."""
    contents: list[bytes] = []
    held = 0
    for start, end, _ in spans:
        try:
            contents.append(decompress(piece[start:end].tobytes()))
        except _DAMAGE as error:
            return contents, error
        held += len(contents[-1])
        if held >= _ROOM:
            break
    return contents, None


def _read(packets: _Packets) -> tuple[Block, np.ndarray, np.ndarray, int | None]:
    """Events, inertial samples, times of frames, and the first packet that is damaged, by its place in the file."""
    kinds, sizes = packets.kinds, np.diff(packets.bounds)
    n = int(sizes[kinds == EVENTS].sum()) // EVENT_BYTES
    columns = np.empty(n, np.int64), np.empty(n, np.uint16), np.empty(n, np.uint16), np.empty(n, np.uint8)
    rows = np.empty((int(sizes[kinds == SAMPLES].sum()) // SAMPLE_BYTES, 7))
    times, filled = np.empty(len(kinds), np.int64), np.zeros(3, np.int64)
    count = read_packets(packets.data, packets.bounds, kinds, columns, rows, times, filled)
    events, samples, frames = filled
    wrong = int(packets.places[count]) if count < len(kinds) else None
    return Block(*(column[:events] for column in columns)), rows[:samples].copy(), times[:frames], wrong


_OTHERS = {"IMUS": SAMPLES, "FRME": FRAME}  # beside the chosen stream of events


def _inertial(samples: list[np.ndarray]) -> Inertial | None:
    table = np.concatenate([np.empty((0, 7)), *samples])
    if not len(table):
        return None
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
