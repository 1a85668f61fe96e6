"""The focal length, asked of packets: a wrong one is doubted, a right one not, and what nothing tells is not said."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from pauca import cli, events
from pauca.events import AlignConfig, Camera, FocalLength, SimulateConfig, Status
from pauca.events.focal import widened


def _recording(axis=(0.3, 0.9, 0.3), focal=None, deg_s=150.0):
    camera = Camera.pinhole((128, 128), focal)
    config = SimulateConfig(scene="texture", movement="constant", peak_deg_s=deg_s, axis=axis, duration_s=0.3, seed=2)
    return events.simulate(config, camera=camera)


def _wrong(recording, factor):
    camera = recording.camera
    return replace(recording, camera=replace(camera, fx=factor * camera.fx, fy=factor * camera.fy))


def _asked(recording):
    found = list(events.align_packets(recording))
    chosen = events.telling_packets(found, recording.camera.fx).values()
    windows = ((recording.events.between(each.start_us, each.end_us + 1), each) for each in chosen)
    return events.ask_focal_length(windows, recording.camera)


def test_a_right_focal_length_is_not_doubted_and_a_wrong_one_is():
    recording = _recording()
    right = _asked(recording)
    assert right is not None
    assert not right.doubtful
    assert abs(right.factor - 1) < 0.03
    for factor in (1.07, 0.93):
        wrong = _asked(_wrong(recording, factor))
        assert wrong is not None
        assert wrong.doubtful
        assert wrong.factor * factor == pytest.approx(1, abs=0.04)
        assert ("too long" if factor > 1 else "too short") in wrong.in_words()


def test_a_roll_tells_nothing():
    assert _asked(_recording(axis=(0.0, 0.0, 1.0), deg_s=300.0)) is None


@pytest.mark.slow
def test_a_narrow_lens_is_not_doubted():
    found = _asked(_wrong(_recording(focal=600.0, deg_s=40.0), 1.05))
    assert found is None or not found.doubtful


def test_align_says_so_and_widens_its_covariances(caplog):
    recording = _wrong(_recording(), 1.07)
    caplog.set_level(logging.WARNING, "pauca")
    trajectory = events.align(recording)
    assert "too long" in caplog.text
    truth = recording.ground_truth
    at = np.stack([np.interp(trajectory.t_s, truth.t_s, part) for part in truth.omega_rad_s.T], axis=1)
    sigma = np.sqrt(np.diagonal(trajectory.covariance, axis1=1, axis2=2))
    converged = np.array([status is Status.CONVERGED for status in trajectory.status])
    assert np.all(np.abs(trajectory.velocity - at)[converged] < 4 * sigma[converged])
    plain = events.align(recording, config=AlignConfig(acceleration=False))  # is not asked
    assert not np.all(np.abs(plain.velocity[:, 1] - at[0, 1]) < 2 * np.sqrt(plain.covariance[:, 1, 1]))


def test_only_a_doubtful_focal_length_widens():
    trajectory = events.align(_recording())
    assert widened(trajectory, None) is trajectory
    assert widened(trajectory, FocalLength(0.99, 0.01, 16)) is trajectory
    wide = widened(trajectory, FocalLength(0.9, 0.01, 16))
    more = wide.covariance - trajectory.covariance
    assert np.allclose(more[:, 1, 1], (trajectory.velocity[:, 1] / 9) ** 2)
    assert np.all(more[:, 2] == 0)


def test_the_command_says_so_and_writes_the_wider_covariances(tmp_path, capsys):
    recording, medians = _recording(), []
    for name, given in (("right", recording), ("wrong", _wrong(recording, 1.07))):
        events.write(tmp_path / f"{name}.npz", given)
        words = ["events", "align", str(tmp_path / f"{name}.npz"), "--out", str(tmp_path / name), "--images", "1"]
        assert cli.main(words) == 0
        assert ("the focal length seems" in capsys.readouterr().out) == (name == "wrong")
        found = events.Trajectory.from_file(tmp_path / name / "trajectory.npz")
        medians.append(np.median(np.sqrt(found.covariance[:, 1, 1])))
        assert len(list((tmp_path / name).glob("aligned_*.png"))) == 1
    assert medians[1] > 2 * medians[0]
