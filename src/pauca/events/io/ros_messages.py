"""The messages of ROS that recordings of event cameras hold, from their bytes; ROS itself is not needed.

ROS 1 packs fields one after the other; ROS 2 (CDR) aligns each to its own size, counted from after a header of four
bytes. Fields as in dvs_msgs, prophesee_event_msgs, event_camera_msgs and sensor_msgs.
"""

import struct
from dataclasses import dataclass

import numpy as np

from pauca.events.kernels.libcaer import decode_compressed

Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # t (ns or us, see where), x, y, p

EVENT_ARRAYS = ("dvs_msgs/msg/EventArray", "prophesee_event_msgs/msg/EventArray")
EVENT_PACKET = "event_camera_msgs/msg/EventPacket"
EVENT_TYPES = (*EVENT_ARRAYS, EVENT_PACKET, "event_array_msgs/msg/EventArray")
IMU = "sensor_msgs/msg/Imu"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


class Reader:
    """Fields of one message, in their order.

    Raises:
        struct.error, ValueError: where the message is cut short, also from each method.
    """

    def __init__(self, data: bytes, ros: int) -> None:
        if ros == 2 and data[:2] not in (b"\x00\x01", b"\x00\x03"):
            raise ValueError("a message that is not in little-endian CDR")
        self._data, self._aligned = memoryview(data)[4:] if ros == 2 else memoryview(data), ros == 2
        self._at = 0

    def number(self, format: str) -> int | float:
        size = struct.calcsize(format)
        if self._aligned:
            self._at += -self._at % size
        value = struct.unpack_from("<" + format, self._data, self._at)[0]
        self._at += size
        return value

    def numbers(self, format: str, count: int) -> list[float]:
        return [self.number(format) for _ in range(count)]

    def bytes(self) -> memoryview:
        """A sequence of bytes after its length; also what a string is."""
        length = int(self.number("I"))
        if self._at + length > len(self._data):
            raise ValueError("cut short")
        self._at += length
        return self._data[self._at - length : self._at]

    def text(self) -> str:
        return bytes(self.bytes()).decode("utf-8", "replace").rstrip("\0")

    def stamp_ns(self) -> int:
        return int(self.number("I")) * 1_000_000_000 + int(self.number("I"))

    def header(self) -> int:
        """Skip std_msgs/Header and return its stamp (ns)."""
        if not self._aligned:
            self.number("I")  # ROS 1 counts messages here
        stamp = self.stamp_ns()
        self.text()
        return stamp

    def events(self) -> Columns:
        """A sequence of x, y (uint16), time (s, ns) and polarity; times in ns."""
        n = int(self.number("I"))
        aligned, rest = self._aligned, self._data[self._at :]
        # In CDR the first event begins at a multiple of 4 and takes 13 bytes; each other takes 16, of which one pads
        # before x and two before the time.
        dtype = _event(16, (1, 3, 7, 11, 15)) if aligned else _event(13, (0, 2, 4, 8, 12))
        if n == 0:
            rows = np.empty(0, dtype)
        elif not aligned:
            rows = np.frombuffer(rest, dtype, n)
        else:
            first = np.frombuffer(rest, _event(13, (0, 2, 4, 8, 12)), 1)
            others = np.frombuffer(rest[13:], dtype, n - 1)
            rows = np.concatenate([first.astype(_PLAIN), others.astype(_PLAIN)])
        t_ns = rows["s"].astype(np.int64) * 1_000_000_000 + rows["ns"]
        return t_ns, rows["x"], rows["y"], rows["p"].astype(np.uint8)


def _event(size: int, offsets: tuple[int, ...]) -> np.dtype:
    formats = ["<u2", "<u2", "<u4", "<u4", "u1"]
    return np.dtype(
        {"names": ["x", "y", "s", "ns", "p"], "formats": formats, "offsets": list(offsets), "itemsize": size}
    )


