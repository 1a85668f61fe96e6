import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pauca import cli
from pauca.errors import InputError
from pauca.events import GroundTruth, GyroPrior, Status, Trajectory, evaluate
from pauca.events.gyroscope import _covariance, fit_gyro

AXES = Rotation.from_euler("xyz", [100, -30, 45], degrees=True)
BIAS, OFFSET_S, SD = np.radians([2.0, -1.0, 0.5]), -0.0234, np.radians(1.5)


def _motion(t_s: np.ndarray, about=(1.0, 1.0, 1.0)) -> np.ndarray:
    waves = [np.sin(2 * np.pi * f * t_s + phase) for f, phase in ((1.1, 0.3), (0.7, 1.0), (1.7, 2.0))]
    return 3.0 * np.stack(waves, axis=1) * about


def _both(seed: int = 0, about=(1.0, 1.0, 1.0), n: int = 150) -> tuple[Trajectory, GroundTruth]:
    """A camera's velocities with errors, and readings of a gyroscope that is mounted askew, late, and with a bias."""
    rng = np.random.default_rng(seed)
    t_us = 10_000_000 + 20_000 * np.arange(n)
    velocity = _motion(t_us * 1e-6, about) + SD * rng.standard_normal((n, 3))
    whole = np.ones(n, np.int64)
    trajectory = Trajectory(
        "rotation", t_us, velocity, np.tile(np.eye(3) * SD**2, (n, 1, 1)), t_us - 10_000, t_us + 10_000,
        whole, whole, np.ones(n), (Status.CONVERGED,) * n,
    )  # fmt: skip
    t_s = np.arange(9.5, 10.5 + 0.02 * n, 0.001)
    readings = AXES.inv().apply(_motion(t_s, about)) + BIAS + np.radians(0.1) * rng.standard_normal((len(t_s), 3))
    return trajectory, GroundTruth(t_s - OFFSET_S, readings)


def test_offset_mounting_and_bias_lie_in_their_intervals():
    inside = []
    for seed in range(30):
        trajectory, gyro = _both(seed)
        found = fit_gyro(trajectory, gyro, within_s=0.1)
        turn = (AXES * Rotation.from_matrix(found.axes).inv()).as_rotvec(degrees=True)
        wrong = np.concatenate([[found.offset_s - OFFSET_S], turn, found.bias_rad_s - BIAS])
        sd = np.concatenate([[found.offset_sd_s], found.axes_sd_deg, found.bias_sd_rad_s])
        assert abs(wrong[0]) < 1e-3
        assert found.untold == ()
        inside.append(np.abs(wrong) < 1.96 * sd)
    assert 0.88 < np.mean(inside) < 0.995  # 210 of them


def test_applied_it_gives_the_velocity_of_the_camera():
    trajectory, gyro = _both()
    camera = fit_gyro(trajectory, gyro).apply(gyro)
    assert np.abs(camera.omega_rad_s - _motion(camera.t_s)).max() < np.radians(2)


def test_a_few_wrong_velocities_do_no_harm():
    trajectory, gyro = _both()
    velocity = trajectory.velocity.copy()
    velocity[::15] += 8.0
    found = fit_gyro(replace(trajectory, velocity=velocity), gyro)
    assert abs(found.offset_s - OFFSET_S) < 1.5e-3
    assert np.degrees((AXES * Rotation.from_matrix(found.axes).inv()).magnitude()) < 2
    # What is known to be wrong does not count at all.
    status = tuple(Status.STALLED if i % 15 == 0 else Status.CONVERGED for i in range(len(trajectory)))
    marked = fit_gyro(replace(trajectory, velocity=velocity, status=status), gyro)
    assert marked.used == sum(s.trusted for s in status)
    assert abs(marked.offset_s - OFFSET_S) < 5e-4


def test_what_the_motion_does_not_tell_is_said():
    about_one = fit_gyro(*_both(about=(0.0, 1.0, 0.0)))
    assert any("mounting about camera y" in words for words in about_one.untold)
    assert abs(about_one.offset_s - OFFSET_S) < 2e-3
    trajectory, gyro = _both()
    beyond = fit_gyro(trajectory, gyro, within_s=0.01)
    assert any("end of the range" in words for words in beyond.untold)


def test_bad_inputs_are_said():
    trajectory, gyro = _both()
    with pytest.raises(InputError, match="12 are needed; are both on one clock"):
        fit_gyro(trajectory, GroundTruth(gyro.t_s + 1e9, gyro.omega_rad_s))
    nothing = replace(trajectory, status=(Status.DISPUTED,) * len(trajectory))
    with pytest.raises(InputError, match="the trajectory has 0 trusted velocities, and 12 are needed"):
        fit_gyro(nothing, gyro)
    with pytest.raises(InputError, match="hardly turned"):
        fit_gyro(replace(trajectory, velocity=1e-4 * trajectory.velocity), gyro)
    flat = {"velocity": trajectory.velocity[:, :2], "covariance": trajectory.covariance[:, :2, :2]}
    with pytest.raises(InputError, match="translation"):
        fit_gyro(replace(trajectory, motion="translation", **flat), gyro)
    with pytest.raises(InputError, match="within_s"):
        fit_gyro(trajectory, gyro, within_s=0.0)


