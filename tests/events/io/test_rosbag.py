"""Bags of ROS 1 and 2: messages packed by hand, written by rosbags, and real ones with counts by other readers."""

import re
import struct

import numpy as np
import pytest

from pauca.errors import InputError
from pauca.events.camera import Camera
from pauca.events.io import read
from pauca.events.io.ros_messages import Reader, read_events


class Writer:
    """The opposite of `Reader`: fields one after the other, aligned for ROS 2."""

    def __init__(self, ros: int) -> None:
        self.ros, self.data = ros, bytearray()

    def put(self, format: str, *values) -> "Writer":
        for value in values:
            if self.ros == 2:
                self.data += bytes(-len(self.data) % struct.calcsize(format))
            self.data += struct.pack("<" + format, value)
        return self

    def text(self, text: str) -> "Writer":
        raw = text.encode() + b"\0" * (self.ros == 2)
        self.put("I", len(raw))
        self.data += raw
        return self

    def header(self, seconds: int, nanoseconds: int) -> "Writer":
        if self.ros == 1:
            self.put("I", 0)
        return self.put("I", seconds, nanoseconds).text("camera")

    def message(self) -> bytes:
        return (b"\0\1\0\0" if self.ros == 2 else b"") + bytes(self.data)


def event_array(ros: int, rows) -> bytes:
    writer = Writer(ros).header(5, 0).put("I", 180, 240, len(rows))
    for x, y, seconds, nanoseconds, on in rows:
        writer.put("H", x, y).put("I", seconds, nanoseconds).put("B", on)
    return writer.message()


def event_packet(ros: int, encoding: str, base: int, stream: bytes, sequence: int = 0, size=(346, 260)) -> bytes:
    writer = Writer(ros).header(7, 500_000_000).put("I", size[1], size[0]).put("Q", sequence, base).text(encoding)
    writer.put("B", 0).put("I", len(stream))
    writer.data += stream
    return writer.message()


@pytest.mark.parametrize("ros", [1, 2])
@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_arrays_of_events(ros, n):
    rows = [(10 + i, 20 + i, 1_600_000_000, 1000 * i + 500, i % 2) for i in range(n)]
    packet = read_events(event_array(ros, rows), "dvs_msgs/msg/EventArray", ros)
    t, x, y, p = packet.columns_ns
    assert packet.size == (240, 180)
    assert t.tolist() == [1_600_000_000_000_000_000 + 1000 * i + 500 for i in range(n)]
    assert (x.tolist(), y.tolist(), p.tolist()) == ([10 + i for i in range(n)], [20 + i for i in range(n)],
                                                    [i % 2 for i in range(n)])  # fmt: skip


@pytest.mark.parametrize("ros", [1, 2])
def test_encodings_of_event_packets(ros):
    kind = "event_camera_msgs/msg/EventPacket"
    libcaer = np.array([3 << 17 | 4 << 2 | 1 << 1, 2**31 - 2, 5 << 17 | 6 << 2, 1], "<u4").tobytes()
    t, x, y, p = read_events(event_packet(ros, "libcaer", 1000, libcaer), kind, ros).columns_ns
    assert t.tolist() == [1000 + (2**31 - 2) * 1000, 1000 + (2**31 + 1) * 1000]  # the low bits rolled over
    assert (x.tolist(), y.tolist(), p.tolist()) == ([3, 5], [4, 6], [1, 0])
    mono = np.array([1 << 63 | 9 << 48 | 8 << 32 | 77], "<u8").tobytes()
    t, x, y, p = read_events(event_packet(ros, "mono", 1000, mono), kind, ros).columns_ns
    assert (t.tolist(), x.tolist(), y.tolist(), p.tolist()) == ([1077], [8], [9], [1])
    words = [0 << 12 | 1, 1 << 12 | 5, 2 << 12 | 30, 3 << 12 | 1 << 11 | 40, 4 << 12 | 50, 5 << 12 | 0b101]
    compressed = np.array(words, "<u2").tobytes()
    t, x, y, p = read_events(event_packet(ros, "libcaer_cmp", 1000, compressed), kind, ros).columns_ns
    assert t.tolist() == [1000 + (4096 + 5) * 1000] * 3
    assert (x.tolist(), y.tolist(), p.tolist()) == ([30, 30, 30], [40, 50, 52], [1, 0, 0])
    with pytest.raises(ValueError, match="encoding 'h264'"):
        read_events(event_packet(ros, "h264", 0, b""), kind, ros)


