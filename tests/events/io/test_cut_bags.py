"""Bags that were cut, as a recorder that was killed leaves them: their beginning, and where it ends."""

import numpy as np
import pytest

from pauca.errors import InputError
from pauca.events import Remedy, read
from pauca.events.io.cut_bags import CutBag

from ..scenes import rotating_events
from . import made
from .test_rosbag import event_array

SIZE = (64, 48)


def _seen():
    moving = rotating_events([1.0, -2.0, 3.0], duration_us=60_000)
    t_us = moving.t_us - moving.t_us[0]
    return type(moving).from_arrays(t_us, moving.x.astype(int), moving.y.astype(int), moving.p, SIZE)


def _is_beginning(got, expected):
    n = len(got)
    for name in ("t_us", "x", "y", "p"):
        assert np.array_equal(getattr(got, name), getattr(expected, name)[:n]), name


def _bag(folder, seen, compression):
    """Of ROS 1, in small chunks."""
    from rosbags import rosbag1

    with_chunks = rosbag1.Writer(folder / "whole.bag")
    with_chunks.chunk_threshold = 20_000
    if compression is not None:
        with_chunks.set_compression(compression)
    with with_chunks as out:
        topic = out.add_connection("/events", made.CD, msgdef="byte data", md5sum="0" * 32)
        for first in range(0, len(seen), 200):
            rows = [(x, y, t // 10**6, t % 10**6 * 1000, p) for t, x, y, p in made.rows(seen[first : first + 200])]
            out.write(topic, first + 1, event_array(1, rows))
    return (folder / "whole.bag").read_bytes()


@pytest.mark.parametrize("compression", [None, "BZ2", "LZ4"])
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_a_cut_bag_of_ros_1_gives_its_beginning(tmp_path, compression, share):
    from rosbags import rosbag1

    seen = _seen()
    kind = None if compression is None else rosbag1.Writer.CompressionFormat[compression]
    data = _bag(tmp_path, seen, kind)
    path = tmp_path / "cut.bag"
    path.write_bytes(data[: int(share * len(data))])
    recording = read(path)
    assert len(recording.events) > (share - 0.4) * len(seen)
    _is_beginning(recording.events, seen)
    lost = next(finding for finding in recording.report.findings if finding.remedy is Remedy.LOST)
    assert f"of {path.stat().st_size:,}" in lost.reason
    with pytest.raises(InputError, match="strict"):
        read(path, strict=True)


@pytest.mark.parametrize("kind", ["bag", "mcap", "db3"])
def test_a_bag_without_its_end_is_gone_through(tmp_path, kind):
    seen = _seen()
    data = made.bag(seen, tmp_path, kind)
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(data[: -len(data) // 10] if kind != "db3" else data[: len(data) // 4096 * 4096 - 4096])
    recording = read(path)
    assert recording.report.count(Remedy.LOST) == 0  # how many is not known
    assert "lost all after" in recording.report.summary()
    assert len(recording.events) > 0
    _is_beginning(recording.events, seen)


@pytest.mark.parametrize("kind", ["bag", "mcap"])
def test_the_byte_is_the_end_of_the_last_message(tmp_path, kind):
    data = made.bag(_seen(), tmp_path, kind)
    (tmp_path / "whole").write_bytes(data)
    ends = [piece.end for piece in CutBag(tmp_path / "whole", "")._pieces()]
    assert ends == sorted(set(ends))
    bag = CutBag(tmp_path / "whole", "why")
    assert len(list(bag.messages(bag.connections))) == len(ends)
    for end in ends:
        (tmp_path / "cut").write_bytes(data[:end])
        cut = CutBag(tmp_path / "cut", "why")
        assert cut.lost == f"all after byte {end:,} of {end:,} (why)"


def test_what_holds_no_topic_is_refused(tmp_path):
    data = made.bag(_seen(), tmp_path, "bag")
    (tmp_path / "cut.bag").write_bytes(data[:5000])
    with pytest.raises(InputError, match=r"cannot be read as a ROS 1 bag .*copy it again"):
        read(tmp_path / "cut.bag")


def test_a_record_that_is_cut_in_its_names_does_not_hide_why(tmp_path):
    """Its fields are gone, which is no reason that anybody understands."""
    data = _bag(tmp_path, _seen(), None)
    at = data.rindex(b"type=pauca") if b"type=pauca" in data else data.rindex(b"type=")
    (tmp_path / "cut").write_bytes(data[: at - 4])
    bag = CutBag(tmp_path / "cut", "why")
    assert bag.connections
    assert bag.lost.endswith("(why)")
