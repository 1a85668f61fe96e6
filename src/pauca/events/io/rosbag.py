"""ROS bags, of ROS 1 (.bag) and ROS 2 (.db3, .mcap, or the folder that holds them), read without ROS."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pauca.errors import InputError
from pauca.events.camera import Camera
from pauca.events.io.calibration import camera_of_model
from pauca.events.io.prophesee import findings_of
from pauca.events.io.repair import RawColumns
from pauca.events.io.ros_messages import (
    CAMERA_INFO,
    EVENT_TYPES,
    IMU,
    Packet,
    decode_stream,
    read_camera_info,
    read_events,
    read_imu,
)
from pauca.events.recording import Finding, Inertial, Remedy

BAG_MAGIC, SQLITE_MAGIC, MCAP_MAGIC = b"#ROSBAG", b"SQLite format 3\0", b"\x89MCAP0\r\n"


def read_rosbag(path: Path, topic: str | None, ros: int) -> RawColumns:
    """Read the events of a bag, with its inertial samples and calibration where there is one topic of each.

    Args:
        path: the bag.
        topic: of the events, where there are several.
        ros: 1 or 2.

    Raises:
        InputError: a damaged bag, no events, or several topics of them and none is named.
    """
    with _open(path, ros) as bag:
        chosen = _choose(bag, topic, path)
        wanted = [c for c in bag.connections if c.topic == chosen or c.msgtype in (IMU, CAMERA_INFO)]
        packets, samples, infos, findings = _read(bag, wanted, chosen, ros)
    if not packets:
        raise InputError(f"{path}: no events in {chosen!r}" + (f" ({findings[0]})" if findings else ""))
    missing = sum(b - a - 1 for a, b in pairwise(p.sequence for p in packets if p.sequence is not None) if b > a)
    if missing:
        findings.append(Finding(Remedy.NOTED, f"{missing:,} messages of events are missing, by their numbers"))
    t, x, y, p, unit = _join(packets, bool(samples), findings)
    size = packets[0].size
    return RawColumns(
        f"ROS {ros} bag, {chosen}, {packets[0].encoding}",
        t,
        x,
        y,
        p,
        unit=unit,
        unit_is_certain=True,
        size=size,
        inertial=_inertial(samples),
        camera=_camera(infos, size, path),
        findings=findings,
    )


@contextmanager
def _open(path: Path, ros: int) -> Iterator[Any]:
    from rosbags import rosbag1, rosbag2  # here: half a second that other formats need not wait

    try:
        with (rosbag1.Reader if ros == 1 else rosbag2.Reader)(path) as bag:
            yield bag
    except InputError:
        raise
    except Exception as error:  # what flipped bits make of sqlite, yaml, lz4 and zstd
        raise InputError(f"{path}: cannot be read as a ROS {ros} bag ({str(error)[:160]}); copy it again") from None


def _choose(bag: Any, named: str | None, path: Path) -> str:
    topics = sorted({c.topic for c in bag.connections if c.msgtype in EVENT_TYPES})
    told = ", ".join(topics) or "none; topics are: " + ", ".join(f"{c.topic} ({c.msgtype})" for c in bag.connections)
    if named is not None:
        matching = [topic for topic in topics if topic.strip("/") == named.strip("/")]
        if not matching:
            raise InputError(f"{path}: no events in topic {named!r}; topics of events: {told}")
        return matching[0]
    if len(topics) != 1:
        raise InputError(f"{path}: topics of events: {told}" + (": say which (group, --group)" if topics else ""))
    return topics[0]


def _read(
    bag: Any, wanted: list[Any], chosen: str, ros: int
) -> tuple[list[Packet], list[Any], list[Any], list[Finding]]:
    packets: list[Packet] = []
    samples, infos, findings = [], [], []
    damaged, first_damage = 0, ""
    try:
        for connection, _, data in bag.messages(connections=wanted):
            try:
                if connection.topic == chosen:
                    packets.append(read_events(bytes(data), connection.msgtype, ros))
                elif connection.msgtype == IMU:
                    samples.append((connection.topic, *read_imu(bytes(data), ros)))
                elif len(infos) < 100:
                    infos.append((connection.topic, *read_camera_info(bytes(data), ros)))
            except (struct.error, ValueError) as error:
                damaged, first_damage = damaged + 1, first_damage or str(error)
    except Exception as error:  # the bag's own structure is damaged from here on
        findings.append(Finding(Remedy.LOST, f"all after {len(packets):,} messages of events ({str(error)[:120]})"))
    if damaged:
        findings.append(Finding(Remedy.LOST, f"{damaged:,} messages that cannot be read ({first_damage[:120]})"))
    return packets, samples, infos, findings


def _join(packets: list[Packet], has_inertial: bool, findings: list[Finding]) -> tuple[Any, ...]:
    """Columns t x y p of all packets, and the unit of t."""
    if packets[0].encoding != "evt3":
        columns = [packet.columns_ns for packet in packets if packet.columns_ns is not None]
        return *(np.concatenate(column) for column in zip(*columns, strict=True)), "ns"
    (t, x, y, p), (early, unknown) = decode_stream([packet for packet in packets if packet.encoding == "evt3"])
    findings += findings_of(early, unknown)
    if has_inertial and len(t):
        offset = packets[0].stamp_ns // 1000 - int(t[0])
        t = t + offset
        told = "times moved from the sensor's clock to that of ROS by the first message's stamp, good to milliseconds"
        findings.append(Finding(Remedy.NOTED, told))
    return t, x, y, p, "us"


def _inertial(samples: list[Any]) -> Inertial | None:
    """Of the one topic with inertial samples; with several, nobody knows which one is meant."""
    if len({topic for topic, *_ in samples}) != 1:
        return None
    stamps, omega, acceleration = (list(column) for column in zip(*(sample[1:] for sample in samples), strict=True))
    return Inertial(np.array(stamps) // 1000, np.array(omega), np.array(acceleration))


def _camera(infos: list[Any], size: tuple[int, int], path: Path) -> Camera | None:
    """Of the one topic whose images have the events' size, where it is calibrated."""
    fitting = {topic: (model, tuple(d), tuple(k)) for topic, info, model, d, k in infos if info == size and any(k)}
    if len(fitting) != 1:
        return None
    model, coefficients, matrix = next(iter(fitting.values()))
    return camera_of_model(size, [matrix[0], matrix[4], matrix[2], matrix[5]], list(coefficients), model, path)
