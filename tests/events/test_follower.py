"""Following a stream: what comes out is as late as promised, and near what is found offline."""

import numpy as np
import pytest

from pauca import events
from pauca.errors import ConfigError
from pauca.events import AlignConfig, Follower, SimulateConfig, Status, TrajectoryConfig

from .scenes import CAMERA, jittered, rotating_events

SMALL = AlignConfig(packet_events=5_000, min_events=300, border=20)


def _stream(step_us=10_000):
    omega, acceleration = np.array([1.0, 0.0, 0.5]), np.array([0.0, 40.0, 10.0])
    whole = jittered(rotating_events(omega, per_point=150, duration_us=200_000, acceleration=acceleration))
    first_us = int(whole.t_us[0])
    windows = [whole.between(first_us + k * step_us, first_us + (k + 1) * step_us) for k in range(21)]
    return windows, lambda t_us: omega + (t_us[:, None] - 5_100_000) * 1e-6 * acceleration


def test_knots_come_in_time_and_tell_the_motion():
    windows, truth = _stream()
    follower, found = Follower(CAMERA, SMALL), []
    for window in windows:
        for knot in follower.push(window):
            assert follower.newest is not None
            assert knot.t_us < window.t_us[-1]
            found.append(knot)
    t_us = np.array([knot.t_us for knot in found])
    assert np.all(np.diff(t_us) > 0)
    assert np.all(np.diff(t_us) <= 21_000)
    late = slice(2, None)  # the first windows hold two or three knots
    error = np.array([knot.velocity for knot in found])[late] - truth(t_us[late])
    assert np.abs(error).max() < 0.5
    assert np.sqrt(np.mean(error**2)) < 0.15
    assert events.Trajectory.from_alignments(found).motion == "rotation"


@pytest.mark.parametrize(("step_us", "delay_s"), [(10_000, 0.02), (4_000, 0.02), (10_000, 0.05)])
def test_no_knot_waits_longer_than_promised(step_us, delay_s):
    windows, _ = _stream(step_us)
    follower, given_us = Follower(CAMERA, SMALL, delay_s), []
    for window in windows[:10]:
        known = [knot.t_us for knot in follower.push(window)]
        assert all(int(window.t_us[-1]) - t_us <= delay_s * 1e6 for t_us in known)
        given_us += known
    assert len(given_us) == len(set(given_us)) > 0


def test_the_end_of_a_stream_is_given_by_flush_and_another_may_follow():
    windows, truth = _stream()
    follower = Follower(CAMERA, SMALL)
    for _ in range(2):
        found = [knot for window in windows for knot in follower.push(window)]
        known_us = found[-1].t_us
        rest = follower.flush()
        assert [knot.t_us for knot in rest] == sorted(knot.t_us for knot in rest)
        assert known_us < rest[0].t_us
        assert rest[-1].t_us == max(int(window.t_us[-1]) for window in windows if len(window))
        error = rest[-1].velocity - truth(np.array([rest[-1].t_us]))[0]
        assert np.abs(error).max() < 0.5
    assert follower.flush() == []


def test_rest_is_rest_and_never_motion():
    motion = SimulateConfig(scene="shapes", movement="rest", duration_s=0.2, noise_hz=2.0, seed=4)
    recording = events.simulate(motion)
    follower, found, first_us = Follower(recording.camera), [], int(recording.events.t_us[0])
    for k in range(20):
        found += follower.push(recording.events.between(first_us + k * 10_000, first_us + (k + 1) * 10_000))
    found += follower.flush()
    assert Status.REST in {knot.status for knot in found}
    assert all(np.linalg.norm(knot.velocity) < np.radians(1.0) for knot in found if knot.status.trusted)


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


def test_what_cannot_be_followed_is_refused():
    with pytest.raises(ConfigError, match="delay_s"):
        Follower(CAMERA, delay_s=0.0)
    with pytest.raises(ConfigError, match="rotation"):
        Follower(CAMERA, AlignConfig(motion="translation"))
