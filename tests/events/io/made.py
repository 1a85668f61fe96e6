"""A small recording in the formats that pauca only reads, packed here byte by byte."""

import struct
from pathlib import Path

import numpy as np

from pauca.events.io.aedat4 import zstd
from pauca.events.types import Events

from .test_aedat4 import file as aedat4_file
from .test_aedat4 import plain as aedat4_lz4
from .test_aedat4 import table as aedat4_table
from .test_rosbag import event_array, event_packet

SIZE = (240, 180)
PER_MESSAGE = 300  # events of a packet or message
MONO, CD = "event_camera_msgs/msg/EventPacket", "dvs_msgs/msg/EventArray"


def rows(events: Events):
    """t, x, y, p of each event."""
    return zip(*(getattr(events, name).tolist() for name in ("t_us", "x", "y", "p")), strict=True)


def parts(events: Events) -> list[Events]:
    return [events[i : i + PER_MESSAGE] for i in range(0, len(events), PER_MESSAGE)]


def event_stream(events: Events) -> bytes:
    out, last = bytearray(b"Event Stream\2\0\0\1" + np.array(SIZE, "<u2").tobytes()), 0
    for t, x, y, p in rows(events):
        step, last = t - last, t
        out += b"\xff" * (step // 127) + bytes([(step % 127) << 1 | p])
        out += np.array([x, SIZE[1] - 1 - y], "<u2").tobytes()
    return bytes(out)


def aedat2(events: Events) -> bytes:
    x, y, p = (column.astype(np.uint32) for column in (events.x, events.y, events.p))
    address = (239 - x) << 12 | (179 - y) << 22 | p << 11
    words = np.stack([address, events.t_us.astype(np.uint32)], axis=1).astype(">u4")
    return b"#!AER-DAT2.0\r\n# AEChip: eu.seebetter.ini.chips.davis.DAVIS240C\r\n" + words.tobytes()


def aedat3(events: Events) -> bytes:
    data = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n"
    for part in parts(events):
        x, y, p = (column.astype(np.uint32) for column in (part.x, part.y, part.p))
        words = np.stack([x << 17 | y << 2 | p << 1 | 1, part.t_us.astype(np.uint32)], axis=1)
        data += struct.pack("<hhiiiiii", 1, 0, 8, 4, 0, len(part), len(part), len(part)) + words.tobytes()
    return data


def aedat4(events: Events, compression: int) -> bytes:
    pack = {0: bytes, 1: aedat4_lz4, 3: zstd.compress}[compression]
    kind = np.dtype({"names": ["t", "x", "y", "p"], "formats": ["<i8", "<i2", "<i2", "u1"], "itemsize": 16})
    packets = []
    for part in parts(events):
        packed = np.zeros(len(part), kind)
        packed["t"], packed["x"], packed["y"], packed["p"] = part.t_us, part.x, part.y, part.p
        packets.append((0, pack(aedat4_table(vectors=(struct.pack("<I", len(part)) + packed.tobytes(),)))))
    return aedat4_file(compression, *packets).replace(b">346<", b">240<").replace(b">260<", b">180<")


def evt21(events: Events) -> bytes:
    words, high = [], None
    for t, x, y, p in rows(events):
        if t >> 6 != high:
            high = t >> 6
            words.append(0x8 << 60 | high << 32)
        words.append(p << 60 | (t & 63) << 54 | x << 43 | y << 32 | 1)
    header = b"% evt 2.1\n% format EVT21;height=180;width=240\n% end\n"
    return header + np.array(words, "<u8").tobytes()


def nmnist(events: Events) -> bytes:
    return b"".join(bytes([x, y, p << 7 | t >> 16 & 0x7F, t >> 8 & 0xFF, t & 0xFF]) for t, x, y, p in rows(events))


def bag(events: Events, folder: Path, kind: str) -> bytes:
    """A bag of `kind` bag (ROS 1, dvs_msgs), db3 (ROS 2, mono) or mcap (ROS 2, EVT3)."""
    from rosbags import rosbag1, rosbag2

    if kind == "bag":
        with rosbag1.Writer(folder / "made.bag") as out:
            topic = out.add_connection("/events", CD, msgdef="byte data", md5sum="0" * 32)
            for number, part in enumerate(parts(events)):
                data = event_array(1, [(x, y, t // 10**6, t % 10**6 * 1000, p) for t, x, y, p in rows(part)])
                out.write(topic, number + 1, data)
        return (folder / "made.bag").read_bytes()
    storage = {"db3": rosbag2.StoragePlugin.SQLITE3, "mcap": rosbag2.StoragePlugin.MCAP}[kind]
    with rosbag2.Writer(folder / kind, version=9, storage_plugin=storage) as out:
        topic = out.add_connection("/events", MONO, msgdef="byte data", rihs01="RIHS01_0")
        for number, part in enumerate(parts(events)):
            encoding, stream = ("mono", mono(part)) if kind == "db3" else ("evt3", evt3(part))
            out.write(topic, number + 1, event_packet(2, encoding, 0, stream, number, SIZE))
    return (folder / kind / f"{kind}.{kind}").read_bytes()


def mono(events: Events) -> bytes:
    return np.array([p << 63 | y << 48 | x << 32 | t * 1000 for t, x, y, p in rows(events)], "<u8").tobytes()


def evt3(events: Events) -> bytes:
    words = [(0x8000 | t >> 12 & 0xFFF, 0x6000 | t & 0xFFF, y, 0x2000 | p << 11 | x) for t, x, y, p in rows(events)]
    return np.array(words, "<u2").tobytes()


def npy(events: Events, folder: Path) -> bytes:
    """A structured array, as Metavision's readers give it."""
    array = np.zeros(len(events), [("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")])
    array["x"], array["y"], array["p"], array["t"] = events.x, events.y, events.p, events.t_us
    np.save(folder / "events.npy", array)
    return (folder / "events.npy").read_bytes()
