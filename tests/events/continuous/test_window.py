"""Windows against the reference, and their gradient against the score itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pauca.events import Frame, NegativeBinomial
from pauca.events.continuous import WindowScorer
from pauca.events.continuous.reference import edge_rotations, score_window
from pauca.events.continuous.window import Window

from ..scenes import CAMERA, random_packet

KNOTS_US = np.array([-50_000.0, -20_000.0, 10_000.0, 50_000.0])
TURNING = np.array([[1.0, 2.0, 0.5], [0.5, 0.3, 0.0], [-1.0, -1.5, 0.5], [-1.0, -2.0, 1.0]])


def _window(seed: int, n: int = 400) -> Window:
    packet = random_packet(seed, n)
    t_us = np.sort(np.round(packet.dt_s * 1e6).astype(np.int64))
    return Window.from_events(t_us, packet.x, packet.y, packet.p, KNOTS_US)


def _scorer(vote="quadratic", blur_sigma=0.5) -> WindowScorer:
    return WindowScorer(Frame(CAMERA, 20), NegativeBinomial(), vote, blur_sigma, unsigned=0.3)


def _assert_agree(scorer, window, velocity):
    fast, slow = scorer(window, velocity), score_window(scorer, window, velocity)
    assert fast.value == pytest.approx(slow.value, rel=2e-5, abs=1e-2)
    np.testing.assert_allclose(fast.gradient, slow.gradient, atol=1e-3 * np.abs(slow.gradient).max() + 1e-6)
    scale = np.sqrt(np.diag(slow.fisher)) + 1e-9
    np.testing.assert_allclose(fast.fisher / np.outer(scale, scale), slow.fisher / np.outer(scale, scale), atol=2e-3)


@given(seed=st.integers(0, 2**32 - 1), motion=st.lists(st.floats(-2, 2), min_size=12, max_size=12))
@settings(max_examples=10, deadline=None)
def test_kernels_agree_with_the_reference(seed, motion):
    velocity = np.array(motion).reshape(4, 3)
    _assert_agree(_scorer(), _window(seed), velocity)


def test_groups_agree_with_the_reference_and_leave_the_images_clean():
    scorer = _scorer()
    for seed, grouped in ((0, True), (1, False), (2, True)):
        window = _window(seed)
        window = window.grouped(TURNING, 60.0) if grouped else window
        assert (window.images > 2) == grouped
        _assert_agree(scorer, window, TURNING)


def test_gradient_is_that_of_the_score():
    scorer = _scorer(blur_sigma=1.0)
    window = _window(3, 2000).grouped(TURNING, 60.0)
    step = np.random.default_rng(0).normal(size=(4, 3)) * 2e-3
    rise = scorer(window, TURNING + step).value - scorer(window, TURNING - step).value
    assert rise == pytest.approx(2 * float(scorer(window, TURNING).gradient @ step.ravel()), rel=0.02)


def test_rotations_at_constant_velocity_are_exact():
    velocity = np.tile([1.0, -2.0, 3.0], (4, 1))
    rotations = edge_rotations(_window(0), velocity)
    whole = rotations[0].T @ rotations[-1]
    np.testing.assert_allclose(whole, Rotation.from_rotvec(0.1 * velocity[0]).as_matrix(), atol=1e-9)


def test_an_event_that_leaves_the_frame_is_counted_out():
    scorer = WindowScorer(Frame(CAMERA, 0), NegativeBinomial(), "quadratic", 0.5, 0.3)
    spinning = np.full((4, 3), 300.0)
    trial = scorer(_window(0), spinning)
    assert np.isfinite(trial.value)
    assert np.all(np.isfinite(trial.gradient))