@pytest.mark.parametrize("ros", [1, 2])
def test_a_message_cut_anywhere_is_an_error_and_no_crash(ros):
    data = event_packet(ros, "mono", 0, bytes(16))
    for length in range(len(data)):
        with pytest.raises((struct.error, ValueError)):
            read_events(data[:length], "event_camera_msgs/msg/EventPacket", ros)


def _imu(ros: int, nanoseconds: int) -> bytes:
    numbers = [*range(4), *[0] * 9, 0.1, 0.2, 0.3, *[0] * 9, 0.0, 0.0, 9.81, *[0] * 9]
    return Writer(ros).header(1, nanoseconds).put("d", *numbers).message()


def _info(ros: int, size: tuple[int, int] = (240, 180), fx: float = 200.0, model: str = "plumb_bob") -> bytes:
    writer = Writer(ros).header(1, 0).put("I", size[1], size[0]).text(model).put("I", 5)
    writer.put("d", -0.3, 0.1, 0.0, 0.0, 0.0).put("d", fx, 0, 120, 0, 201, 90, 0, 0, 1)
    return writer.put("d", *[0] * 21).put("I", 0, 0).message()


def _bag(folder, ros: int, topics):
    """A bag with messages given as (topic, type, bytes)."""
    from rosbags import rosbag1, rosbag2

    if ros == 1:
        path = folder / "rec.bag"
        with rosbag1.Writer(path) as bag:
            _write(bag, topics, {"md5sum": "0" * 32})
        return path
    path = folder / "rec"
    with rosbag2.Writer(path, version=8) as bag:
        _write(bag, topics, {"rihs01": "RIHS01_0"})
    return path


def _write(bag, topics, digest):
    connections = {}
    for number, (topic, kind, data) in enumerate(topics):
        if topic not in connections:
            connections[topic] = bag.add_connection(topic, kind, msgdef="byte data", **digest)
        bag.write(connections[topic], number + 1, data)


@pytest.mark.parametrize("ros", [1, 2])
def test_a_bag_with_inertial_samples_and_a_calibration(tmp_path, ros):
    rows = [[(i % 240, i % 180, 1, 1000 * i, i % 2) for i in range(start, start + 50)] for start in (0, 50)]
    path = _bag(
        tmp_path,
        ros,
        [
            ("/dvs/events", "dvs_msgs/msg/EventArray", event_array(ros, rows[0])),
            ("/dvs/imu", "sensor_msgs/msg/Imu", _imu(ros, 1000)),
            ("/dvs/camera_info", "sensor_msgs/msg/CameraInfo", _info(ros)),
            ("/dvs/events", "dvs_msgs/msg/EventArray", event_array(ros, rows[1])),
        ],
    )
    recording = read(path)
    assert recording.events.t_us.tolist() == [1_000_000 + i for i in range(100)]
    assert recording.camera == Camera((240, 180), 200.0, 201.0, 120.0, 90.0, -0.3, 0.1)
    assert recording.inertial.t_us.tolist() == [1_000_001]
    np.testing.assert_allclose(recording.inertial.angular_velocity_rad_s, [[0.1, 0.2, 0.3]])
    np.testing.assert_allclose(recording.inertial.acceleration_m_s2, [[0.0, 0.0, 9.81]])


@pytest.mark.parametrize(
    ("infos", "why", "clean"),
    [
        ([{"fx": -1.0}], r"unfit \(camera: fx -1.0", False),
        ([{"model": "omni"}], "the lens model omni is not supported", False),
        ([{"size": (346, 260)}], r"240 x 180 is unknown \(/info0 of 346 x 260\)", True),
        ([{}, {}], r"unknown \(/info0 of 240 x 180, /info1 of 240 x 180\)", True),
        ([{"fx": 0.0, "model": ""}], "unfit", False),
        ([], "^$", True),
    ],
)
def test_a_bag_with_an_unfit_calibration_is_read_without_a_camera(tmp_path, infos, why, clean):
    rows = [(i % 240, i % 180, 1, 1000 * i, i % 2) for i in range(50)]
    told = [(f"/info{i}", "sensor_msgs/msg/CameraInfo", _info(1, **info)) for i, info in enumerate(infos)]
    path = _bag(tmp_path, 1, [*told, ("/dvs/events", "dvs_msgs/msg/EventArray", event_array(1, rows))])
    recording = read(path)
    assert (len(recording.events), recording.camera) == (50, None)
    assert re.search(why, recording.no_camera)
    assert recording.report.clean == clean


