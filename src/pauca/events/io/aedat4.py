"""AEDAT4, iniVation's recordings (DV): packets of events, inertial samples and frames, each compressed by itself.

The format: https://docs.inivation.com/software/software-advanced-usage/file-formats/aedat-4.0.html
"""

import math
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import lz4.frame
import numpy as np

from pauca.errors import InputError
from pauca.events.io.flatbuffer import Table
from pauca.events.io.repair import RawColumns
from pauca.events.recording import Finding, Inertial, Remedy

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"#!AER-DAT4.0\r\n"
_EVENT = np.dtype({"names": ["t", "x", "y", "p"], "formats": ["<i8", "<i2", "<i2", "?"], "itemsize": 16})
_LARGEST_PACKET = 1 << 30  # bytes, decompressed; more is damage
_DAMAGE = (struct.error, ValueError, IndexError, RuntimeError, EOFError, zstd.ZstdError)
_STANDARD_GRAVITY = 9.80665  # m/s^2; accelerations are stored in it, angular velocities in deg/s


@dataclass
class _Stream:
    kind: str  # EVTS, IMUS, FRME, TRIG
    size: tuple[int, int] | None


@dataclass
class _Contents:
    events: list[np.ndarray] = field(default_factory=list)
    inertial: list[np.ndarray] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def read_aedat4(path: Path, stream: str | None = None) -> RawColumns:
    """Read an AEDAT4 recording; its times are microseconds since 1970.

    Args:
        path: the file.
        stream: number of the stream of events, where there are several.

    Raises:
        InputError: where the header is damaged, there are no events, or several streams and none is named.
    """
    data = path.read_bytes()
    try:
        compression, end, streams, start = _header(data)
        decompress = _DECOMPRESS[compression]
    except (*_DAMAGE, KeyError, ElementTree.ParseError) as error:
        raise InputError(f"{path}: damaged header of AEDAT4 ({error}); copy it again") from None
    chosen = _choose(streams, stream, path)
    found = _read_packets(data, start, end, streams, chosen, decompress)
    events = np.concatenate(found.events) if found.events else np.empty(0, _EVENT)
    return RawColumns(
        "AEDAT4",
        events["t"],
        events["x"],
        events["y"],
        events["p"].view(np.uint8),
        unit="us",
        unit_is_certain=True,
        size=streams[chosen].size,
        inertial=_inertial(found.inertial),
        frame_times_us=np.array(found.frames, np.int64),
        findings=found.findings,
    )


def _header(data: bytes) -> tuple[int, int, dict[int, _Stream], int]:
    """Compression, end of the packets, streams by number, and where the packets begin."""
    start = len(MAGIC)
    length = struct.unpack_from("<I", data, start)[0]
    table = Table.root(data[start : start + 4 + length])
    after = int(table.scalar(1, "q"))
    streams = {}
    for node in ElementTree.fromstring(table.text(2)).iter("node"):
        values = {attribute.get("key"): attribute.text or "" for attribute in node.findall("attr")}
        if "typeIdentifier" not in values:
            continue
        info = {attribute.get("key"): attribute.text or "" for attribute in node.findall("node[@name='info']/attr")}
        sized = "sizeX" in info and "sizeY" in info
        size = (int(info["sizeX"]), int(info["sizeY"])) if sized else None
        streams[int(node.get("name", ""))] = _Stream(values["typeIdentifier"], size)
    end = after if 0 < after <= len(data) else len(data)
    return int(table.scalar(0, "i")), end, streams, start + 4 + length


def _choose(streams: dict[int, _Stream], named: str | None, path: Path) -> int:
    numbers = [str(number) for number, stream in streams.items() if stream.kind == "EVTS"]
    told = ", ".join(numbers) or "none"
    if named is not None and named not in numbers:
        raise InputError(f"{path}: no events in stream {named!r}; streams of events: {told}")
    if len(numbers) != 1 and named is None:
        raise InputError(f"{path}: streams of events: {told}" + (": say which (group, --group)" if numbers else ""))
    return int(named or numbers[0])


def _read_packets(
    data: bytes, start: int, end: int, streams: dict[int, _Stream], chosen: int, decompress: Callable[[bytes], bytes]
) -> _Contents:
    """All whole packets; what follows damage is lost, and said with its place."""
    contents = _Contents()
    while start < end:
        try:
            number, length = struct.unpack_from("<ii", data, start)
            if length < 0 or start + 8 + length > len(data) or number not in streams:
                raise ValueError("cut short" if start + 8 + length > len(data) else "no packet")
            kind = streams[number].kind
            if kind in ("IMUS", "FRME") or number == chosen:
                _take(Table.root(decompress(data[start + 8 : start + 8 + length])), kind, contents)
        except _DAMAGE as error:
            what = f"all after damage at byte {start:,} of {len(data):,} ({str(error)[:80]})"
            contents.findings.append(Finding(Remedy.LOST, what))
            break
        start += 8 + length
    return contents


def _take(table: Table, kind: str, contents: _Contents) -> None:
    if kind == "EVTS":
        contents.events.append(table.structs(0, _EVENT))
    elif kind == "IMUS":
        contents.inertial.append(np.array(list(_samples(table)), float).reshape(-1, 7))
    elif kind == "FRME":
        contents.frames.append(int(table.scalar(0, "q")))


def _samples(table: Table) -> Iterator[list[float]]:
    """Time (us), acceleration (g) and angular velocity (deg/s) of each inertial sample."""
    for sample in table.tables(0):
        yield [sample.scalar(0, "q"), *(sample.scalar(field, "f") for field in range(2, 8))]


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


_DECOMPRESS: dict[int, Callable[[bytes], bytes]] = {
    0: bytes,
    1: lambda piece: _whole(piece, lz4.frame.LZ4FrameDecompressor()),
    2: lambda piece: _whole(piece, lz4.frame.LZ4FrameDecompressor()),
    3: lambda piece: _whole(piece, zstd.ZstdDecompressor()),
    4: lambda piece: _whole(piece, zstd.ZstdDecompressor()),
}
