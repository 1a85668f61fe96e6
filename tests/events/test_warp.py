import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauca.events import Frame, Packet, Warp, reference

from .scenes import CAMERA, random_packet

FRAME = Frame(CAMERA, border=20)
VECTORS = st.lists(st.floats(-8, 8), min_size=3, max_size=3)  # up to 0.7 rad over the packet


@pytest.mark.parametrize("warp", [Warp("rotation"), Warp("rotation", exact=False), Warp("translation")])
@given(velocity=VECTORS, acceleration=VECTORS)
@settings(deadline=None)  # the first example compiles
def test_warped_pixels_and_chain_rule_agree_with_the_reference(warp, velocity, acceleration):
    packet, k = random_packet(0, n=50), warp.parameters
    velocity, acceleration = np.array(velocity[:k]), np.array(acceleration[:k])
    expected, jacobian = reference.warp_events(packet, FRAME, warp, velocity, acceleration)
    warped = warp.apply(packet, FRAME, velocity, acceleration)
    np.testing.assert_allclose(warped, expected, rtol=1e-5, atol=2e-3)
    slopes = np.random.default_rng(1).normal(size=(2, 50)).astype(np.float32)
    by_motion = warp.slopes_by_motion(packet, FRAME, velocity, acceleration, warped, slopes)
    expected = np.einsum("cn,ckn->kn", slopes, jacobian)
    np.testing.assert_allclose(by_motion, expected, atol=1e-3 * np.abs(expected).max())


def test_at_rest_every_event_stays_where_it_was():
    packet = random_packet(3)
    warped = Warp().apply(packet, FRAME, np.zeros(3))
    fx, fy, cx, cy = FRAME.intrinsics
    np.testing.assert_allclose(warped, [packet.x * fx + cx, packet.y * fy + cy], rtol=1e-6)


def test_rotation_takes_a_seen_point_back():
    """A camera that turns right (about y, down) sees a point move left; the warp moves its events right again."""
    dt = np.array([0.0, 0.02], np.float32)
    x = np.array([0.0, -np.tan(0.02)], np.float32)  # turned by 0.02 rad at 1 rad/s
    packet = Packet(x, np.zeros(2, np.float32), dt, np.zeros(2, np.uint8), 0, 0, 20_000)
    warped = Warp().apply(packet, FRAME, np.array([0.0, 1.0, 0.0]))
    np.testing.assert_allclose(warped[:, 1], warped[:, 0], atol=1e-4)


def test_what_turns_behind_the_camera_leaves_the_frame():
    packet = random_packet(0, n=20)
    warped = Warp().apply(packet, FRAME, np.array([0.0, 60.0, 0.0]))
    expected, _ = reference.warp_events(packet, FRAME, Warp(), np.array([0.0, 60.0, 0.0]), np.zeros(3))
    outside = np.abs(packet.dt_s * 60.0) > 2.2
    np.testing.assert_array_equal(warped[:, outside], -1)
    np.testing.assert_array_equal(expected[:, outside], -1)


def test_frame_adds_its_border():
    assert FRAME.size == (104, 88)
    assert FRAME.intrinsics == (60.0, 62.0, 51.0, 42.0)
