"""What packets that follow each other tell together: a vibration, a reversal, an object that was there before."""

import numpy as np
import pytest

from pauca.events import Status
from pauca.events.consistency import Consistencies, Consistency
from pauca.events.history import History
from pauca.events.packets import Estimate
from pauca.events.types import Packet

PIXELS = np.array([200.0, 200.0, 100.0])
LONG_US = 20_000


def _packet(number):
    start = number * LONG_US
    nothing = np.zeros(2, np.float32)
    return Packet(nothing, nothing, nothing, np.zeros(2, np.uint8), start + LONG_US // 2, start, start + LONG_US)


def _estimate(velocity, acceleration=(0.0, 0.0, 0.0), over_sensor=1.0, status=Status.CONVERGED):
    noise = np.diag([0.01, 0.01, 0.03, 1.0, 1.0, 3.0]) ** 2
    parts = Consistencies(Consistency(1.0, 0.05), Consistency(over_sensor, 0.5))
    point = np.concatenate([velocity, acceleration])
    return Estimate(point, 0.0, noise[:3, :3], status, None, 1, None, noise, parts)


def _judge(estimates):
    history, judged = History(PIXELS), []
    for number, estimate in enumerate(estimates):
        one, history = history.judge(_packet(number), estimate)
        judged.append(one)
    return judged


def test_a_smooth_motion_adds_nothing():
    acceleration = np.array([5.0, -3.0, 1.0])
    at = [np.array([1.0, 2.0, 0.5]) + acceleration * number * LONG_US * 1e-6 for number in range(5)]
    judged = _judge([_estimate(velocity, acceleration) for velocity in at])
    for one in judged:
        assert one.status is Status.CONVERGED
        np.testing.assert_allclose(one.covariance, judged[0].covariance, rtol=1e-6)


def test_what_the_motion_bends_within_a_packet_is_added():
    """Fitted without it, a jerk j falsifies the velocity in the middle of a packet by j T^2 / 40."""
    jerk, seconds = 2000.0, LONG_US * 1e-6
    times = (np.arange(5) - 2) * seconds
    judged = _judge([_estimate([0, jerk * t**2 / 2, 0], [0, jerk * t, 0]) for t in times])
    added = judged[-1].covariance - judged[0].covariance
    assert added[1, 1] == pytest.approx((jerk * seconds**2 / 40) ** 2, rel=1e-6)
    assert added[0, 0] == pytest.approx(0, abs=1e-12)


def test_a_step_that_the_accelerations_do_not_tell_is_disputed():
    """Three packets of a hand's reversal said 73 +- 3 deg/s and were 44 off; those before and after were right."""
    judged = _judge([_estimate([0.0, 0, 0]), _estimate([0.0, 0, 0]), _estimate([1.5, 0, 0])])
    assert [one.status for one in judged] == [Status.CONVERGED, Status.CONVERGED, Status.DISPUTED]
    assert judged[2].covariance[0, 0] > 10 * judged[1].covariance[0, 0]


def test_packets_long_ago_tell_nothing():
    history = History(PIXELS)
    first, history = history.judge(_packet(0), _estimate([0.0, 0, 0]))
    later, _ = history.judge(_packet(10), _estimate([1.5, 0, 0]))
    assert later.status is Status.CONVERGED
    np.testing.assert_array_equal(later.covariance, first.covariance)


def test_after_an_object_its_own_motion_is_not_taken_for_the_cameras():
    """With half of the events on an object that swings, it alone makes events where the camera turns back."""
    object_moves = _estimate([0.1, 0, 0], over_sensor=20.0, status=Status.DISPUTED)
    alone, camera = (_estimate([0.1, 0, 0], over_sensor=ratio) for ratio in (3.0, 1.5))
    assert [one.status for one in _judge([alone, object_moves, alone, camera])] == [
        Status.CONVERGED,
        Status.DISPUTED,
        Status.DISPUTED,
        Status.CONVERGED,
    ]
    late = _judge([object_moves, *[camera] * 6, alone])
    assert late[-1].status is Status.CONVERGED


def test_another_recording_of_an_earlier_time_is_remembered_anew():
    """A clock that starts again once kept every packet since, and called an object of the old recording recent."""
    history = History(PIXELS, _object_us=200 * LONG_US)
    for number in (*range(200, 260), *range(150)):
        one, history = history.judge(_packet(number), _estimate([0.1, 0.2, 0.3], over_sensor=3.0))
    assert one.status is Status.CONVERGED
    assert len(history._past) == 1_000_000 // LONG_US
