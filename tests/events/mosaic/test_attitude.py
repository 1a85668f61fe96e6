from itertools import pairwise

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pauca.errors import InputError
from pauca.events import Attitude, Status, Trajectory


def trajectory(velocity, step_us=10_000, begin_us=5_000_000, status=Status.CONVERGED, motion="rotation") -> Trajectory:
    velocity = np.asarray(velocity, float)
    n, k = velocity.shape
    t_us = begin_us + step_us * np.arange(n)
    whole = np.ones(n, np.int64)
    return Trajectory(
        motion, t_us, velocity, np.tile(np.eye(k) * 1e-4, (n, 1, 1)), t_us - step_us // 2, t_us + step_us // 2,
        whole, whole, np.ones(n), (status,) * n,
    )  # fmt: skip


def test_a_constant_velocity_turns_by_its_rotation_vector():
    omega = np.array([0.3, -2.0, 1.0])
    attitude = Attitude.from_trajectory(trajectory(np.tile(omega, (40, 1))))
    t_us = attitude.begin_us + np.array([0, 12_345, 300_000])
    expected = Rotation.from_rotvec((t_us - attitude.begin_us)[:, None] * 1e-6 * omega)
    assert (attitude.at(t_us).inv() * expected).magnitude().max() < 1e-9


def test_a_velocity_that_changes_is_that_of_fine_steps():
    times = np.arange(60)
    velocity = np.stack([2 * np.sin(times / 9), 3 * np.cos(times / 7), times / 30], axis=1)
    path = trajectory(velocity)
    attitude = Attitude.from_trajectory(path)
    fine_us = np.arange(attitude.begin_us, attitude.begin_us + 500_000, 100)
    omega = path.at(fine_us)
    slow = Rotation.identity()
    for one, other in pairwise(omega):
        slow = slow * Rotation.from_rotvec((one + other) / 2 * 1e-4)
    assert (attitude.at(fine_us[-1:])[0].inv() * slow).magnitude() < 3e-5


def test_rays_are_those_of_the_rotations():
    rng = np.random.default_rng(0)
    attitude = Attitude.from_trajectory(trajectory(rng.normal(0, 20, (30, 3))))
    t_us = np.sort(rng.integers(attitude.begin_us, attitude.begin_us + 290_000, 200))
    x, y = rng.uniform(-0.5, 0.5, (2, 200))
    expected = attitude.at(t_us).apply(np.stack([x, y, np.ones(200)], axis=1))
    np.testing.assert_allclose(attitude.rays(t_us, x, y), expected, atol=3e-5)  # third order of 0.06 rad


def test_corrections_apply_in_the_coordinates_of_the_first_time():
    attitude = Attitude.from_trajectory(trajectory(np.tile([0.0, 2.0, 0.0], (40, 1))))
    turn = np.array([0.0, 0.0, 0.1])
    end_us = int(attitude.times_us[-1])
    corrected = attitude.corrected(np.array([attitude.begin_us, end_us]), np.stack([np.zeros(3), turn]))
    expected = Rotation.from_rotvec(turn) * attitude.at(np.array([end_us]))
    assert (corrected.at(np.array([end_us]))[0].inv() * expected[0]).magnitude() < 1e-9


def test_orientations_are_written_for_the_tools_of_tum(tmp_path):
    path = trajectory(np.tile([0.0, 2.0, 0.0], (40, 1)), begin_us=1_000_000)
    attitude = Attitude.from_trajectory(path)
    attitude.to_tum(tmp_path / "orientation.txt", path.t_us)
    rows = np.loadtxt(tmp_path / "orientation.txt")
    np.testing.assert_allclose(rows[:, 0], path.t_s)
    assert not rows[:, 1:4].any()
    np.testing.assert_allclose(rows[:, 4:], attitude.at(path.t_us).as_quat(), atol=1e-8)
    with pytest.raises(InputError, match="exists already"):
        attitude.to_tum(tmp_path / "orientation.txt")


def test_without_a_rotation_that_can_be_trusted_there_is_no_orientation():
    with pytest.raises(InputError, match="can be trusted"):
        Attitude.from_trajectory(trajectory(np.ones((3, 3)), status=Status.STALLED))
    with pytest.raises(InputError, match="translation"):
        Attitude.from_trajectory(trajectory(np.ones((3, 2)), motion="translation"))
