"""The small parts of the trajectory estimator: groups, prior, knots, rest, blend."""

from itertools import pairwise

import numpy as np
import pytest

from pauca.events import Frame, NegativeBinomial, Packet, Status, TrajectoryConfig
from pauca.events.continuous import WindowScorer
from pauca.events.continuous.blend import Blend, Fit
from pauca.events.continuous.dispute import persistent
from pauca.events.continuous.estimator import KnottedEvents, is_lost, spans
from pauca.events.continuous.fit import KnotEstimator, _covariance
from pauca.events.continuous.groups import directions_of_motion
from pauca.events.continuous.knots import SMOOTH_JERK, knot_time, place_knots
from pauca.events.continuous.prior import jerk_strength, precision
from pauca.events.continuous.rest import rest_information, resting_intervals, runs, score_test
from pauca.events.continuous.window import Window
from pauca.events.newton import Trial
from pauca.events.score import REST_CHI2

from ..scenes import CAMERA, rotating_events


def test_a_reversal_begins_a_group_and_a_change_of_speed_does_not():
    pan = np.stack([np.zeros(9), np.linspace(2, -2, 9), np.zeros(9)], axis=1)
    assert directions_of_motion(pan, 60.0).tolist() == [0] * 5 + [1] * 4
    assert directions_of_motion(np.zeros((5, 3)), 60.0).tolist() == [0] * 5
    assert directions_of_motion(np.abs(pan) + np.array([0, 0.1, 0]), 60.0).tolist() == [0] * 9


def test_a_circle_passes_through_groups():
    angle = np.radians(np.arange(0, 360, 10))
    around = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    assert directions_of_motion(around, 89.0)[-1] == 3


def test_prior_is_indifferent_to_straight_motion_and_scales_with_its_strength():
    knots_s = np.array([0.0, 0.01, 0.03, 0.04])
    straight = np.outer(knots_s, [1.0, 2.0, 3.0]) + np.array([5.0, 6.0, 7.0])
    bent = straight.copy()
    bent[2] += 1.0
    weak, strong = precision(knots_s, 200.0), precision(knots_s, 100.0)
    assert straight.ravel() @ weak @ straight.ravel() == pytest.approx(0, abs=1e-9)
    assert bent.ravel() @ strong @ bent.ravel() == pytest.approx(4 * (bent.ravel() @ weak @ bent.ravel()))


def test_strength_of_a_jerk_is_found():
    rng = np.random.default_rng(0)
    t_s = np.arange(0, 60, 1e-3)
    acceleration = np.cumsum(100 * np.sqrt(1e-3) * rng.normal(size=(len(t_s), 3)), axis=0)
    assert jerk_strength(t_s, np.cumsum(acceleration, axis=0) * 1e-3) == pytest.approx(100, rel=0.1)


def test_knots_follow_the_path_and_the_clock():
    config = TrajectoryConfig(knot_pixels=4.0, knot_s=0.02)
    velocity = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    t_us = np.array([0, 400_000, 400_001, 800_000])
    knots_us = place_knots(t_us, velocity, 0, 800_000, 800.0, config, np.full(4, SMOOTH_JERK))
    assert knots_us[[0, -1]].tolist() == [0, 800_000]
    gaps = np.diff(knots_us)
    np.testing.assert_allclose(gaps[:10], 5_000, rtol=0.05)  # 800 pixels a second
    np.testing.assert_allclose(gaps[-10:], 20_000, rtol=0.05)


def test_a_motion_that_shakes_has_knots_closer_together():
    assert knot_time(np.array([0.0, SMOOTH_JERK, 32 * SMOOTH_JERK]), 0.02).tolist() == pytest.approx(
        [0.02, 0.02, 0.005]
    )
    assert knot_time(np.array([0.0, SMOOTH_JERK]), 0.02, 3.0).tolist() == pytest.approx([0.06, 0.02])
    t_us, still = np.array([0, 100_000]), np.zeros((2, 3))
    knots_us = place_knots(t_us, still, 0, 100_000, 800.0, TrajectoryConfig(), np.full(2, 32 * SMOOTH_JERK))
    np.testing.assert_allclose(np.diff(knots_us), 5_000)


@pytest.mark.parametrize("intervals", [1, 3, 6, 7, 8, 20])
def test_windows_hold_every_interval(intervals):
    found = list(spans(intervals, TrajectoryConfig()))
    assert found[0][0] == 0
    assert found[-1][1] == intervals
    assert all(last - first <= 6 for first, last in found)
    assert all(b[0] < a[1] for a, b in pairwise(found))


def _still(seed):
    """Noise of a sensor at rest."""
    rng = np.random.default_rng(seed)
    t_us = np.sort(rng.integers(0, 20_000, 900))
    x, y = rng.integers(0, 64, len(t_us)), rng.integers(0, 48, len(t_us))
    return Window.from_events(
        t_us,
        ((x - CAMERA.cx) / CAMERA.fx).astype(np.float32),
        ((y - CAMERA.cy) / CAMERA.fy).astype(np.float32),
        rng.integers(0, 2, len(t_us)).astype(np.uint8),
        np.array([0.0, 20_000.0]),
    )


