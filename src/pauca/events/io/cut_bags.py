"""ROS bags without the index at their end, as a recorder that was killed or a copy that was cut leaves them.

They are gone through from their beginning, record by record. Formats: http://wiki.ros.org/Bags/Format/2.0,
https://mcap.dev/spec, and the tables `topics` and `messages` of rosbag2's SQLite.
"""

import bz2
import sqlite3
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import lz4.frame

from pauca.events.io.aedat4 import zstd

_LARGEST = 1 << 28  # bytes of a record or a chunk; what says more is damaged
_BAG_CHUNK, _BAG_CONNECTION, _BAG_MESSAGE = 5, 7, 2
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 3, 4, 5, 6
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "bz2": bz2.BZ2Decompressor,
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": zstd.ZstdDecompressor,
}


class CutConnection(NamedTuple):
    """A topic, as the reader of whole bags describes it."""

    topic: str
    msgtype: str
    msgcount: int = 1


class Piece(NamedTuple):
    """A message, and where it ends in the file; in a chunk that is compressed, where that begins."""

    connection: CutConnection
    data: bytes
    end: int


@dataclass
class CutBag:
    """What can be read of a bag; the same face as that of a whole one."""

    path: Path
    why: str  # it cannot be read as a whole one
    connections: list[CutConnection] = field(init=False)
    lost: str = ""

    def __post_init__(self) -> None:
        self.connections = list(dict.fromkeys(piece.connection for piece in self._pieces()))

    def messages(self, connections: Collection[CutConnection] = ()) -> Iterator[tuple[CutConnection, int, bytes]]:
        """The messages of some topics, in the file's order."""
        for piece in self._pieces():
            if piece.connection in connections:
                yield piece.connection, 0, piece.data

    def _pieces(self) -> Iterator[Piece]:
        with self.path.open("rb") as file:
            start = file.read(8)
        read: Callable[[Path], Iterator[Piece]] = _of_sqlite
        if start.startswith(b"#ROSBAG"):
            read = _of_bag
        elif start.startswith(b"\x89MCAP0"):
            read = _of_mcap
        end, size, why = 0, self.path.stat().st_size, self.why
        try:
            for piece in read(self.path):
                end = max(end, piece.end)
                yield piece
        except KeyError:  # of a record that lacks a field
            pass
        except Exception as error:  # what damage makes of sqlite, bz2, lz4 and zstd
            why = str(error) or why
        place = f"byte {end:,} of {size:,}" if end else "damage"
        self.lost = f"all after {place} ({why[:120]})"


def _of_bag(path: Path) -> Iterator[Piece]:
    """ROS 1: records of a header and data; chunks hold those of topics and messages."""
    connections: dict[bytes, CutConnection] = {}
    with path.open("rb") as file:
        file.readline()
        while (record := _bag_record(file)) is not None:
            header, data = record
            begin, plain = file.tell() - len(data), True
            records = iter([(header, data, len(data))])
            if header["op"][0] == _BAG_CHUNK:
                plain = header["compression"] == b"none"
                records = _bag_records(_plain(header["compression"].decode("latin-1"), data))
            for header, data, at in records:
                if header["op"][0] == _BAG_CONNECTION:
                    package, _, name = _bag_fields(data)["type"].decode().partition("/")
                    connections[header["conn"]] = CutConnection(header["topic"].decode(), f"{package}/msg/{name}")
                elif header["op"][0] == _BAG_MESSAGE:
                    yield Piece(connections[header["conn"]], data, begin + plain * at)


def _bag_record(file: IO[bytes]) -> tuple[dict[str, bytes], bytes] | None:
    header = _sized(file)
    data = None if header is None else _sized(file)
    return None if header is None or data is None else (_bag_fields(header), data)


def _sized(file: IO[bytes]) -> bytes | None:
    """Bytes behind their number; what is there of the last ones, None where that number is cut."""
    size = file.read(4)
    if len(size) < 4:
        return None
    (number,) = struct.unpack("<I", size)
    if number > _LARGEST:
        raise ValueError(f"a record of {number:,} bytes")
    return file.read(number)


def _bag_records(data: bytes) -> Iterator[tuple[dict[str, bytes], bytes, int]]:
    """Those of a chunk, up to the last whole one, and where each ends."""
    at = 0
    while at + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        if at + 8 + size > len(data):
            return
        header = _bag_fields(data[at + 4 : at + 4 + size])
        (length,) = struct.unpack_from("<I", data, at + 4 + size)
        at += 8 + size + length
        if at > len(data):
            return
        yield header, data[at - length : at], at


def _bag_fields(data: bytes) -> dict[str, bytes]:
    fields, at = {}, 0
    while at + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        name, _, value = data[at + 4 : at + 4 + size].partition(b"=")
        fields[name.decode()] = value
        at += 4 + size
    return fields


def _plain(compression: str, data: bytes) -> bytes:
    """A chunk's records, as many as there are of one that is cut."""
    if compression not in _DECOMPRESSORS:
        return data
    return _DECOMPRESSORS[compression]().decompress(data, _LARGEST)


def _of_mcap(path: Path) -> Iterator[Piece]:
    """MCAP: records of a kind, a length and content; chunks hold others."""
    schemas: dict[int, str] = {}
    channels: dict[int, CutConnection] = {}

    def messages(kind: int, content: bytes, end: int) -> Iterator[Piece]:
        if kind == _SCHEMA:
            (number,) = struct.unpack_from("<H", content)
            schemas[number] = _text(content, 2)[0]
        elif kind == _CHANNEL:
            number, schema = struct.unpack_from("<HH", content)
            channels[number] = CutConnection(_text(content, 4)[0], schemas.get(schema, ""))
        elif kind == _MESSAGE:
            (number,) = struct.unpack_from("<H", content)
            yield Piece(channels[number], content[22:], end)
        elif kind == _CHUNK:
            compression, at = _text(content, 28)
            records, begin = _plain(compression, content[at + 8 :]), end - len(content) + at + 8
            at, plain = 0, not compression
            while at + 9 <= len(records):
                inner, size = struct.unpack_from("<BQ", records, at)
                at += 9 + size
                if at > len(records):
                    return
                yield from messages(inner, records[at - size : at], begin + plain * at)

    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(9)) == 9:
            kind, size = struct.unpack("<BQ", head)
            if size > _LARGEST:
                raise ValueError(f"a record of {size:,} bytes")
            content = file.read(size)
            if len(content) < size and kind != _CHUNK:
                return
            yield from messages(kind, content, file.tell())


def _text(content: bytes, at: int) -> tuple[str, int]:
    """Text behind its length, and where it ends."""
    (size,) = struct.unpack_from("<I", content, at)
    return content[at + 4 : at + 4 + size].decode(), at + 4 + size


def _of_sqlite(path: Path) -> Iterator[Piece]:
    """ROS 2's SQLite: rows in order, until a page is missing."""
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        database.execute("PRAGMA writable_schema=ON")  # else SQLite refuses a file shorter than it says
        topics = {
            number: CutConnection(*rest) for number, *rest in database.execute("SELECT id, name, type FROM topics")
        }
        for topic, data in database.execute("SELECT topic_id, data FROM messages ORDER BY id"):
            yield Piece(topics[topic], bytes(data), 0)
    finally:
        database.close()
