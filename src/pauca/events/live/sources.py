"""Where live events come from: a recording that is played, or datagrams of another program."""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from pauca.errors import InputError
from pauca.events.types import Events
from pauca.events.windows import joined

EVENT_DTYPE = np.dtype([("t_us", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])
"""An event in a datagram: 13 bytes, little-endian, without gaps. A datagram holds any number of them, in order of
time; an empty one ends the stream."""

_DATAGRAM_EVENTS = 110  # 1,430 bytes: below what a network passes on in one piece
_RECEIVE_BYTES = 8 << 20  # asked of the system, which may give less


def replay(stream: Iterable[Events], window_s: float = 0.005, speed: int | float = 1.0) -> Iterator[Events]:
    """A recording as if it happened now.

    Args:
        stream: its parts in order of time.
        window_s: seconds of the recording in each window; a window without events is empty and comes all the same.
        speed: how many times as fast as it was; inf for as fast as it is taken.
    """
    step_us = max(1, round(window_s * 1e6))
    begun_s = begin_us = None
    waiting: Events | None = None
    for part in stream:
        events = part if waiting is None else joined([waiting, part])
        if len(events) == 0:
            continue
        if begin_us is None:
            begin_us, begun_s = int(events.t_us[0]), time.monotonic()
        while begin_us + step_us <= events.t_us[-1]:
            end = int(np.searchsorted(events.t_us, begin_us + step_us))
            yield _when_due(events[:end], step_us, speed, begun_s)
            begun_s = _next_due(begun_s, step_us, speed)
            events, begin_us = events[end:], begin_us + step_us
        waiting = events
    if waiting is not None and len(waiting):
        yield _when_due(waiting, step_us, speed, begun_s)


def _next_due(begun_s: float | None, step_us: int, speed: float) -> float:
    assert begun_s is not None
    return begun_s + (0.0 if np.isinf(speed) else step_us * 1e-6 / speed)


def _when_due(window: Events, step_us: int, speed: float, begun_s: float | None) -> Events:
    wait_s = _next_due(begun_s, step_us, speed) - time.monotonic()
    if wait_s > 0 and not np.isinf(speed):
        time.sleep(wait_s)
    return window


def receive(host: str, port: int, size: tuple[int, int], idle_s: int | float = 10.0) -> Iterator[Events]:
    """Windows of the events that arrive as datagrams (see `EVENT_DTYPE`) at an address of this machine.

    Ends with an empty datagram, or after `idle_s` seconds without any. Events that are older than those before, as
    datagrams that overtake each other bring them, are sorted within a window; older ones still are left to `run`, which
    counts them.

    Raises:
        InputError: the address cannot be had, or a datagram is not made of events.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        try:
            ear.bind((host, port))
        except OSError as error:
            raise InputError(f"udp://{host}:{port}: cannot listen there ({error.strerror})") from error
        ear.setblocking(False)
        over = False
        while not over:
            if not select.select([ear], [], [], idle_s)[0]:
                return
            datagrams = _what_waits(ear)
            over = b"" in datagrams
            datagrams = datagrams[: datagrams.index(b"")] if over else datagrams
            if datagrams:
                yield _decode(b"".join(_whole(datagram) for datagram in datagrams), size)


def _what_waits(ear: socket.socket) -> list[bytes]:
    """Datagrams that have arrived already."""
    found: list[bytes] = []
    while len(found) < 1000 and b"" not in found:
        try:
            found.append(ear.recv(1 << 16))
        except BlockingIOError:
            break
    return found


def _whole(datagram: bytes) -> bytes:
    if len(datagram) % EVENT_DTYPE.itemsize:
        raise InputError(
            f"a datagram of {len(datagram)} bytes does not hold events of {EVENT_DTYPE.itemsize} bytes each (int64 "
            "microseconds, uint16 x and y, uint8 polarity)"
        )
    return datagram


def _decode(data: bytes, size: tuple[int, int]) -> Events:
    found = np.frombuffer(data, EVENT_DTYPE)
    found = found[np.argsort(found["t_us"], kind="stable")]
    return Events.from_arrays(found["t_us"], found["x"], found["y"], found["p"], size)


def send(windows: Iterable[Events], host: str, port: int) -> None:
    """Send events as datagrams, and an empty one at the end: what `receive` takes in."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
        for window in windows:
            coded = np.empty(len(window), EVENT_DTYPE)
            for name in ("t_us", "x", "y", "p"):
                coded[name] = getattr(window, name)
            for first in range(0, len(coded), _DATAGRAM_EVENTS):
                mouth.sendto(coded[first : first + _DATAGRAM_EVENTS].tobytes(), (host, port))
        mouth.sendto(b"", (host, port))


def open_source(address: str) -> tuple[str, Path | tuple[str, int]]:
    """What an address names: ("file", path) or ("udp", (host, port)); a plain path is a file.

    Raises:
        InputError: any other address.
    """
    if "://" not in address:
        return "file", Path(address)
    kind, place = address.split("://", 1)
    if kind == "file" and place:
        return "file", Path(unquote(place))
    if kind == "udp" and (found := re.fullmatch(r"([^:/]*):(\d{1,5})", place)) and 0 < int(found[2]) < 65_536:
        return "udp", (found[1] or "127.0.0.1", int(found[2]))
    raise InputError(f"{address}: expected file://RECORDING or udp://HOST:PORT")
