"""What a simulation can be asked for beyond a hand-held turn: rest, stops, vibration, moving objects, sub-pixels."""

from dataclasses import replace

import numpy as np
import pytest

from pauca.errors import ConfigError
from pauca.events import Aligner, Camera, GroundTruth, SimulateConfig, Status, simulate
from pauca.events.simulation import moving
from pauca.events.simulation.motion import WARM_UP_PIXELS, plain_motion, vibration, with_warm_up

SMALL = Camera.pinhole((96, 72))
QUIET = SimulateConfig(duration_s=0.2, noise_hz=0.0, peak_deg_s=200.0, movement="constant")


@pytest.mark.parametrize("speed", [300.0, 2000.0])
def test_the_first_packet_is_as_right_as_the_others(speed):
    """With pixels that start anywhere between their thresholds it read 257 for 300 and 1,761 for 2,000 deg/s."""
    recording = simulate(replace(QUIET, peak_deg_s=speed, duration_s=30 / speed), camera=Camera.pinhole((180, 136)))
    window = recording.events.between(0, round(1e6 * 4 / speed))  # four degrees: about ten pixels
    found = Aligner(recording.camera).align(window)
    assert found.status is Status.CONVERGED
    assert np.degrees(found.velocity[1]) == pytest.approx(speed, rel=0.03)


def test_a_constant_motion_has_its_full_rate_from_the_start():
    events = simulate(QUIET, camera=SMALL).events
    counts = np.histogram(events.t_us, np.arange(0, 200_001, 20_000))[0]
    assert counts[0] > 0.85 * np.median(counts)


def test_warm_up_comes_at_the_first_velocity_or_brakes_to_it():
    t_s, fast = np.array([1.0, 2.0]), np.array([[0.0, 2.0, 0.0], [0.0, 1.0, 0.0]])
    longer_t_s, longer = with_warm_up(t_s, fast, 200.0)
    assert np.array_equal(longer[:2], [[0, 2, 0], [0, 2, 0]])
    assert longer_t_s[0] == pytest.approx(1.0 - WARM_UP_PIXELS / (200 * 2.0))
    _, resting = with_warm_up(t_s, np.zeros((2, 3)), 200.0)
    assert np.linalg.norm(resting[0]) > 0
    assert not resting[1:].any()


@pytest.mark.parametrize(
    ("movement", "at", "expected"),
    [
        ("rest", 0.5, 0.0),
        ("constant", 0.5, 200.0),
        ("ramp", 0.5, 100.0),
        ("ramp", 1.0, 200.0),
        ("stop-and-go", 0.2, 200.0),
        ("stop-and-go", 0.5, 0.0),
        ("stop-and-go", 0.9, 200.0),
    ],
)
def test_movements(movement, at, expected):
    t_s, omega = plain_motion(movement, 1.0, 200.0, (0.0, 0.0, 2.0))
    assert np.degrees(np.interp(at, t_s, omega[:, 2])) == pytest.approx(expected, abs=1e-9)
    assert not omega[:, :2].any()


def test_vibration_is_added_to_the_movement():
    config = replace(QUIET, vibration_hz=20.0, vibration_deg_s=50.0, vibration_axis=(1.0, 0.0, 0.0))
    truth = simulate(config, camera=SMALL).ground_truth
    assert np.degrees(truth.omega_rad_s[:, 1]) == pytest.approx(200.0)
    assert np.degrees(truth.omega_rad_s[:, 0]) == pytest.approx(50 * np.sin(2 * np.pi * 20 * truth.t_s), abs=1e-6)
    peaks = np.degrees(vibration(np.arange(0, 1, 1e-4), 50.0, 20.0, (0.0, 0.0, 1.0))[:, 2])
    assert peaks.max() == pytest.approx(50, rel=1e-3)


def test_a_camera_at_rest_sees_noise_only():
    config = replace(QUIET, movement="rest", noise_hz=30.0, duration_s=1.0)
    expected = 30.0 * 96 * 72
    assert abs(len(simulate(config, camera=SMALL).events) - expected) < 5 * np.sqrt(expected)
    assert len(simulate(replace(config, noise_hz=0.0), camera=SMALL).events) == 0


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_a_moving_object_makes_its_share_of_the_events(share):
    """Events that one disc holds and that differ from those of the same recording without it."""
    config = replace(QUIET, duration_s=0.3)
    alone, mixed = simulate(config, camera=SMALL).events, simulate(replace(config, moving_object=share), camera=SMALL)
    background = set(zip(alone.t_us.tolist(), alone.x.tolist(), alone.y.tolist(), strict=True))
    columns = mixed.events.t_us.tolist(), mixed.events.x.tolist(), mixed.events.y.tolist()
    other = sum(event not in background for event in zip(*columns, strict=True))
    assert other / len(mixed.events) == pytest.approx(share, abs=0.03)


def test_radius_gives_the_share():
    rng = np.random.default_rng(0)
    background, disc = np.sqrt(rng.uniform(0, 1, 20_000)), np.sqrt(rng.uniform(0, 1, 20_000))  # even over a disc of 1
    assert moving.radius_for_share(background, disc, 0.25) == pytest.approx(0.5, abs=0.01)


def test_undistorted_positions_are_sub_pixel_and_the_camera_a_pinhole():
    config = SimulateConfig(duration_s=0.05)
    raw, straight = simulate(config), simulate(replace(config, undistorted=True))
    assert straight.events.undistorted
    assert straight.camera.distortion == (0.0,) * 5
    x, y = raw.camera.undistort(raw.events.x.astype(float), raw.events.y.astype(float))
    np.testing.assert_allclose(straight.events.x, x * raw.camera.fx + raw.camera.cx, atol=1e-3)
    np.testing.assert_allclose(straight.events.y, y * raw.camera.fy + raw.camera.cy, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moving_object": 0.6}, "share from 0 to 0.5"),
        ({"axis": (0.0, 0.0, 0.0)}, "has no direction"),
        ({"vibration_hz": 20.0}, "needs both"),
    ],
)
def test_impossible_wishes(changes, message):
    with pytest.raises(ConfigError, match=message):
        SimulateConfig(**changes)


def test_a_given_motion_may_vibrate_too():
    motion = GroundTruth(np.array([0.0, 0.1]), np.zeros((2, 3)))
    config = replace(QUIET, vibration_hz=20.0, vibration_deg_s=100.0)
    assert len(simulate(config, camera=SMALL, motion=motion).events) > 1000