def test_the_command_says_all_of_it(tmp_path, capsys):
    trajectory, gyro = _both()
    trajectory.to_npz(tmp_path / "trajectory.npz")
    rows = np.column_stack([gyro.t_s, np.zeros((len(gyro.t_s), 3)), gyro.omega_rad_s])
    np.savetxt(tmp_path / "imu.txt", rows, fmt="%.9f")
    words = ["events", "gyro", str(tmp_path / "trajectory.npz"), str(tmp_path / "imu.txt")]
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "ms, to add to its times" in told
    assert "deg/s" in told
    assert cli.main([*words, "--json"]) == 0
    assert abs(json.loads(capsys.readouterr().out)["offset_s"] - OFFSET_S) < 1e-3


def test_what_has_no_slope_at_all_is_not_known():
    """A rotation about one axis alone, without any noise: nothing tells the mounting about that axis."""
    covariance = _covariance(lambda at: np.outer(np.arange(60.0), [1, 1, 1]).ravel() * at[0], np.zeros(7), np.ones(7))
    assert np.isinf(np.diag(covariance)[1:]).all()
    assert np.isfinite(covariance[0, 0])


@pytest.mark.parametrize(("factor", "remedy"), [(57.29578, "--unit deg/s"), (1 / 57.29578, "multiply them by 57.3")])
def test_readings_in_another_unit_are_refused_with_the_remedy(factor, remedy):
    """Degrees a second, taken as rad/s, gave a mounting and a difference of 3,000 deg/s without a word."""
    trajectory, gyro = _both()
    with pytest.raises(InputError, match=remedy):
        fit_gyro(trajectory, GroundTruth(gyro.t_s, gyro.omega_rad_s * factor))


@pytest.mark.parametrize(("rad_s", "noise_rad_s"), [(3.0, 0.01), (0.0, 0.05), (0.0, 0.0)])
def test_a_gyroscope_of_another_motion_is_not_taken_for_another_unit_and_refused(rad_s, noise_rad_s):
    """It was fitted, and the mounting was that of chance."""
    trajectory, gyro = _both()
    rng = np.random.default_rng(1)
    slow = np.stack([np.interp(gyro.t_s, np.arange(9.0, 15.0, 0.4), rng.standard_normal(15)) for _ in range(3)], axis=1)
    other = GroundTruth(gyro.t_s, rad_s * slow + noise_rad_s * rng.standard_normal(gyro.omega_rad_s.shape))
    with pytest.raises(InputError, match="the gyroscope does not turn as the camera: they differ by"):
        fit_gyro(trajectory, other)


@pytest.mark.parametrize("of", ["camera", "gyroscope"])
def test_a_motion_that_noise_hides_does_not_speak_against_the_gyroscope(of):
    """A sound gyroscope was said not to turn as the camera."""
    trajectory, gyro = _both()
    rng, slower = np.random.default_rng(1), 0.003 if of == "camera" else 0.01  # up to 0.5 and 1.7 deg/s about each axis
    velocity = slower * _motion(trajectory.t_s) + (SD if of == "camera" else 0) * rng.standard_normal((150, 3))
    readings = slower * AXES.inv().apply(_motion(gyro.t_s + OFFSET_S))
    readings += np.radians(0.1 if of == "camera" else 3.0) * rng.standard_normal(readings.shape)
    trajectory = replace(trajectory, velocity=velocity, covariance=trajectory.covariance * (1 if of == "camera" else 0))
    with pytest.raises(InputError, match=r"cannot be told: the camera's velocity varies by .* turn the camera faster"):
        fit_gyro(trajectory, GroundTruth(gyro.t_s, readings))


def test_readings_that_cannot_be_compared_with_are_refused():
    trajectory, gyro = _both()
    turned = object.__new__(GroundTruth)  # of which tests would check the shapes first
    vars(turned).update(t_s=gyro.t_s, omega_rad_s=gyro.omega_rad_s.T)
    unknown = gyro.omega_rad_s.copy()
    unknown[60, 1] = np.nan
    for wrong, told in (
        (turned, r"expected \(n,\), \(n, 3\)"),
        (GroundTruth(gyro.t_s[::-1], gyro.omega_rad_s), "velocity 1: time .* sort by time before"),
        (GroundTruth(gyro.t_s, unknown), "velocity 60 of 4000 is no finite number"),
    ):
        for use in (
            lambda gyro: fit_gyro(trajectory, gyro),
            GyroPrior.of_camera,
            lambda gyro: evaluate(trajectory, gyro),
        ):
            with pytest.raises(InputError, match=told):
                use(wrong)