def _image(ros: int, nanoseconds: int) -> bytes:
    writer = Writer(ros).header(1, nanoseconds).put("I", 180, 240).text("mono8").put("B", 0).put("I", 240, 43_200)
    writer.data += bytes(43_200)
    return writer.message()


@pytest.mark.parametrize("ros", [1, 2])
@pytest.mark.parametrize("topics", [["/dvs/image_raw"], ["/dvs/image_raw", "/other"], []])
def test_the_times_of_images(tmp_path, ros, topics):
    rows = [(1, 2, 1, 1000 * i, 1) for i in range(50)]
    images = [(topic, "sensor_msgs/msg/Image", _image(ros, 25_000_000 * i)) for i in range(3) for topic in topics]
    path = _bag(tmp_path, ros, [*images, ("/dvs/events", "dvs_msgs/msg/EventArray", event_array(ros, rows))])
    recording = read(path)
    if len(topics) == 1:
        assert recording.frame_times_us.tolist() == [1_000_000, 1_025_000, 1_050_000]
    else:  # of several cameras, nobody knows which one is meant
        assert recording.frame_times_us is None
    assert (len(recording.events), recording.inertial) == (50, None)
    assert recording.report.clean


def test_events_of_a_sensor_with_images_are_on_the_clock_of_ros(tmp_path):
    words = np.array([0x8 << 12 | 0, 0x6 << 12 | 500, 0 << 12 | 20, 2 << 12 | 1 << 11 | 10], "<u2")
    packet = event_packet(1, "evt3", 0, words.tobytes())
    path = _bag(tmp_path, 1, [
        ("/events", "event_camera_msgs/msg/EventPacket", packet),
        ("/image", "sensor_msgs/msg/CompressedImage", Writer(1).header(7, 600_000_000).text("png").message()),
    ])  # fmt: skip
    recording = read(path)
    assert recording.events.t_us.tolist() == [7_500_000]
    assert recording.frame_times_us.tolist() == [7_600_000]
    assert "moved from the sensor's clock to that of ROS" in recording.notes[0]


def test_several_topics_and_missing_messages_are_said(tmp_path):
    mono = [event_packet(1, "mono", 0, np.array([i], "<u8").tobytes(), i) for i in (1000, 2000)]
    kind = "event_camera_msgs/msg/EventPacket"
    path = _bag(tmp_path, 1, [("/a", kind, mono[0]), ("/b", kind, mono[1]), ("/a", kind, mono[1])])
    with pytest.raises(InputError, match=r"2 topics of events \(/a, /b\); say which"):
        read(path)
    recording = read(path, group="a")
    assert len(recording.events) == 2
    assert recording.notes == ("999 messages of events are missing, by their numbers",)
    with pytest.raises(InputError, match="no events in topic '/c'"):
        read(path, group="/c")


def test_a_damaged_bag_is_one_line(tmp_path):
    path = _bag(tmp_path, 1, [("/a", "dvs_msgs/msg/EventArray", event_array(1, [(1, 1, 1, 1, 1)] * 50))])
    path.write_bytes(path.read_bytes()[:4200])
    with pytest.raises(InputError, match="cannot be read as a ROS 1 bag"):
        read(path)


def test_aligned_fields_are_read_as_they_are_written():
    data = Writer(2).put("B", 1).put("Q", 2).put("H", 3).put("I", 4).text("abc").message()
    reader = Reader(data, 2)
    assert [reader.number(format) for format in "BQHI"] == [1, 2, 3, 4]
    assert reader.text() == "abc"


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "count", "on", "size"),
    [
        ("ros1_evt3_640x480.bag", 343_474, 125_183, (640, 480)),
        ("ros2_evt3_640x480.db3", 343_474, 125_183, (640, 480)),
        ("ros2_evt3_trigger_1280x720.db3", 82_469, 41_439, (1280, 720)),
        ("ros2_libcaer_640x480.db3", 334_331, None, (640, 480)),
        ("ros2_test_events_2.mcap", None, None, (346, 260)),
    ],
)
def test_real_bags(pauca_data, name, count, on, size):
    recording = read(pauca_data / "events" / "formats" / name)
    events = recording.events
    assert events.size == size
    assert count is None or len(events) == count
    assert on is None or int(events.p.sum()) == on
    assert events.duration_us < 3_000_000
    assert recording.report.clean