def test_the_score_test_tells_noise_from_motion():
    scorer = WindowScorer(Frame(CAMERA, 20), NegativeBinomial(), "quadratic", 0.5, 0.3)
    assert max(score_test(scorer, _still(seed)) for seed in range(20)) < REST_CHI2
    window = rotating_events([1.0, -2.0, 3.0])
    x, y = (window.x - CAMERA.cx) / CAMERA.fx, (window.y - CAMERA.cy) / CAMERA.fy
    moving = Window.from_events(window.t_us, x, y, window.p, window.t_us[[0, -1]].astype(float))
    assert score_test(scorer, moving) > 10 * REST_CHI2


def test_rest_must_hold_for_neighbors_together():
    knots_us = np.arange(6) * 20_000.0
    slow = np.array([True, True, True, True, False])
    alone = resting_intervals(slow, knots_us, lambda i, j: j == i + 1)  # a creep: only together it shows
    assert not alone.any()
    assert resting_intervals(slow, knots_us, lambda i, j: True).tolist() == slow.tolist()
    assert runs(np.ones(7, bool), np.arange(8) * 20_000.0) == [(0, 5), (5, 7)]


def test_a_knot_where_rest_ends_is_pinned_less():
    rest = np.array([False, True, True, True, False])
    information = rest_information(rest, np.arange(6) * 20_000.0, 200.0)[:, 0, 0]
    np.testing.assert_allclose(information, np.square([0, 4, 12, 12, 4, 0]))
    np.testing.assert_allclose(rest_information(np.ones(2, bool), np.arange(3) * 20_000.0, 200.0)[:, 0, 0], 64)


def test_scatter_between_windows_is_part_of_the_covariance():
    blend = Blend(7)
    small = np.tile(np.eye(3) * 1e-6, (5, 1, 1))
    for first in range(3):
        blend.add(Fit(first, np.full((5, 3), float(first)), small, float(first), Status.CONVERGED, 1))
    velocity, covariance = blend.moments()
    np.testing.assert_allclose(velocity[3], 1.0)  # in the middle of the second window; weights 1/4, 1 and 1/4
    np.testing.assert_allclose(np.diag(covariance[3]), 2 / 3, rtol=1e-3)
    np.testing.assert_allclose(np.diag(covariance[0]), 1e-6)
    assert blend.score.tolist() == [0, 0, 0, 1, 2, 2, 2]


def test_what_many_knots_nearby_are_called_all_are():
    disputed = np.array([True, False, False] * 4 + [False] * 20)
    found = persistent(disputed, np.arange(32) * 20_000.0)
    assert found[:8].all()
    assert not found[14:].any()


def test_thinned_events_weigh_as_much_as_all():
    """Every second of them, with a weight of two: the gradient points where that of all does, and is of its size; not
    equal to it, since the score is not linear in the events."""
    scorer = WindowScorer(Frame(CAMERA, 20), NegativeBinomial(), "quadratic", 0.5, 0.3)
    whole = rotating_events([1.0, -2.0, 3.0], per_point=300)
    knots_us = np.array([whole.t_us[0], whole.t_us[-1] + 1], float)

    def bearings(part):
        x, y = np.float32([(part.x - CAMERA.cx) / CAMERA.fx, (part.y - CAMERA.cy) / CAMERA.fy])
        return Packet(x, y, np.zeros_like(x), part.p, 0, 0, 0)

    place = np.searchsorted(whole.t_us, knots_us)
    all_, half = (
        KnottedEvents(whole, bearings, knots_us, place, most).window(0, 1) for most in (None, len(whole) // 2)
    )
    assert (all_.weight, half.weight) == (1, 2)
    assert len(half.x) == pytest.approx(len(all_.x) / 2, abs=1)
    velocity = np.tile([0.5, -1.0, 1.5], (2, 1))
    a, b = (scorer(window, velocity) for window in (all_, half))
    sizes = np.linalg.norm(2 * b.gradient), np.linalg.norm(a.gradient)
    assert 2 * b.gradient @ a.gradient / (sizes[0] * sizes[1]) > 0.99
    assert 0.6 < sizes[0] / sizes[1] < 1.7


def test_curvature_is_learned_from_steps_that_tell():
    scorer = WindowScorer(Frame(CAMERA, 20), NegativeBinomial(), "quadratic", 0.5, 0.3)
    estimator = KnotEstimator(scorer, TrajectoryConfig())
    fisher, moved = np.eye(2), np.array([4.0, 0.0])
    begin, end = Trial(0.0, np.array([12.0, 0.0]), fisher), Trial(24.0, np.zeros(2), fisher)
    estimator._learn(False, moved, begin, end)  # the gradient falls by three times what the Fisher matrix says
    assert estimator._seen[False] == pytest.approx(np.sqrt(2 * 3))
    estimator._learn(False, moved / 100, begin, end)
    assert estimator._seen[False] == pytest.approx(np.sqrt(2 * 3))


def test_a_curvature_of_rounding_errors_and_knots_at_one_time_are_lost_without_a_warning():
    """Of knots a tenth of a millisecond apart deviations were no numbers, and numpy said so on standard error."""
    nearly_singular = np.diag([1.0, 1e-9, 1.0])
    told = _covariance(nearly_singular, np.diag([1.0, -1e-12, 1.0]))
    assert np.isinf(told).all()
    assert np.array_equal(_covariance(np.eye(3), np.eye(3))[0], np.eye(3))
    assert is_lost(np.full((2, 3, 3), np.inf), np.array([0.0, 0.01]), 200.0).all()
