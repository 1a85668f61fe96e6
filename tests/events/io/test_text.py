"""Text recordings: exact times, every way to write a line, and every way to write it wrong."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauca.errors import InputError
from pauca.events.io import Remedy, read

LINES = "0.000010 1 2 1\n0.000020 3 4 0\n0.000030 5 6 1\n"


def _read(folder: Path, text: str | bytes, name: str = "events.txt", **options):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(path, **{"size": (240, 180), **options})


def _dropped(recording) -> dict[str, tuple[int, str]]:
    return {f.reason: (f.count, f.place) for f in recording.report.findings if f.remedy == Remedy.DROPPED}


def test_plain_lines(tmp_path):
    events = _read(tmp_path, LINES).events
    assert events.t_us.tolist() == [10, 20, 30]
    assert events.x.tolist() == [1, 3, 5]
    assert events.y.tolist() == [2, 4, 6]
    assert events.p.tolist() == [1, 0, 1]
    assert (events.x.dtype, events.p.dtype) == (np.uint16, np.uint8)


@pytest.mark.parametrize(
    ("variant", "expected_notes"),
    [
        (LINES.replace("\n", "\r\n"), 0),  # Windows line ends
        (LINES.rstrip("\n"), 0),  # no newline at the end
        (LINES.replace("\n", "\r\n").rstrip("\r\n"), 0),
        (LINES.replace(" ", "\t"), 0),
        (LINES.replace(" ", ","), 0),
        (LINES.replace(" ", " ; "), 0),
        ("# an event camera\n% t x y p\n" + LINES, 0),
        ("t,x,y,p\n" + LINES, 0),
        ("timestamp x y polarity\n" + LINES, 0),
        ("240 180\n" + LINES, 0),
        ("recorded on a Monday\n" + LINES, 1),
        (LINES.replace("\n0.00002", "\n\n   \n# pause\n0.00002"), 0),
        ("".join(f"  {line} \n" for line in LINES.splitlines()), 0),
    ],
)
def test_the_same_events_written_differently(tmp_path, variant, expected_notes):
    recording = _read(tmp_path, variant)
    assert recording.events.t_us.tolist() == [10, 20, 30]
    assert recording.events.x.tolist() == [1, 3, 5]
    assert recording.events.p.tolist() == [1, 0, 1]
    assert len(recording.report.findings) == expected_notes


def test_first_line_of_two_integers_is_the_size(tmp_path):
    assert _read(tmp_path, "346 260\n" + LINES, size=None).events.size == (346, 260)


def test_header_gives_the_order_of_columns(tmp_path):
    events = _read(tmp_path, "x,y,depth,polarity,t\n7,8,2.5,1,0.5\n9,10,2.5,0,0.6\n").events
    assert events.t_us.tolist() == [500_000, 600_000]
    assert (events.x.tolist(), events.y.tolist(), events.p.tolist()) == ([7, 9], [8, 10], [1, 0])


@settings(max_examples=200, deadline=None)
@given(
    micros=st.lists(st.integers(0, 60_000_000), min_size=1, max_size=20).map(sorted),
    digits=st.integers(6, 12),
    data=st.data(),
)
def test_decimal_seconds_are_exact(tmp_path_factory, micros, digits, data):
    """Times survive the way through text to the microsecond, whatever the number of decimals."""
    x = data.draw(st.lists(st.integers(0, 239), min_size=len(micros), max_size=len(micros)))
    text = "".join(
        f"{t // 10**6}.{t % 10**6:06d}{'0' * (digits - 6)} {u} 7 1\n" for t, u in zip(micros, x, strict=True)
    )
    events = _read(tmp_path_factory.mktemp("text"), text).events
    assert events.t_us.tolist() == micros
    assert events.x.tolist() == x


def test_seconds_beyond_the_reach_of_float64(tmp_path):
    """A Unix time in nanoseconds has 19 digits, three more than a float64 holds."""
    text = "1467939998.123456499 1 1 1\n1467939998.123456500 1 1 1\n"
    assert _read(tmp_path, text).events.t_us.tolist() == [1467939998123456, 1467939998123457]


def test_scientific_notation_as_numpy_writes_it(tmp_path):
    path = tmp_path / "savetxt.txt"
    np.savetxt(path, [[49.006624, 192, 13, 0], [49.012158, 207.0, 13, 1]])
    events = read(path, size=(240, 180)).events
    assert events.t_us.tolist() == [49006624, 49012158]
    assert events.x.tolist() == [192, 207]


@pytest.mark.parametrize(
    ("unit", "text", "expected"),
    [
        ("s", "2 1 1 1\n3.5 1 1 1\n", [2_000_000, 3_500_000]),
        ("ms", "2 1 1 1\n3.5 1 1 1\n", [2_000, 3_500]),
        ("us", "2 1 1 1\n3.5 1 1 1\n", [2, 4]),  # halves away from zero
        ("ns", "2499 1 1 1\n3500 1 1 1\n", [2, 4]),
    ],
)
def test_time_unit(tmp_path, unit, text, expected):
    assert _read(tmp_path, text, time_unit=unit).events.t_us.tolist() == expected


def test_whole_numbers_are_microseconds_and_said_to_be(tmp_path):
    recording = _read(tmp_path, "10 1 1 1\n2000010 1 1 1\n")
    assert recording.events.t_us.tolist() == [10, 2000010]
    assert recording.notes == ("times are whole numbers: taken as microseconds",)
    assert recording.report.clean


def test_seconds_that_begin_whole(tmp_path):
    """A writer that drops trailing zeros begins with `0`: the later decimals decide."""
    recording = _read(tmp_path, "0 1 1 1\n0.000011 1 1 1\n1 1 1 0\n")
    assert recording.events.t_us.tolist() == [0, 11, 1_000_000]
    assert recording.notes == ()


def test_pixels_with_fractions_stay_float(tmp_path):
    events = _read(tmp_path, "0.1 1.25 2 1\n0.2 3 4.5 0\n").events
    assert events.undistorted
    assert events.x.tolist() == [1.25, 3.0]


@pytest.mark.parametrize(
    ("bad_line", "reason"),
    [
        ("0.000025 3 4", "lines with too few columns"),
        ("0.000025 3 4 1 9", "lines with too many columns"),
        ("0.000025 3 four 1", "lines with something that is no number"),
        ("0.0.25 3 4 1", "lines with something that is no number"),
        ("\x00\x9f garbage", "lines with something that is no number"),
        ("nan 3 4 1", "times that are no finite numbers"),
        ("-inf 3 4 1", "times that are no finite numbers"),
        ("1e300 3 4 1", "times that are no finite numbers"),
    ],
)
def test_bad_lines_are_dropped_with_their_number(tmp_path, bad_line, reason):
    lines = LINES.splitlines()
    recording = _read(tmp_path, "\n".join([*lines[:2], bad_line, lines[2]]).encode("latin-1"))
    assert recording.events.t_us.tolist() == [10, 20, 30]
    assert _dropped(recording) == {reason: (1, "line 3")}
    assert recording.report.found == 4


def test_bad_lines_strict(tmp_path):
    with pytest.raises(InputError, match=r"too few columns \(line 2\).*refused, because strict"):
        _read(tmp_path, LINES.replace("0.000020 3 4 0", "0.000020 3 4"), strict=True)


def test_line_numbers_of_other_trouble(tmp_path):
    """A header of two lines and a pixel beyond the sensor in the second event: line 4."""
    recording = _read(tmp_path, "# one\n# two\n" + LINES.replace("3 4", "300 4"))
    assert _dropped(recording) == {"pixels beyond the sensor (240 x 180)": (1, "line 4")}


def test_three_columns(tmp_path):
    with pytest.raises(InputError, match=r"line 1 has 3 columns, expected 4, such as t x y p"):
        _read(tmp_path, "0.1 1 2\n0.2 3 4\n")


def test_file_of_words(tmp_path):
    with pytest.raises(InputError, match=r"none of the first 2 lines is an event.*'a poem'"):
        _read(tmp_path, "a poem\nabout cameras\n")


def test_comments_alone(tmp_path):
    with pytest.raises(InputError, match="none of the first 1 lines is an event"):
        _read(tmp_path, "# nothing else\n")


def test_blank_file(tmp_path):
    with pytest.raises(InputError, match="is empty"):
        _read(tmp_path, "\n\n  \n")


def test_mostly_bad_lines_are_refused(tmp_path):
    lines = [f"0.{i:06d} 1 1 1" if i % 2 else f"0.{i:06d} 1 1" for i in range(1, 101)]
    with pytest.raises(InputError, match="50 of 100 events are unusable, too many"):
        _read(tmp_path, "\n".join(lines))


def _many_lines(n: int = 30_000) -> bytes:
    rng = np.random.default_rng(0)
    t, x, y, p = (
        np.cumsum(rng.integers(0, 5, n)),
        rng.integers(0, 240, n),
        rng.integers(0, 180, n),
        rng.integers(0, 2, n),
    )
    return "".join(f"{a / 1e6:.6f} {b} {c} {d}\n" for a, b, c, d in zip(t, x, y, p, strict=True)).encode()


def test_gzip(tmp_path):
    text = _many_lines()
    plain = _read(tmp_path, text)
    packed = _read(tmp_path, gzip.compress(text), "events.txt.gz")
    assert np.array_equal(plain.events.t_us, packed.events.t_us)
    assert np.array_equal(plain.events.y, packed.events.y)
    assert packed.report.clean


def test_gzip_in_several_members(tmp_path):
    text = _many_lines(2000)
    half = text.index(b"\n", len(text) // 2) + 1
    packed = gzip.compress(text[:half]) + gzip.compress(text[half:]) + b"\0" * 100
    assert len(_read(tmp_path, packed, "two.gz").events) == 2000


def test_truncated_gzip_gives_the_events_before_the_end(tmp_path, caplog):
    text = _many_lines()
    packed = gzip.compress(text)
    whole = _read(tmp_path, text).events
    recording = _read(tmp_path, packed[: len(packed) * 2 // 3], "cut.txt.gz")
    n = len(recording.events)
    assert 0.5 * len(whole) < n < 0.8 * len(whole)
    assert np.array_equal(recording.events.t_us, whole.t_us[:n])
    assert "all after the end of a truncated gzip file" in recording.report.summary()
    assert "truncated gzip file" in caplog.text  # said aloud, not only kept
    with pytest.raises(InputError, match="truncated gzip"):
        _read(tmp_path, packed[: len(packed) * 2 // 3], "cut.txt.gz", strict=True)


def test_gzip_damaged_at_its_beginning(tmp_path):
    packed = gzip.compress(_many_lines(100))
    with pytest.raises(InputError, match="nothing can be read: lost all after damage to the gzip file"):
        _read(tmp_path, packed[:10] + b"\xff" * 50, "damaged.gz")


def test_flipped_bits_in_gzip(tmp_path):
    packed = bytearray(gzip.compress(_many_lines()))
    packed[len(packed) // 2 : len(packed) // 2 + 200] = b"\xff" * 200
    try:
        report = _read(tmp_path, bytes(packed), "flipped.gz").report
    except InputError:
        return  # refused as a whole: right as well, and up to what zlib makes of the bits
    assert not report.clean


def test_truncated_text_loses_its_last_line_only(tmp_path):
    recording = _read(tmp_path, LINES[:-5])
    assert recording.events.t_us.tolist() == [10, 20]
    assert _dropped(recording) == {"lines with too few columns": (1, "line 3")}


def test_blocks_join_where_a_line_is_split(tmp_path, monkeypatch):
    """Whatever the size of the blocks that are read, the events are the same."""
    text = _many_lines(300)
    whole = _read(tmp_path, text).events
    for size in (7, 100, 1000):
        monkeypatch.setattr("pauca.events.io.text._BLOCK_BYTES", size)
        pieces = _read(tmp_path, text).events
        assert np.array_equal(pieces.t_us, whole.t_us)
        assert np.array_equal(pieces.x, whole.x)


def test_line_numbers_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("pauca.events.io.text._BLOCK_BYTES", 100)
    lines = _many_lines(200).splitlines()
    lines[150] = b"damaged"
    recording = _read(tmp_path, b"# header\n" + b"\n".join(lines))
    assert _dropped(recording) == {"lines with something that is no number": (1, "line 152")}


SWAPPED = "".join(f"{37 * i % 240},{53 * i % 180},{i % 3 == 0:d},{1_000_000 + 7 * i}\n" for i in range(3000))


def test_an_order_that_the_numbers_leave_no_doubt_about_is_taken_and_said(tmp_path):
    (tmp_path / "e.csv").write_text(SWAPPED)
    recording = read(tmp_path / "e.csv")
    assert recording.events.t_us[:2].tolist() == [1_000_000, 1_000_007]
    assert recording.events.x[:3].tolist() == [0, 37, 74]
    assert recording.events.p[:4].tolist() == [1, 0, 0, 1]
    assert recording.notes[0] == "columns taken as x y p t, from the look of the first lines"


def test_columns_that_the_user_names(tmp_path):
    (tmp_path / "e.csv").write_text("".join(f"9.5,{i % 240} {i % 180};1 {1_000_000 + 7 * i}\n" for i in range(3000)))
    events = read(tmp_path / "e.csv", columns="-,x,y,p,t").events
    assert events.t_us[:2].tolist() == [1_000_000, 1_000_007]
    assert events.y[:3].tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="name t, x, y and p once each"):
        read(tmp_path / "e.csv", columns="x,y,t")
    with pytest.raises(InputError, match="has 5 columns, expected 4"):
        read(tmp_path / "e.csv", columns="x,y,p,t")


def test_an_index_without_a_name_and_polarity_in_words(tmp_path):
    lines = "".join(f"{i},{1_000_000 + 7 * i},{i % 240},{i % 180},{i % 2 == 0}\n" for i in range(3000))
    (tmp_path / "e.csv").write_text(",t,x,y,polarity\n" + lines)
    recording = read(tmp_path / "e.csv")
    assert recording.events.p[:4].tolist() == [1, 0, 1, 0]
    assert len(recording.events) == 3000


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["index-and-bool.csv", "x-y-p-t-no-header.csv"])
def test_tables_of_other_people(pauca_data, name):
    folder = pauca_data.parent / "cases" / "events" / "csv-layouts"
    truth, events = np.load(folder / "truth.npz"), read(folder / name).events
    for column in ("t_us", "x", "y", "p"):
        assert np.array_equal(getattr(events, column), truth[column])


def test_nanoseconds_since_1970_are_not_taken_for_microseconds(tmp_path):
    """They were read as a recording of the year 52,671."""
    (tmp_path / "e.txt").write_text("".join(f"{1_600_000_000_000_003_000 + 9000 * i} 3 4 1\n" for i in range(2000)))
    with pytest.raises(InputError, match=r"lie in the year 52,6\d\d; say what they are, probably ns .*--time-unit"):
        read(tmp_path / "e.txt")
    assert read(tmp_path / "e.txt", time_unit="ns").events.duration_us == 9 * 1999


def test_shuffled_times_are_refused_with_the_remedy(tmp_path):
    times = np.random.default_rng(0).permutation(2000) * 1001
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{t} {t % 240} {t % 180} {t % 2}\n" for t in times))
    with pytest.raises(InputError, match=r"single times far from .* sort its events \(sort, --sort\)"):
        read(path, size=(240, 180))
    assert len(read(path, size=(240, 180), sort=True).events) == 2000


def test_sorting_on_request_says_how_far_and_how_many(tmp_path):
    times = [*range(0, 20_000, 10), *range(5_000, 25_000, 10)]
    (tmp_path / "e.txt").write_text("".join(f"{t} 3 4 1\n" for t in times))
    with pytest.raises(InputError, match="--sort"):
        read(tmp_path / "e.txt")
    recording = read(tmp_path / "e.txt", sort=True)
    assert np.array_equal(recording.events.t_us, np.sort(times))
    assert any("1 times out of order, by up to 14,990 us: sorted" in note for note in recording.notes)
