"""Windows on top of each other: as sharp as one window, with the events of all."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from pauca.errors import ConfigError
from pauca.events import (
    AlignConfig,
    Aligner,
    Camera,
    GroundTruth,
    SimulateConfig,
    ViewBuilder,
    ViewConfig,
    simulate,
    views,
)
from pauca.events.views import _best_shift

CAMERA = Camera.pinhole((48, 48))


def _turning(deg_s: float, duration_s: float = 0.3, axis=(0.3, 1.0, 0.0), noise_hz: float = 0.5):
    """A camera that turns one way, then back as far."""
    t_s = np.linspace(0, duration_s, 301)
    speed = np.radians(deg_s) * np.sign(duration_s / 2 - t_s)
    motion = GroundTruth(t_s, speed[:, None] * np.array(axis) / np.linalg.norm(axis))
    return simulate(SimulateConfig(scene="shapes", noise_hz=noise_hz, seed=3), camera=CAMERA, motion=motion)


def _sharpness(images) -> float:
    """Mean square of a pixel's count, by what it would be if the same events were spread evenly."""
    return float(np.square(images).sum() / images.sum() ** 2)


@pytest.mark.parametrize("motion", ["rotation", "translation"])
def test_a_view_is_much_sharper_than_its_events_as_the_sensor_saw_them(motion):
    recording = _turning(150.0)
    aligner = Aligner(CAMERA, AlignConfig(motion=motion, border=12))
    view = max(views(aligner, recording.events), key=lambda view: view.n_events)
    assert view.n_events > 1000
    assert _sharpness(view.images) > 1.4 * _sharpness(view.unaligned)
    assert view.unaligned.sum() == pytest.approx(view.n_events, rel=1e-3)


def test_every_event_is_in_one_view_and_views_follow_each_other():
    events = _turning(150.0).events
    found = list(views(Aligner(CAMERA, AlignConfig(border=12)), events, ViewConfig(longest_s=0.12)))
    assert len(found) >= 3
    assert sum(view.n_events for view in found) == len(events)
    assert all(later.start_us >= earlier.end_us for earlier, later in pairwise(found))
    assert all(view.end_us - view.start_us <= 120_000 for view in found)
    assert all(0 <= view.trusted <= 1 for view in found)


def test_a_view_ends_where_the_image_has_moved_too_far():
    recording = _turning(500.0, axis=(0, 1, 0))
    aligner = Aligner(CAMERA, AlignConfig(border=12))
    near = list(views(aligner, recording.events, ViewConfig(longest_s=1.0, farthest=0.2)))
    far = list(
        views(Aligner(CAMERA, AlignConfig(border=12)), recording.events, ViewConfig(longest_s=1.0, farthest=5.0))
    )
    assert len(near) > len(far) == 1


def test_the_image_corrects_what_errors_of_the_motion_add_up_to():
    recording = _turning(150.0)
    aligner = Aligner(CAMERA, AlignConfig(border=12))
    alignments = list(aligner.follow(recording.events))
    sharpness = {}
    for correct in (False, True):
        builder = ViewBuilder(aligner, ViewConfig(longest_s=1.0, farthest=5.0, correct=correct))
        for alignment in alignments:
            window = recording.events.between(alignment.start_us, alignment.end_us + 1)
            builder.add(window, replace(alignment, velocity=alignment.velocity + np.array([0.0, 0.4, 0.0])))
        assert builder.view is not None
        sharpness[correct] = _sharpness(builder.view.images)
    assert sharpness[True] > 1.1 * sharpness[False]


def test_the_best_shift_is_found_within_reach_and_refused_beyond():
    rng = np.random.default_rng(0)
    image = (rng.random((40, 50)) < 0.05) * 3.0
    for x, y in ((0, 0), (3, -2), (-4, 4)):
        moved = np.roll(image, (-y, -x), (0, 1))
        np.testing.assert_allclose(_best_shift(image, moved, 5), (x, y), atol=0.2)
    assert not _best_shift(image, np.roll(image, (-5, 0), (0, 1)), 5).any()


def test_no_events_give_no_view():
    events = _turning(100.0).events[:0]
    assert list(views(Aligner(CAMERA, AlignConfig(border=12)), events)) == []


def test_a_view_without_extent_is_refused():
    with pytest.raises(ConfigError, match="must be positive"):
        ViewConfig(longest_s=0.0)
