"""ROS bags, of ROS 1 (.bag) and ROS 2 (.db3, .mcap, or the folder that holds them), read without ROS."""

import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pauca.errors import InputError
from pauca.events.calibration import Calibration
from pauca.events.camera import Camera
from pauca.events.io.cut_bags import CutBag
from pauca.events.io.prophesee import Decoder
from pauca.events.io.ros_messages import (
    CAMERA_INFO,
    EVENT_TYPES,
    IMAGES,
    IMU,
    Packet,
    read_camera_info,
    read_events,
    read_imu,
    read_stamp,
)
from pauca.events.io.source import Block, Source, choose
from pauca.events.recording import Finding, Inertial, Remedy

_ENOUGH_INFOS = 100
_TOGETHER_BYTES = 1 << 18
_HEAD_BYTES = 4096  # of an image, whose stamp is all that is read
BAG_MAGIC, SQLITE_MAGIC, MCAP_MAGIC = b"#ROSBAG", b"SQLite format 3\0", b"\x89MCAP0\r\n"


def open_rosbag(path: Path, topic: str | None, ros: int) -> Source:
    """Open a bag of events, with its inertial samples, images' times and calibration where there is one topic of each.

    Args:
        path: the bag.
        topic: of the events, where there are several.
        ros: 1 or 2.

    Raises:
        InputError: a damaged bag, no events, or several topics of them and none is named.
    """
    with _open(path, ros) as bag:
        topics = sorted({c.topic for c in bag.connections if c.msgtype in EVENT_TYPES})
        told = ", ".join(f"{c.topic} ({c.msgtype})" for c in bag.connections)
        nothing = f"topics of events: none; topics are: {told}"
        chosen = choose(topics, topic, path, one="topic", several="topics of events", nothing=nothing)
        first = _first_packet(bag, chosen, ros, path)
        calibration, no_camera = _calibration(_camera_infos(bag, ros), first.size)
        beside = any(c.msgtype in (IMU, *IMAGES) and c.msgcount for c in bag.connections)
        moved = beside and first.encoding == "evt3"

    def blocks(found: list[Finding]) -> Iterator[Block]:
        messages = _Messages(found, moved)
        with _open(path, ros) as bag:
            wanted = [c for c in bag.connections if c.topic == chosen or c.msgtype in (IMU, *IMAGES)]
            for connection, data in _messages(bag, wanted, found, messages):
                block = None
                with messages.passing_over_damage():
                    if connection.topic == chosen:
                        block = messages.events(read_events(data, connection.msgtype, ros))
                    elif connection.msgtype == IMU:
                        messages.samples.append((connection.topic, *read_imu(data, ros)))
                    else:
                        messages.images.append((connection.topic, read_stamp(data, ros)))
                if block is not None:
                    yield block
        yield messages.decoded()
        messages.conclude()
        source.inertial, source.frame_times_us = _inertial(messages.samples), _frame_times(messages.images)

    source = Source(
        f"ROS {ros} bag, {chosen}, {first.encoding}",
        blocks,
        unit="us" if first.encoding == "evt3" else "ns",
        size=first.size,
        camera=lambda size: calibration and Camera.from_calibration(replace(calibration, size=size), path),
        no_camera=no_camera,
    )
    return source


@contextmanager
def _open(path: Path, ros: int) -> Iterator[Any]:
    from rosbags import rosbag1, rosbag2  # here: half a second that other formats need not wait

    try:
        reader = (rosbag1.Reader if ros == 1 else rosbag2.Reader)(path)
        reader.open()
    except Exception as error:  # what flipped bits make of sqlite, yaml, lz4 and zstd
        bag = None if path.is_dir() else CutBag(path, str(error))
        if bag is None or not bag.connections:
            raise InputError(f"{path}: cannot be read as a ROS {ros} bag ({str(error)[:160]}); copy it again") from None
        yield bag
        return
    try:
        with closing(reader):
            yield reader
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a ROS {ros} bag ({str(error)[:160]}); copy it again") from None


def _first_packet(bag: Any, chosen: str, ros: int, path: Path) -> Packet:
    """The first message of events that can be read: of what size and encoding they are."""
    damage = ""
    try:
        for connection, _, data in bag.messages(connections=[c for c in bag.connections if c.topic == chosen]):
            try:
                return read_events(bytes(data), connection.msgtype, ros)
            except (struct.error, ValueError) as error:
                damage = damage or f" (messages that cannot be read: {str(error)[:120]})"
    except Exception as error:  # the bag's own structure is damaged
        damage = f" ({str(error)[:120]})"
    raise InputError(f"{path}: no events in {chosen!r}{damage}")


