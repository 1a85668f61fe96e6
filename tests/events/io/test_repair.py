"""What is small and unmistakable is repaired and reported; the rest is refused, with the place and the remedy."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauca.errors import InputError
from pauca.events import Camera, align
from pauca.events.io import Recording, Remedy
from pauca.events.io.sensor import guess_size
from pauca.events.io.source import Block, Source
from pauca.events.io.stream import read_whole
from pauca.events.recording import camera_of

SENSOR = (240, 180)


@dataclass
class Columns:
    """A file of one block, or of blocks of `step` events."""

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    unit: str = "us"
    unit_is_certain: bool = True
    size: tuple[int, int] | None = None
    camera: tuple[float, ...] | None = None

    def source(self, step: int = 0) -> Source:
        step = step or max(1, len(self.t))

        def blocks(_):
            for start in range(0, len(self.t), step):
                cut = slice(start, start + step)
                yield Block(self.t[cut], self.x[cut], self.y[cut], self.p[cut])

        said = {name: getattr(self, name) for name in ("unit", "unit_is_certain", "size")}
        return Source(
            "test", blocks, plain=False, camera=lambda size: self.camera and Camera(size, *self.camera), **said
        )


def _raw(n: int = 2000, seed: int = 0, **changes) -> Columns:
    """Half a million events a second on a DAVIS 240C."""
    rng = np.random.default_rng(seed)
    columns = {
        "t": np.cumsum(rng.integers(0, 5, n)),
        "x": rng.integers(0, 240, n).astype(np.uint16),
        "y": rng.integers(0, 180, n).astype(np.uint16),
        "p": rng.integers(0, 2, n).astype(np.uint8),
    }
    return Columns(**{**columns, **changes})


def _repair(raw: Columns, size=SENSOR, strict: bool = False) -> Recording:
    return read_whole(Path("rec.bin"), raw.source(), size, strict=strict)


def _findings(recording: Recording) -> dict[str, tuple[str, int, str]]:
    return {f.reason: (str(f.remedy), f.count, f.place) for f in recording.report.findings}


def test_good_columns_pass_untouched():
    raw = _raw()
    recording = _repair(raw, strict=True)
    assert recording.report.clean
    assert recording.report.findings == ()
    assert np.array_equal(recording.events.t_us, raw.t)
    assert np.array_equal(recording.events.x, raw.x)
    assert recording.report.summary() == "rec.bin: 2,000 of 2,000 events (test); nothing to repair"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("x", 2010, "pixels beyond the sensor (240 x 180)"),  # what a flipped bit made of x in a real file
        ("y", 180, "pixels beyond the sensor (240 x 180)"),
        ("p", 7, "polarities other than 0/1 or -1/1"),
        ("p", 2, "polarities other than 0/1 or -1/1"),
    ],
)
def test_single_bad_values_are_dropped(name, value, reason):
    raw = _raw()
    getattr(raw, name)[41] = value
    recording = _repair(raw)
    assert _findings(recording) == {reason: ("dropped", 1, "event 42")}
    assert np.array_equal(recording.events.t_us, np.delete(raw.t, 41))
    assert np.array_equal(recording.events.p, np.delete(raw.p, 41))
    with pytest.raises(InputError, match=r"\(event 42\); refused, because strict"):
        _repair(raw, strict=True)


def test_negative_pixels_are_dropped():
    raw = _raw()
    raw.x = raw.x.astype(np.int16)
    raw.x[[5, 9]] = -1
    assert _findings(_repair(raw)) == {"pixels beyond the sensor (240 x 180)": ("dropped", 2, "event 6")}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_times_that_are_no_numbers(bad):
    raw = _raw()
    raw.t = raw.t / 1e6
    raw.t[[100, 700]] = bad
    raw.unit = "s"
    recording = _repair(raw)
    assert _findings(recording) == {"times that are no finite numbers": ("dropped", 2, "event 101")}
    assert len(recording.events) == 1998


def test_undistorted_pixels_that_are_no_numbers():
    raw = _raw()
    raw.x = raw.x + np.float32(0.5)
    raw.x[3] = np.nan
    recording = _repair(raw)
    assert _findings(recording) == {"pixels that are no finite numbers": ("dropped", 1, "event 4")}


def test_an_event_counts_for_one_reason():
    raw = _raw()
    raw.x[10], raw.p[10] = 999, 9
    report = _repair(raw).report
    assert report.count(Remedy.DROPPED) == 1
    assert report.kept == report.found - 1


def test_polarity_minus_one_is_off():
    raw = _raw()
    signed = np.where(raw.p == 1, 1, -1).astype(np.int8)
    recording = _repair(_raw(p=signed), strict=True)  # a convention, no damage
    assert np.array_equal(recording.events.p, raw.p)
    assert recording.notes == ("polarity -1/1 read as 0/1",)


def test_a_few_minus_ones_among_zeros_are_damage():
    raw = _raw()
    raw.p = raw.p.astype(np.int8)
    raw.p[[8, 9]] = -1
    assert _findings(_repair(raw)) == {"polarities other than 0/1 or -1/1": ("dropped", 2, "event 9")}


def test_polarity_one_or_two_is_refused():
    """1 and 2 could mean OFF and ON, or ON and something else: too many to drop, so the user must decide."""
    with pytest.raises(InputError, match=r"unusable, too many to go on \(dropped .* polarities"):
        _repair(_raw(p=np.random.default_rng(0).integers(1, 3, 2000)))


def test_boolean_polarity():
    raw = _raw()
    assert np.array_equal(_repair(_raw(p=raw.p.astype(bool)), strict=True).events.p, raw.p)


@settings(max_examples=50, deadline=None)
@given(shift=st.lists(st.integers(-4000, 4000), min_size=50, max_size=50))
def test_small_disorder_is_sorted_stably(shift):
    t = np.arange(50) * 1000 + np.array(shift)
    tag = np.arange(50)
    recording = _repair(_raw(50, t=t, x=tag.astype(np.uint16)))
    order = np.argsort(t, kind="stable")
    assert np.array_equal(recording.events.t_us, t[order])
    assert np.array_equal(recording.events.x, tag[order])
    steps_back = np.flatnonzero(np.diff(t) < 0)
    if steps_back.size:
        (finding,) = recording.report.findings
        assert (finding.remedy, finding.count) == (Remedy.REPAIRED, steps_back.size)
        assert f"by up to {(np.maximum.accumulate(t) - t).max():,} us" in finding.reason
        assert finding.place == f"event {steps_back[0] + 2}"
    else:
        assert recording.report.clean


def test_disorder_is_refused_when_strict():
    raw = _raw()
    raw.t[500] -= 100
    assert _repair(raw).report.count(Remedy.REPAIRED) == 1
    with pytest.raises(InputError, match="times out of order, by up to"):
        _repair(raw, strict=True)


def test_a_clock_that_was_reset_is_refused_with_its_place():
    t = np.concatenate([np.arange(1000) * 1000, np.arange(1000) * 1000])
    with pytest.raises(InputError, match=r"rec\.bin: event 1001: time steps back by 0\.999 s.*cut the file there"):
        _repair(_raw(t=t))


@pytest.mark.parametrize(
    ("value", "where"),  # a first time that is far too early, or a last one too late, looks like a gap: `info` shows it
    [(2**33, 0), (2**33, 1), (2**33, 1000), (2**33, 1998), (-(2**33), 1), (-(2**33), 1000), (-(2**33), 1999)],
)
def test_a_flipped_bit_in_a_time_costs_one_event(value, where):
    raw = _raw()
    raw.t[where] += value
    recording = _repair(raw)
    assert _findings(recording) == {
        "single times far from both neighbors": ("dropped", 1, f"event {where + 1}"),
    }
    assert np.array_equal(recording.events.t_us, np.delete(raw.t, where))


def test_most_events_beyond_the_sensor_mean_a_wrong_size():
    with pytest.raises(InputError, match=r"of 2,000 events are unusable.*beyond the sensor \(128 x 128\).*check"):
        _repair(_raw(), size=(128, 128))


def test_no_events():
    with pytest.raises(InputError, match="holds no events"):
        _repair(_raw(0))


def test_columns_of_different_length():
    with pytest.raises(InputError, match=r"different length \(t 2,000, x 1,999, y 2,000, p 2,000\)"):
        _repair(_raw(x=np.zeros(1999, np.uint16)))


def test_columns_of_wrong_shape():
    with pytest.raises(InputError, match=r"x is uint16 of shape \(1000, 2\), expected one number for each event"):
        _repair(_raw(x=np.zeros((1000, 2), np.uint16)))


def test_columns_that_are_no_numbers():
    with pytest.raises(InputError, match="p is <U2 of shape"):
        _repair(_raw(p=np.full(2000, "ON")))


def test_size_that_contradicts_the_file():
    with pytest.raises(InputError, match=r"its sensor has 346 x 260 pixels, but size \(240, 180\) was given"):
        _repair(_raw(size=(346, 260)))


@pytest.mark.parametrize("sensor", [(128, 128), (240, 180), (346, 260), (640, 480), (1280, 720)])
def test_guessed_size_in_spite_of_damage(sensor):
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, sensor[0], 50_000), rng.integers(0, sensor[1], 50_000)
    x[77] = 2010
    assert guess_size(x, y) == sensor


def test_guessed_size_is_said():
    recording = _repair(_raw(), size=None)
    assert recording.events.size == SENSOR
    assert recording.notes == ("sensor size 240 x 180 guessed from the pixels seen",)


def test_size_of_an_unknown_sensor_is_what_was_seen():
    assert guess_size(np.array([0, 1999]), np.array([1499, 0])) == (2000, 1500)


@pytest.mark.parametrize(
    ("unit", "scale", "certain"),
    [("s", 1e-6, False), ("s", 1e-6, True), ("ms", 1e-3, True), ("us", 1, True), ("ns", 1e3, True)],
)
def test_units_that_fit_are_accepted(unit, scale, certain):
    raw = _raw(unit=unit, unit_is_certain=certain)
    expected = raw.t.copy()
    raw.t = raw.t * scale
    assert np.array_equal(_repair(raw, strict=True).events.t_us, expected)


@pytest.mark.parametrize("certain", [False, True])
def test_integer_microseconds_read_as_seconds_are_refused(certain):
    """A million times too long: 2000 events in 4000 s. The message names the unit that makes sense."""
    with pytest.raises(InputError, match=r"taken as s, make 2,000 events in .*in us it would be .*--time-unit"):
        _repair(_raw(unit="s", unit_is_certain=certain))


def test_whole_nanoseconds_of_a_clock_of_microseconds_are_no_microseconds():
    raw = _raw(unit="us", unit_is_certain=False)
    expected = raw.t.copy()
    raw.t = raw.t * 1000
    with pytest.raises(InputError, match=r"all whole thousands over .* s; say what they are: ns, or us .*--time-unit"):
        _repair(raw)
    raw.unit, raw.unit_is_certain = "ns", True
    assert np.array_equal(_repair(raw).events.t_us, expected)


def test_float_microseconds_taken_as_seconds_are_refused():
    raw = _raw(30_000, unit="s", unit_is_certain=False)
    raw.t = raw.t.astype(float) + 0.5
    with pytest.raises(InputError, match="in us it would be"):
        _repair(raw)


def test_seconds_read_as_microseconds_are_refused():
    """All events within a few microseconds: a rate that no camera has."""
    raw = _raw(100_000)
    raw.t = np.round(raw.t / 1e6).astype(np.int64)
    with pytest.raises(InputError, match=r"all at one moment|events/s\), which no camera records"):
        _repair(raw)


def test_integer_milliseconds_read_as_microseconds_are_refused():
    """500 million events/s: a large sensor could, a DAVIS cannot. Nobody said that the numbers are microseconds."""
    raw = _raw(30_000, unit_is_certain=False)
    raw.t = raw.t // 1000
    with pytest.raises(InputError, match=r"taken as us, .*in ms it would be 30,000 events in 0\.0.*--time-unit"):
        _repair(raw)
    raw.unit_is_certain = True
    assert len(_repair(raw).events) == 30_000


def test_a_duration_of_weeks_is_refused():
    with pytest.raises(InputError, match="which no camera records"):
        _repair(_raw(3, t=np.array([0, 1, 30 * 86_400 * 10**6])))


def test_a_slow_recording_is_believed_when_the_unit_is_certain():
    """A camera at rest behind a noise filter: 1000 events in 1000 s."""
    t = np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, 1000))
    assert len(_repair(_raw(1000, t=t, unit="s")).events) == 1000
    with pytest.raises(InputError, match="give the unit"):
        _repair(_raw(1000, t=t, unit="s", unit_is_certain=False))


def test_unsigned_times_beyond_int64():
    raw = _raw()
    raw.t = raw.t.astype(np.uint64)
    raw.t[10] = 2**64 - 1
    assert _findings(_repair(raw)) == {"times that are no finite numbers": ("dropped", 1, "event 11")}


def test_lens_of_undistorted_pixels_is_a_pinhole():
    raw = _raw(camera=(200.0, 200.0, 120.0, 90.0, -0.3, 0.1, 0.0, 0.0, 0.0))
    assert _repair(raw).camera.distortion == (-0.3, 0.1, 0.0, 0.0, 0.0)
    raw.x = raw.x + np.float32(0.25)
    recording = _repair(raw)
    assert recording.camera.distortion == (0.0,) * 5
    assert "the distortion is ignored" in recording.notes[0]


def test_an_unfit_calibration_is_left_out_and_said():
    """Such a recording could not be read at all, not even with another calibration."""
    raw = _raw(camera=(0.83, 1.1, 0.5, 0.5))
    recording = _repair(raw)
    assert (len(recording.events), recording.camera) == (2000, None)
    assert not recording.report.clean
    assert recording.notes[0].startswith("dropped the calibration in it: camera: fx 0.83, fy 1.1 are no pixels")
    with pytest.raises(InputError, match="refused, because strict reading"):
        _repair(raw, strict=True)
    with pytest.raises(InputError, match=r"the calibration in it is unfit \(camera: fx 0.83.*: give one"):
        align(recording)
    assert camera_of(recording, Camera.pinhole(SENSOR)).size == SENSOR


def test_events_that_are_refused_are_told_apart_from_an_unfit_calibration():
    raw = _raw(camera=(-1.0, 1.1, 0.5, 0.5))
    raw.x[:] = 999
    with pytest.raises(
        InputError, match=r"2,000 of 2,000 events are unusable, too many to go on \(dropped 2,000 pixels"
    ):
        _repair(raw)


def test_report_for_machines():
    raw = _raw()
    raw.x[41] = 999
    report = _repair(raw).report
    assert report.as_dict() == {
        "path": "rec.bin",
        "format": "test",
        "found": 2000,
        "kept": 1999,
        "findings": [
            {"remedy": "dropped", "reason": "pixels beyond the sensor (240 x 180)", "count": 1, "place": "event 42"}
        ],
    }
    expected = "rec.bin: 1,999 of 2,000 events (test); dropped 1 pixels beyond the sensor (240 x 180) (event 42)"
    assert report.summary() == expected
