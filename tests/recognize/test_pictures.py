"""Pictures: sharp where the camera moves, in the middle, of one size whatever the sensor's."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from pauca import events
from pauca.errors import ConfigError, InputError
from pauca.recognize import Picture, PictureConfig, pictures_of
from pauca.recognize.pictures import most_informative, square

from .scenes import recording


def test_alignment_shows_what_a_slow_camera_would_have_shown():
    slow, fast = (max(pictures_of(recording(2, 1, speed), 32), key=lambda p: p.weight) for speed in (30.0, 400.0))
    alike = [np.corrcoef(slow.pixels.ravel(), shown.ravel())[0, 1] for shown in (fast.unaligned, fast.pixels)]
    assert alike[1] > alike[0] + 0.05


def test_without_alignment_the_picture_is_what_the_sensor_saw():
    (picture,) = pictures_of(recording(2, 0), 32, PictureConfig(align=False))
    assert np.array_equal(picture.pixels, picture.unaligned)
    assert picture.weight == picture.n_events


@pytest.mark.parametrize(("x", "y", "side"), [(20, 30, 10), (60, 50, 20), (45, 45, 40)])
def test_what_moves_is_in_the_middle_and_fills_the_picture(x, y, side):
    counts = np.zeros((100, 100), np.float32)
    counts[y : y + side, [x, x + side]] = 3
    counts[[y, y + side], x : x + side] = 3
    rng = np.random.default_rng(0)
    counts += rng.random(counts.shape) < 0.02  # background
    rows, columns = np.nonzero(square(counts, 40) > 200)
    middle = (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2
    assert middle == pytest.approx((19.5, 19.5), abs=2)
    assert 20 <= np.ptp(columns) <= 34


def test_the_whole_sensor_is_shown_without_its_border():
    counts = np.zeros((50, 60), np.float32)
    counts[10:40, 10] = 1  # left edge of a sensor of 40 x 30 with a border of 10
    whole = square(counts, 20, border=10, framing="sensor")
    assert whole[:, 0].max() == 255
    assert whole[:, 2:].max() == 0
    assert whole[:2].max() == whole[-2:].max() == 0  # a sensor that is wider than high does not fill a square


def test_a_fixed_frame_keeps_the_size_of_things():
    widths = []
    for side in (10, 20):
        counts = np.zeros((100, 100), np.float32)
        counts[30 : 30 + side, 40 : 40 + side] = 1
        widths.append(np.ptp(np.nonzero(square(counts, 70, framing="fixed") > 100)[1]) + 1)
    assert widths == pytest.approx([10, 20], abs=1)


def test_an_empty_image_gives_a_black_picture():
    assert square(np.zeros((20, 20), np.float32), 16).max() == 0


def _picture(weight: float, n_events: int = 1000) -> Picture:
    black = np.zeros((4, 4), np.uint8)
    return Picture(black, black, float(weight), n_events, 0, 1)


def test_the_most_informative_pictures_are_spread_over_the_recording():
    pictures = [_picture(weight) for weight in (9, 8, 7, 1, 2, 3)]
    assert [picture.weight for picture in most_informative(pictures, 2)] == [9, 3]
    assert len(most_informative(pictures, 10)) == 6
    assert [p.weight for p in most_informative([_picture(5), _picture(1, n_events=3)], 5)] == [5]


def test_recordings_of_any_length_give_at_least_one_picture_and_no_more_than_asked_for():
    stream = recording(0, 0).events
    later = replace(stream, t_us=stream.t_us + 400_000)
    long = events.Events(*(np.concatenate([getattr(p, n) for p in (stream, later)]) for n in ("t_us", "x", "y", "p")),
                         stream.size)  # fmt: skip
    assert len(pictures_of(events.Recording(stream[:200]), 32)) == 1
    assert len(pictures_of(events.Recording(long), 32)) == 2
    assert len(pictures_of(events.Recording(long), 32, PictureConfig(views=1))) == 1


@pytest.mark.parametrize("count", [0, 20])
def test_too_few_events_are_refused_by_name(count):
    with pytest.raises(InputError, match=f"cup: {count} events are too few to recognize anything"):
        pictures_of(events.Recording(recording(0, 0).events[:count], name="cup"), 32)


def test_one_polarity_gives_pictures_and_a_warning(caplog):
    stream = recording(0, 0).events
    kept = stream.p == 1
    ons = events.Events(stream.t_us[kept], stream.x[kept], stream.y[kept], stream.p[kept], stream.size)
    with caplog.at_level(logging.WARNING):
        assert pictures_of(events.Recording(ons, name="cup"), 32)[0].pixels.max() == 255
    assert "cup: all events have one polarity" in caplog.text


def test_a_calibration_of_another_sensor_is_refused():
    with pytest.raises(InputError, match=r"the camera is calibrated for \(64, 48\)"):
        pictures_of(recording(0, 0), 32, camera=events.Camera.pinhole((64, 48)))


def test_motion_is_rotation_where_a_calibration_is_known():
    camera = events.Camera.pinhole((34, 34))
    assert PictureConfig().aligner((34, 34), camera).config.motion == "rotation"
    assert PictureConfig().aligner((34, 34), None).config.motion == "translation"
    assert PictureConfig(motion="translation").aligner((34, 34), camera).config.motion == "translation"


@pytest.mark.parametrize(("wrong", "said"), [({"views": 0}, "at least one picture"), ({"view_s": 0.0}, "positive")])
def test_settings_that_give_no_picture_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        PictureConfig(**wrong)
