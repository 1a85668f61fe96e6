"""Following a stream: what comes out is as late as promised, and near what is found offline."""

import numpy as np
import pytest

from pauca import events
from pauca.errors import ConfigError
from pauca.events import AlignConfig, Follower, TrajectoryConfig

from .scenes import CAMERA, jittered, rotating_events

SMALL = AlignConfig(packet_events=5_000, min_events=300, border=20)


def _stream(step_us=10_000):
    omega, acceleration = np.array([1.0, 0.0, 0.5]), np.array([0.0, 40.0, 10.0])
    whole = jittered(rotating_events(omega, per_point=150, duration_us=200_000, acceleration=acceleration))
    first_us = int(whole.t_us[0])
    windows = [whole.between(first_us + k * step_us, first_us + (k + 1) * step_us) for k in range(21)]
    return windows, lambda t_us: omega + (t_us[:, None] - 5_100_000) * 1e-6 * acceleration


def test_knots_come_one_knot_late_and_tell_the_motion():
    windows, truth = _stream()
    follower, found = Follower(CAMERA, SMALL), []
    for window in windows:
        for knot in follower.push(window):
            assert follower.newest is not None
            assert knot.end_us <= follower.newest.end_us
            found.append(knot)
    t_us = np.array([knot.t_us for knot in found])
    assert np.all(np.diff(t_us) > 0)
    assert np.all(np.diff(t_us) <= 21_000)
    late = slice(2, None)  # the first windows hold two or three knots
    error = np.array([knot.velocity for knot in found])[late] - truth(t_us[late])
    assert np.abs(error).max() < 0.5
    assert np.sqrt(np.mean(error**2)) < 0.15
    assert events.Trajectory.from_alignments(found).motion == "rotation"


def test_windows_need_not_be_regular():
    windows, truth = _stream(3_000)
    follower, found = Follower(CAMERA, SMALL), []
    for window in [windows[0], windows[1][:0], *windows[1:]]:
        found += follower.push(window)
    error = np.array([knot.velocity for knot in found]) - truth(np.array([knot.t_us for knot in found]))
    assert np.sqrt(np.mean(error**2)) < 1.0


def test_only_as_many_events_are_kept_as_a_window_holds():
    windows, _ = _stream()
    config = AlignConfig(packet_events=5_000, min_events=300, border=20, trajectory=TrajectoryConfig(window=3, step=1))
    follower = Follower(CAMERA, config)
    for window in windows:
        follower.push(window)
    assert len(follower._events) < 0.6 * sum(len(window) for window in windows)


def test_a_translation_cannot_be_followed():
    with pytest.raises(ConfigError, match="rotation"):
        Follower(CAMERA, AlignConfig(motion="translation"))
