"""Prophesee's binary recordings: words written by hand, and real files that other decoders read."""

import numpy as np
import pytest

from pauca.errors import InputError
from pauca.events.io import Remedy, read

EVT2 = b"% integrator_name Prophesee\n% evt 2.0\n"
EVT3 = b"% evt 3.0\n% geometry 1280x720\n% end\n"
DAT = b"% Data file containing CD events.\n% Version 2\n% Height 240\n% Width 304\n"


def _read(folder, data: bytes, name: str = "rec.raw", **options):
    path = folder / name
    path.write_bytes(data)
    return read(path, **options)


def _evt2(*words: int) -> bytes:
    return EVT2 + np.array(words, "<u4").tobytes()


def _evt3(*words: int) -> bytes:
    return EVT3 + np.array(words, "<u2").tobytes()


def _cd2(time: int, x: int, y: int, p: int) -> int:
    return p << 28 | (time & 63) << 22 | x << 11 | y


def _high2(time: int) -> int:
    return 0x8 << 28 | time >> 6


def _rows(events) -> list[tuple[int, int, int, int]]:
    return list(zip(*(getattr(events, name).tolist() for name in ("t_us", "x", "y", "p")), strict=True))


def test_evt2(tmp_path):
    rows = [(130, 1, 2, 1), (140, 3, 4, 0), (200, 639, 479, 1)]
    words = [w for t, x, y, p in rows for w in (_high2(t), _cd2(t, x, y, p))]
    recording = _read(tmp_path, _evt2(*words, 0xA << 28, 0xE << 28), size=(640, 480), strict=True)
    assert _rows(recording.events) == rows
    assert recording.report.format == "EVT2"


@pytest.mark.parametrize("length", [20_000, *range(16_365, 16_368)])  # around what is read first, 16,384 bytes
def test_a_long_header(tmp_path, length):
    header = b"% evt 2.0\n" + b"% note " + b"a" * length + b"\n% geometry 640x480\n% end\n"
    events = _read(tmp_path, header + np.array([_high2(0), _cd2(5, 3, 4, 1)], "<u4").tobytes()).events
    assert (_rows(events), events.size) == ([(5, 3, 4, 1)], (640, 480))


def test_evt2_rollover(tmp_path):
    """34 bits of microseconds are 4.8 hours; then the counter begins again."""
    last = 2**34 - 100
    data = _evt2(_high2(last), _cd2(last, 1, 1, 1), _high2(64), _cd2(65, 2, 2, 1))
    assert _read(tmp_path, data).events.t_us.tolist() == [last, 2**34 + 65]


def test_evt3(tmp_path):
    """Single events, vectors of 12 and 8 pixels, and a new row."""
    data = _evt3(
        *(0x8 << 12 | 1, 0x6 << 12 | 5),  # time 4096 + 5
        *(0x0 << 12 | 300, 0x2 << 12 | 1 << 11 | 17),  # row 300, pixel 17, ON
        *(0x3 << 12 | 100, 0x4 << 12 | 0b100000000001, 0x5 << 12 | 0b10000010),  # OFF from 100 on: 100, 111, 113, 119
        *(0x6 << 12 | 9, 0x0 << 12 | 301, 0x2 << 12 | 18),
        *(0xA << 12, 0xE << 12, 0x7 << 12, 0xF << 12),  # triggers and others
    )
    recording = _read(tmp_path, data, strict=True)
    expected = [(4101, 17, 300, 1), *((4101, x, 300, 0) for x in (100, 111, 113, 119)), (4105, 18, 301, 0)]
    assert _rows(recording.events) == expected
    assert recording.events.size == (1280, 720)


def test_evt3_rollover(tmp_path):
    """24 bits of microseconds are 16.8 s; then the counter begins again. A new high part forgets the low one."""
    data = _evt3(0x8FFF, 0x6FFF, 0x2001, 0x8000, 0x2002, 0x6007, 0x2003)
    assert _read(tmp_path, data).events.t_us.tolist() == [2**24 - 1, 2**24, 2**24 + 7]


def test_dat(tmp_path):
    events = np.array([[10, 1 | 2 << 14 | 1 << 28], [20, 303 | 239 << 14]], "<u4")
    recording = _read(tmp_path, DAT + bytes([0x0C, 8]) + events.tobytes(), "rec.dat", strict=True)
    assert _rows(recording.events) == [(10, 1, 2, 1), (20, 303, 239, 0)]
    assert recording.events.size == (304, 240)
    assert recording.report.format == "DAT"


