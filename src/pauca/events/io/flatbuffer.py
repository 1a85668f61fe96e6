"""The little of Google's FlatBuffers that the header of AEDAT4 needs: scalars and strings of a table."""

import struct


class Table:
    """A table in a buffer: its fields by number, each absent or at an offset.

    Raises:
        struct.error, ValueError, IndexError: where the buffer is cut short or damaged, also from each method.
    """

    def __init__(self, buffer: bytes | memoryview, position: int) -> None:
        self._buffer, self._position = buffer, position
        self._vtable = position - struct.unpack_from("<i", buffer, position)[0]
        if self._vtable < 0:
            raise ValueError("a table before the beginning of its buffer")
        self._size = struct.unpack_from("<H", buffer, self._vtable)[0]

    @classmethod
    def root(cls, buffer: bytes | memoryview) -> "Table":
        """The root table of a buffer that begins with its size."""
        return cls(buffer, 4 + struct.unpack_from("<I", buffer, 4)[0])

    def _field(self, number: int) -> int | None:
        place = 4 + 2 * number
        offset = struct.unpack_from("<H", self._buffer, self._vtable + place)[0] if place < self._size else 0
        return self._position + offset if offset else None

    def scalar(self, number: int, format: str) -> int | float:
        """A number, of `struct`'s format; 0 where it is absent."""
        place = self._field(number)
        return 0 if place is None else struct.unpack_from("<" + format, self._buffer, place)[0]

    def _vector(self, number: int) -> tuple[int, int]:
        """Where a vector's elements begin, and how many there are."""
        place = self._field(number)
        if place is None:
            return 0, 0
        start = place + struct.unpack_from("<I", self._buffer, place)[0]
        return start + 4, struct.unpack_from("<I", self._buffer, start)[0]

    def text(self, number: int) -> str:
        """A string; empty where it is absent."""
        start, length = self._vector(number)
        return bytes(self._buffer[start : start + length]).decode("utf-8", "replace")
