from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pauca import cli, events
from pauca.errors import ConfigError, InputError
from pauca.events import Attitude, Camera, Panorama, PanoramaConfig, Recording, Trajectory
from pauca.events.mosaic.closures import Closure, Segment, balance
from pauca.events.mosaic.shelf import Shelf, Shelved

from .test_attitude import trajectory

CAMERA = Camera.pinhole((96, 72))


@pytest.fixture(scope="module")
def pan() -> Recording:
    """Once around, and 60 degrees further: the camera comes back to what it saw first."""
    config = events.SimulateConfig(movement="constant", peak_deg_s=400.0, duration_s=1.05, noise_hz=0.2, seed=1)
    return events.simulate(config, camera=CAMERA)


def _true(recording: Recording, begin_us: int, error: np.ndarray, step_us: int = 5_000) -> Trajectory:
    """The true velocity, and an error of it, rad/s."""
    assert recording.ground_truth is not None
    n = (int(recording.events.t_us[-1]) - begin_us) // step_us
    t_s = (begin_us + step_us * np.arange(n)) * 1e-6
    truth = recording.ground_truth
    velocity = np.stack([np.interp(t_s, truth.t_s, axis) for axis in truth.omega_rad_s.T], axis=1)
    return trajectory(velocity + error, step_us, begin_us)


def _turned(recording: Recording, attitude: Attitude) -> float:
    """Degrees by which the whole turn is wrong."""
    truth = recording.ground_truth
    assert truth is not None
    assert truth.quat_xyzw is not None
    t_us = np.array([attitude.begin_us + 20_000, int(attitude.times_us[-1]) - 20_000])
    found = attitude.at(t_us)
    true = Rotation.from_quat(truth.quat_xyzw[np.searchsorted(truth.t_s, t_us * 1e-6)])
    return float(np.degrees(((found[0].inv() * found[1]).inv() * (true[0].inv() * true[1])).magnitude()))


def test_coming_back_corrects_the_drift(pan):
    wrong = _true(pan, int(pan.events.t_us[0]), np.radians([1.0, 4.0, -2.0]))  # 1 % of the speed, and axes that err
    drifts = events.panorama(pan, wrong, config=PanoramaConfig(close_loops=False))
    assert _turned(pan, drifts.attitude) > 3
    assert (drifts.closures, drifts.drift_deg) == ((), 0.0)
    closed = events.panorama(pan, wrong)
    assert len(closed.closures) > 3
    assert _turned(pan, closed.attitude) < 1.2
    assert closed.drift_deg > 3
    # Sharper, too: the same events fall on fewer pixels.
    assert np.square(closed.images).sum() > 1.1 * np.square(drifts.images).sum()


def test_an_orientation_that_is_right_is_left_alone(pan):
    right = _true(pan, int(pan.events.t_us[0]), np.zeros(3))
    found = events.panorama(pan, right)
    assert _turned(pan, found.attitude) < 0.4
    assert found.drift_deg < 0.5


def test_a_camera_that_never_comes_back_closes_nothing(pan):
    half = replace(pan, events=pan.events[: len(pan.events) // 2])
    found = events.panorama(half, _true(half, int(pan.events.t_us[0]), np.zeros(3)))
    assert found.closures == ()


def test_every_event_lands_where_the_camera_looked(pan):
    attitude_of = _true(pan, int(pan.events.t_us[0]), np.zeros(3))
    found = events.panorama(pan, attitude_of, config=PanoramaConfig(close_loops=False, pixels_per_degree=1.0))
    assert found.images.shape == (2, 180, 360)
    inside = pan.events.between(int(found.attitude.times_us[0]), int(found.attitude.times_us[-1]) + 1)
    assert found.images.sum() == len(inside)
    assert found.images[1].sum() == (inside.p == 1).sum()
    rows = np.flatnonzero(found.images.sum((0, 2)))
    assert rows.min() >= 90 - 26  # half of the 48 degrees from top to bottom, and a little
    assert rows.max() <= 90 + 26
    first = events.panorama(
        replace(pan, events=pan.events[:3000]),
        attitude_of,
        config=PanoramaConfig(close_loops=False, pixels_per_degree=1.0),
    )
    columns = np.flatnonzero(first.images.sum((0, 1)))
    assert abs((columns.min() + columns.max()) / 2 - 180) < 8  # around the middle, where the camera looked first


def test_what_lies_around_the_edge_is_cut_out_in_one_piece():
    images = np.zeros((2, 180, 360), np.float32)
    images[0, 80:90, 350:], images[1, 80:90, :20] = 1, 1
    path = Attitude.from_trajectory(trajectory(np.zeros((3, 3))))
    cropped = Panorama(images, 1.0, path, (), 0.0).cropped(margin=2)
    assert cropped.shape == (2, 14, 30)
    assert cropped.sum() == images.sum()


def test_a_closure_that_contradicts_the_others_is_passed_over():
    turn = np.array([0.0, 0.02, 0.0])
    still = np.eye(3)
    none = Shelved(Shelf(), 0, 0)
    segments = [Segment(i * 100_000, still, none, 0.1 * i) for i in range(100)]
    closures = [Closure(i, (i - 70,), turn * 70 / 70, 9.0) for i in range(70, 100)]
    closures[10] = Closure(80, (10,), np.array([0.5, -0.5, 0.5]), 9.0)
    corrections = balance(segments, closures, 0.005)
    assert np.linalg.norm(corrections[99] - corrections[29] - turn) < 0.002
    assert np.linalg.norm(corrections[80] - corrections[10] - turn) < 0.002
    np.testing.assert_allclose(corrections[0], 0, atol=1e-6)


def test_the_command_writes_a_picture_and_orientations(pan, tmp_path, capsys):
    events.write(tmp_path / "pan.npz", replace(pan, events=pan.events[:60_000]))
    words = ["events", "panorama", str(tmp_path / "pan.npz"), "--out", str(tmp_path / "out"), "--quiet"]
    assert cli.main(words) == 0
    assert (tmp_path / "out" / "panorama.png").stat().st_size > 1000
    assert np.loadtxt(tmp_path / "out" / "orientation.txt").shape[1] == 8
    assert cli.main(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_bad_wishes_are_said(pan):
    with pytest.raises(ConfigError, match="pixels_per_degree"):
        PanoramaConfig(pixels_per_degree=0.0)
    with pytest.raises(ConfigError, match="segment_deg"):
        PanoramaConfig(segment_deg=100.0)
    path = trajectory(np.ones((3, 3)))
    with pytest.raises(InputError, match="camera"):
        events.panorama(pan.events, path)
    with pytest.raises(InputError, match="no events"):
        events.panorama(pan.events[:0], path, CAMERA)