_PLAIN = np.dtype([("x", "u2"), ("y", "u2"), ("s", "u4"), ("ns", "u4"), ("p", "u1")])


@dataclass(frozen=True)
class Packet:
    """One message of events: decoded where each message can be by itself, else the bytes of its stream (EVT3)."""

    stamp_ns: int
    size: tuple[int, int]
    encoding: str
    columns_ns: Columns | None = None
    stream: bytes = b""
    sequence: int | None = None


def read_events(data: bytes, kind: str, ros: int) -> Packet:
    """A message of events.

    Raises:
        struct.error, ValueError: damage, or an encoding that is not known.
    """
    reader = Reader(data, ros)
    stamp = reader.header()
    height, width = int(reader.number("I")), int(reader.number("I"))
    if kind in EVENT_ARRAYS:
        return Packet(stamp, (width, height), "events", reader.events())
    sequence, base = int(reader.number("Q")), int(reader.number("Q"))
    encoding = reader.text()
    if reader.number("B"):
        raise ValueError("big-endian events")
    stream = bytes(reader.bytes())
    size = (width, height)
    if encoding == "evt3":
        return Packet(stamp, size, encoding, None, stream, sequence)
    return Packet(stamp, size, encoding, _columns(encoding, stream, base, size), sequence=sequence)


def _columns(encoding: str, stream: bytes, base_ns: int, size: tuple[int, int]) -> Columns:
    if encoding == "libcaer":
        words = np.frombuffer(stream, "<u4", len(stream) // 8 * 2).reshape(-1, 2)
        address, low = words[:, 0], words[:, 1].astype(np.int64)
        wraps = np.concatenate([[0], np.cumsum(np.diff(low) < 0)]) if len(low) else low
        t_ns = base_ns + (low + wraps * (1 << 31)) * 1000
        return t_ns, address >> 17 & 0x7FFF, address >> 2 & 0x7FFF, (address >> 1 & 1).astype(np.uint8)
    if encoding == "mono":
        words = np.frombuffer(stream, "<u8", len(stream) // 8)
        t_ns = base_ns + (words & 0xFFFFFFFF).astype(np.int64)
        return t_ns, words >> 32 & 0xFFFF, words >> 48 & 0x7FFF, (words >> 63).astype(np.uint8)
    if encoding == "libcaer_cmp":
        words = np.frombuffer(stream, "<u2", len(stream) // 2)
        columns = tuple(np.empty(8 * len(words), dtype) for dtype in (np.int64, np.uint16, np.uint16, np.uint8))
        n = decode_compressed(words, *columns)
        t_us, x, y, p = (column[:n].copy() for column in columns)
        return base_ns + t_us * 1000, x, y, p
    raise ValueError(f"encoding {encoding!r} of events; known are evt3, libcaer, libcaer_cmp and mono")


def read_imu(data: bytes, ros: int) -> tuple[int, list[float], list[float]]:
    """Stamp (ns), angular velocity (rad/s) and acceleration (m/s^2) of a sensor_msgs/Imu."""
    reader = Reader(data, ros)
    stamp = reader.header()
    reader.numbers("d", 4 + 9)  # orientation and its covariance
    omega = reader.numbers("d", 3)
    reader.numbers("d", 9)
    return stamp, omega, reader.numbers("d", 3)


def read_stamp(data: bytes, ros: int) -> int:
    """Stamp (ns) of a message that begins with a header, such as a sensor_msgs/Image."""
    return Reader(data, ros).header()


def read_camera_info(data: bytes, ros: int) -> tuple[tuple[int, int], str, list[float], list[float]]:
    """Size, distortion model, its coefficients and the camera matrix (9) of a sensor_msgs/CameraInfo."""
    reader = Reader(data, ros)
    reader.header()
    height, width = int(reader.number("I")), int(reader.number("I"))
    model = reader.text()
    coefficients = reader.numbers("d", int(reader.number("I")))
    return (width, height), model, coefficients, reader.numbers("d", 9)
