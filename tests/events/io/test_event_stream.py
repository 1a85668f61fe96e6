import numpy as np
import pytest

from pauca.errors import InputError
from pauca.events.io import read

HEADER = b"Event Stream\x02\x00\x00\x01" + np.array([320, 240], "<u2").tobytes()


def _event(dt: int, on: int, x: int, y: int) -> bytes:
    return bytes([dt << 1 | on]) + np.array([x, y], "<u2").tobytes()


def _read(folder, data: bytes):
    (folder / "rec.es").write_bytes(data)
    return read(folder / "rec.es")


def test_rows_count_from_the_bottom_and_long_pauses_take_bytes_of_their_own(tmp_path):
    data = HEADER + _event(3, 1, 10, 239) + b"\xff\xff" + _event(2, 0, 319, 0) + b"\xfe" + _event(0, 1, 5, 5)
    recording = _read(tmp_path, data)
    rows = zip(*(getattr(recording.events, name).tolist() for name in ("t_us", "x", "y", "p")), strict=True)
    assert list(rows) == [(3, 10, 0, 1), (259, 319, 239, 0), (259, 5, 234, 1)]
    assert recording.notes == ("the camera lost events 1 times, and says so",)


def test_a_cut_event_and_one_beyond_the_sensor_are_said(tmp_path):
    good = b"".join(_event(1, 1, 10, 10) for _ in range(20))
    recording = _read(tmp_path, HEADER + good + _event(1, 1, 320, 0) + _event(1, 0, 7, 7)[:3])
    assert len(recording.events) == 20
    assert "beyond the sensor (320 x 240)" in recording.notes[0]
    assert f"cut short at byte {len(HEADER) + 105:,}" in recording.notes[1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HEADER[:14], "header is cut short"),
        (HEADER.replace(b"\2\0\0\1", b"\2\0\0\2"), "Event Stream 2.0 of ATIS events"),
        (HEADER.replace(b"\2\0\0\1", b"\1\0\0\1"), "Event Stream 1.0 of DVS events"),
        (HEADER, "holds no events"),
    ],
)
def test_what_cannot_be_read(tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        _read(tmp_path, data)


@pytest.mark.realdata
def test_a_real_file_as_another_reader_has_it(pauca_data):
    """Counts and sums by the package faery 0.7.1, which also lets y point down."""
    events = read(pauca_data / "events" / "formats" / "faery_dvs.es").events
    assert (len(events), int(events.p.sum())) == (473_225, 270_001)
    assert (int(events.x.sum(dtype=np.int64)), int(events.y.sum(dtype=np.int64))) == (72_946_016, 56_007_796)
    assert (events.t_us[0], events.t_us[-1]) == (0, 999_000)