def test_dat_rollover(tmp_path):
    events = np.array([[2**32 - 5, 1], [3, 1]], "<u4")
    data = DAT + bytes([0, 8]) + events.tobytes()
    assert _read(tmp_path, data, "rec.dat").events.t_us.tolist() == [2**32 - 5, 2**32 + 3]


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_truncated_file_gives_its_prefix_and_says_so(tmp_path, cut, caplog):
    data = _evt2(_high2(64), _cd2(70, 1, 1, 1), _cd2(71, 2, 2, 0))[:-cut]
    recording = _read(tmp_path, data)
    assert _rows(recording.events) == [(70, 1, 1, 1)]
    assert recording.report.findings[0].remedy == Remedy.LOST
    assert "cut short by the end of the file" in caplog.text
    with pytest.raises(InputError, match="cut short by the end of the file"):
        _read(tmp_path, data, strict=True)


def test_events_before_the_first_time_are_dropped(tmp_path):
    recording = _read(tmp_path, _evt2(_cd2(5, 1, 1, 1), _high2(64), _cd2(70, 2, 2, 1)))
    assert _rows(recording.events) == [(70, 2, 2, 1)]
    assert "dropped 1 events before the first time" in recording.report.summary()


def test_flipped_bits(tmp_path):
    """A type that does not exist, and an x of 2010 on a VGA sensor."""
    words = [_high2(64), *(_cd2(64 + i % 60, i, 5, 1) for i in range(60)), 0x5 << 28, _cd2(127, 2010, 3, 1)]
    recording = _read(tmp_path, _evt2(*words), size=(640, 480))
    assert len(recording.events) == 60
    assert recording.report.count(Remedy.DROPPED) == 2
    assert "words of no known type" in recording.report.summary()
    assert "pixels beyond the sensor (640 x 480) (event 61)" in recording.report.summary()


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"% evt 4.0\n% end\n\0\0\0\0", "a.raw", r"is in EVT4; supported are EVT2, EVT2\.1 and EVT3"),
        (b"% integrator_name Prophesee\n% end\n\0\0\0\0", "a.raw", "a Prophesee header without its encoding"),
        (DAT + bytes([14, 8]) + bytes(8), "a.dat", "DAT of type 14 with 8 bytes an event"),
        (EVT2, "a.raw", "holds no events"),
        (DAT, "a.dat", "holds no events"),
    ],
)
def test_what_cannot_be_read(tmp_path, data, name, message):
    with pytest.raises(InputError, match=message):
        _read(tmp_path, data, name)


@pytest.mark.parametrize("legacy", [False, True])
def test_evt21_vectors(tmp_path, legacy):
    """Each word is one row's events at x + the set bits; the legacy order swaps the halves of a word."""
    time = 70_000_123
    cd = (1 << 60) | (time & 63) << 54 | 100 << 43 | 200 << 32 | 0b1001
    off = (0 << 60) | ((time + 1) & 63) << 54 | 7 << 43 | 8 << 32 | 1 << 31
    words = np.array([0x8 << 60 | (time >> 6) << 32, cd, off], np.uint64)
    if legacy:
        words = words << np.uint64(32) | words >> np.uint64(32)
    header = b"% evt 2.1\n% format EVT21;height=720;width=1280" + b";endianness=legacy" * legacy + b"\n% end\n"
    events = _read(tmp_path, header + words.astype("<u8").tobytes() + b"\0").events
    assert _rows(events) == [(time, 100, 200, 1), (time, 103, 200, 1), (time + 1, 38, 8, 0)]
    assert events.size == (1280, 720)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "count", "first_us", "last_us", "size"),
    [  # counts and times agree with expelliarmus 1.1.12, and for EVT2 with faery 0.7.1
        ("expelliarmus_evt2_sample.raw", 539_481, 1_317_888, 1_367_888, (640, 480)),
        ("faery_evt2.raw", 521_252, 913_716_224, 913_812_095, (640, 480)),
        ("expelliarmus_evt3_sample.raw", 219_596, 11_718_656, 11_727_457, (1280, 720)),
        ("tonic_sample_ncars.dat", 2_009, 0, 99_952, (128, 128)),
    ],
)
def test_real_files(pauca_data, name, count, first_us, last_us, size):
    recording = read(pauca_data / "events" / "formats" / name, strict=True)
    events = recording.events
    assert (len(events), events.t_us[0], events.t_us[-1], events.size) == (count, first_us, last_us, size)


@pytest.mark.realdata
def test_evt3_against_expelliarmus(pauca_data):
    """All pixels and polarities, and the low 12 bits of all times; its high bits go astray (see the data's README)."""
    folder = pauca_data / "events" / "formats"
    events = read(folder / "expelliarmus_evt3_sample.raw").events
    expected = np.load(folder / "expelliarmus_evt3_sample_expected.npy")
    assert np.array_equal(events.x, expected["x"])
    assert np.array_equal(events.y, expected["y"])
    assert np.array_equal(events.p, expected["p"])
    assert np.array_equal(events.t_us % 4096, expected["t"] % 4096)
