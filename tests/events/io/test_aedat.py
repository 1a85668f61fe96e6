"""AEDAT 2.0 and 3.1: words written by hand, and jAER's own recordings."""

import struct

import numpy as np
import pytest

from pauca.errors import InputError
from pauca.events.io import read

DVS128 = b"#!AER-DAT2.0\r\n# AEChip: ch.unizh.ini.jaer.chip.retina.DVS128\r\n"
DAVIS = b"#!AER-DAT2.0\r\n# AEChip: eu.seebetter.ini.chips.davis.DAVIS240C\r\n"


def _read(folder, data: bytes, **options):
    (folder / "rec.aedat").write_bytes(data)
    return read(folder / "rec.aedat", **options)


def _words(*pairs: tuple[int, int]) -> bytes:
    return np.array(pairs, ">u4").tobytes()


def _rows(events):
    return list(zip(*(getattr(events, name).tolist() for name in ("t_us", "x", "y", "p")), strict=True))


def test_dvs128_counts_from_the_lower_right(tmp_path):
    data = DVS128 + _words((3 << 8 | 5 << 1 | 0, 10), (127 << 8 | 127 << 1 | 1, 12))
    recording = _read(tmp_path, data)
    assert _rows(recording.events) == [(10, 122, 124, 1), (12, 0, 0, 0)]
    assert recording.events.size == (128, 128)
    assert recording.report.clean


def test_davis_events_among_frames_and_inertial_samples(tmp_path):
    event = 20 << 22 | 30 << 12 | 1 << 11
    recording = _read(tmp_path, DAVIS + _words((event, 10), (1 << 31 | event, 11), (event & ~(1 << 11), 15)))
    assert _rows(recording.events) == [(10, 209, 159, 1), (15, 209, 159, 0)]
    assert recording.notes == ("1 samples of frames, triggers and the inertial sensor",)


def test_the_clock_wraps_and_a_cut_tail_is_said(tmp_path):
    recording = _read(tmp_path, DVS128 + _words((0, 2**32 - 5), (0, 3)) + b"\0\0\0")
    assert np.diff(recording.events.t_us).tolist() == [8]
    assert "cut short by the end of the file (3 bytes of 8)" in recording.notes[0]


def test_polarity_events_of_version_3(tmp_path):
    def packet(kind, overflow, *rows):
        return (
            struct.pack("<hhiiiiii", kind, 0, 8, 4, overflow, len(rows), len(rows), len(rows))
            + np.array(rows, "<u4").tobytes()
        )

    def event(x, y, p, valid=1):
        return x << 17 | y << 2 | p << 1 | valid

    data = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n"
    data += packet(1, 0, (event(3, 4, 1), 100), (event(9, 9, 1, 0), 101)) + packet(2, 0, (0, 0))
    data += packet(1, 1, (event(5, 6, 0), 7))
    recording = _read(tmp_path, data + data[-20:])
    assert _rows(recording.events) == [(100, 3, 4, 1), (2**31 + 7, 5, 6, 0)]
    assert "cut short" in recording.notes[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"#!AER-DAT1.0\r\n\0\0\0\0", "supported are 2.0, 3.1 and 4.0"),
        (DAVIS.replace(b"240C", b"999") + _words((1, 1)), "a DAVIS999; supported are DAVIS 240"),
        (b"#!AER-DAT2.0\r\n" + _words((1 << 20, 1)), "does not name its camera"),
        (DVS128, "holds no events"),
        (b"#!AER-DAT3.1\r\n#!END-HEADER\r\n", "without polarity events"),
    ],
)
def test_what_cannot_be_read(tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        _read(tmp_path, data)


@pytest.mark.realdata
def test_recordings_of_jaer(pauca_data):
    """Counts from the data folder's README; the pen's session a was decoded by its authors' own tool."""
    folder = pauca_data / "events"
    assert len(read(folder / "formats" / "dvs128_MovingDarkBox.aedat").events) == 489_834
    pen = read(folder / "formats" / "dvs128_Lapiseira.aedat").events
    theirs = np.load(folder / "recognition" / "dvs128_objects" / "a_lapiseira.npz")
    assert np.array_equal(pen.t_us - pen.t_us[0], theirs["t_us"])
    assert np.array_equal(pen.x, theirs["x"])
    assert np.array_equal(pen.y, theirs["y"])
    assert np.array_equal(pen.p, theirs["p"])