def _camera_infos(bag: Any, ros: int) -> list[Any]:
    infos, connections = [], [c for c in bag.connections if c.msgtype == CAMERA_INFO]
    if not connections:  # `messages` would take none for all
        return infos
    with suppress(Exception):  # damage: the events say where
        for connection, _, data in bag.messages(connections=connections):
            with suppress(struct.error, ValueError):
                infos.append((connection.topic, *read_camera_info(bytes(data), ros)))
            if len(infos) >= _ENOUGH_INFOS:
                break
    return infos


def _messages(bag: Any, wanted: list[Any], found: list[Finding], read: "_Messages") -> Iterator[tuple[Any, bytes]]:
    try:
        for connection, _, data in bag.messages(connections=wanted):
            yield connection, bytes(data[:_HEAD_BYTES] if connection.msgtype in IMAGES else data)
    except Exception as error:  # the bag's own structure is damaged from here on
        found.append(Finding(Remedy.LOST, f"all after {read.count:,} messages of events ({str(error)[:120]})"))
    if isinstance(bag, CutBag) and bag.lost:
        found.append(Finding(Remedy.LOST, bag.lost))


class _Messages:
    """What one pass over a bag has met."""

    def __init__(self, found: list[Finding], moved: bool) -> None:
        self._found, self._moved = found, moved  # whether times move from the sensor's clock to that of ROS
        self._decoder, self._offset_us = Decoder("EVT3"), 0
        self._damaged, self._first_damage, self._missing, self._last = 0, "", 0, None
        self.count, self.samples, self.images = 0, [], []
        self._waiting: list[bytes] = []  # of a stream of words, which is decoded in pieces larger than messages
        self._held = 0

    def events(self, packet: Packet) -> Block | None:
        """The events of one message, or of several, or None where they wait for the next."""
        self.count += 1
        if packet.sequence is not None:
            if self._last is not None and packet.sequence > self._last:
                self._missing += packet.sequence - self._last - 1
            self._last = packet.sequence
        if packet.columns_ns is not None:
            return Block(*packet.columns_ns)
        self._waiting.append(packet.stream)
        self._held += len(packet.stream)
        if self._moved and not self._offset_us:
            block = self.decoded()
            if len(block):
                self._offset_us = packet.stamp_ns // 1000 - int(block.t[0])
                block.t = block.t + self._offset_us
            return block
        return self.decoded() if self._held >= _TOGETHER_BYTES else None

    def decoded(self) -> Block:
        """The events of the messages that wait."""
        t, x, y, p = self._decoder.decode(b"".join(self._waiting))
        self._waiting, self._held = [], 0
        return Block(t + self._offset_us if self._offset_us else t, x, y, p)

    @contextmanager
    def passing_over_damage(self) -> Iterator[None]:
        try:
            yield
        except (struct.error, ValueError) as error:
            self._damaged, self._first_damage = self._damaged + 1, self._first_damage or str(error)

    def conclude(self) -> None:
        if self._damaged:
            told = f"{self._damaged:,} messages that cannot be read ({self._first_damage[:120]})"
            self._found.append(Finding(Remedy.LOST, told))
        if self._missing:
            told = f"{self._missing:,} messages of events are missing, by their numbers"
            self._found.append(Finding(Remedy.NOTED, told))
        self._found += self._decoder.findings()
        if self._offset_us:
            told = (
                "times moved from the sensor's clock to that of ROS by the first message's stamp, good to milliseconds"
            )
            self._found.append(Finding(Remedy.NOTED, told))


def _inertial(samples: list[Any]) -> Inertial | None:
    """Of the one topic with inertial samples; with several, nobody knows which one is meant."""
    if len({topic for topic, *_ in samples}) != 1:
        return None
    stamps, omega, acceleration = (list(column) for column in zip(*(sample[1:] for sample in samples), strict=True))
    return Inertial(np.array(stamps) // 1000, np.array(omega), np.array(acceleration))


def _frame_times(images: list[tuple[str, int]]) -> np.ndarray | None:
    """Of the one topic of images."""
    if len({topic for topic, _ in images}) != 1:
        return None
    return np.array([stamp for _, stamp in images]) // 1000


def _calibration(infos: list[Any], size: tuple[int, int]) -> tuple[Calibration | None, str]:
    """Of the one topic whose images have the events' size, where it is calibrated; or else why there is none."""
    told = {topic: (info, model, tuple(d), tuple(k)) for topic, info, model, d, k in infos if any(k)}
    fitting = [topic for topic, (info, *_) in told.items() if info == size]
    if len(fitting) != 1:
        width, height = size
        sizes = ", ".join(f"{topic} of {info[0]} x {info[1]}" for topic, (info, *_) in told.items())
        return None, f"which camera_info belongs to events of {width} x {height} is unknown ({sizes})" if told else ""
    _, model, coefficients, matrix = told[fitting[0]]
    return Calibration(size, [matrix[0], matrix[4], matrix[2], matrix[5]], list(coefficients), model), ""
