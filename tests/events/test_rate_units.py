"""Whether rates in degrees a second are known by the camera's motion: also of slow motions, and of noisy readings."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from pauca.events.rate_units import agreement, doubt_of_unit

MOUNTED = Rotation.from_euler("xyz", [100, -30, 45], degrees=True)
SD = np.radians(1.5)
HOW = "--unit deg/s"


def test_ratio_and_correlation_of_a_motion_and_its_mirror_image():
    shown = np.random.default_rng(0).standard_normal((50, 3))
    np.testing.assert_allclose(agreement(shown, 2 * MOUNTED.apply(shown) + 1), (2, 1))
    assert agreement(shown, -shown).correlation < 0.9
    seen = MOUNTED.apply(shown)
    seen[::10] += 8.0  # a few that are wrong
    np.testing.assert_allclose(agreement(shown, seen), (1, 1), rtol=0.1)


def test_nothing_is_said_of_few_velocities_and_of_none_that_move():
    still = np.zeros((20, 3))
    assert doubt_of_unit([(still, still)], HOW) == ""
    motion = np.random.default_rng(0).standard_normal((5, 3))
    assert doubt_of_unit([(57.3 * motion, motion)], HOW) == ""
    assert doubt_of_unit([], HOW) == ""


@pytest.mark.realdata
def test_by_the_motion_of_a_hand(pauca_data):
    """Seconds of it; the readings are as noisy as the motion capture. By speeds, 4 of 58 were missed."""
    with np.load(pauca_data / "events/mocap/shapes_rotation_groundtruth.npz") as truth:
        t_s, turned = truth["t"], Rotation.from_quat(truth["quat_xyzw"])
    noisy = (turned[:-1].inv() * turned[1:]).as_rotvec() / np.diff(t_s)[:, None]
    t_s, motion = (t_s[:-1] + t_s[1:]) / 2, gaussian_filter1d(noisy, 3, axis=0)
    rng = np.random.default_rng(0)
    begins = np.arange(1.0, 58.0)
    seconds = [begin + np.arange(0, 1, 0.02) for begin in begins]
    seen = [np.stack([np.interp(part, t_s, axis) for axis in motion.T], axis=1) for part in seconds]
    seen = [part + SD * rng.standard_normal(part.shape) for part in seen]
    shown = [
        MOUNTED.inv().apply(np.stack([np.interp(part, t_s, axis) for axis in noisy.T], axis=1)) for part in seconds
    ]
    for i, (gyro, camera) in enumerate(zip(shown, seen, strict=True)):
        assert doubt_of_unit([(gyro, camera)], HOW) == ""
        assert "--unit deg/s" in doubt_of_unit([(np.degrees(gyro), camera)], HOW)
        assert "twice" in doubt_of_unit([(np.radians(gyro), camera)], HOW)
        assert doubt_of_unit([(shown[(i + 17) % len(shown)], camera)], HOW) == ""  # another motion
