"""The reference is the oracle of the kernels; finite differences are the oracle of the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pauca.events import Contrast, Frame, NegativeBinomial, Warp, reference

from .scenes import CAMERA, random_packet, without_kinks

FRAME = Frame(CAMERA, border=30)
WARPS = [Warp("rotation"), Warp("rotation", exact=False), Warp("translation")]


@pytest.mark.parametrize("warp", WARPS)
@pytest.mark.parametrize("pixel_score", [NegativeBinomial(), Contrast()])
@given(seed=st.integers(0, 2**32 - 1), motion=st.lists(st.floats(-1, 1), min_size=6, max_size=6))
@settings(max_examples=20, deadline=None)
def test_gradient_agrees_with_finite_differences(warp, pixel_score, seed, motion):
    k = warp.parameters
    scale = np.repeat([2.0, 40.0], k)  # rad/s and rad/s^2, or focal lengths
    point = np.array(motion)[: 2 * k] * scale
    packet = without_kinks(random_packet(seed, n=100), FRAME, warp, point[:k], point[k:])

    def score(at):
        return reference.score(packet, FRAME, warp, pixel_score, at[:k], at[k:])

    here, steps = score(point), np.diag(scale * 1e-6)
    differences = [(score(point + step).value - score(point - step).value) / (2 * step.sum()) for step in steps]
    np.testing.assert_allclose(differences, here.gradient, rtol=1e-4, atol=1e-5 * np.abs(here.gradient).max())


def test_exact_warp_is_the_exponential_map():
    packet, omega = random_packet(1), np.array([1.0, -2.0, 5.0])
    warped, _ = reference.warp_events(packet, FRAME, Warp("rotation"), omega, np.zeros(3))
    bearings = np.stack([packet.x, packet.y, np.ones_like(packet.x)], axis=1).astype(float)
    points = Rotation.from_rotvec(packet.dt_s[:, None].astype(float) * omega).apply(bearings)
    fx, fy, cx, cy = FRAME.intrinsics
    np.testing.assert_allclose(warped, [fx * points[:, 0] / points[:, 2] + cx, fy * points[:, 1] / points[:, 2] + cy])


def test_first_order_warp_is_the_papers():
    packet, omega = random_packet(1), np.array([1.0, -2.0, 5.0])
    warped, _ = reference.warp_events(packet, FRAME, Warp("rotation", exact=False), omega, np.zeros(3))
    bearings = np.stack([packet.x, packet.y, np.ones_like(packet.x)], axis=1).astype(float)
    points = bearings + packet.dt_s[:, None] * np.cross(omega, bearings)
    fx, fy, cx, cy = FRAME.intrinsics
    np.testing.assert_allclose(warped, [fx * points[:, 0] / points[:, 2] + cx, fy * points[:, 1] / points[:, 2] + cy])


def test_votes_and_blur_keep_the_mass():
    packet = random_packet(2)
    warped, _ = reference.warp_events(packet, FRAME, Warp("translation"), np.zeros(2), np.zeros(2))
    images, inside = reference.vote(warped, packet.p, FRAME)
    assert inside.all()
    assert images.sum(axis=(1, 2)) == pytest.approx([np.sum(packet.p == 0), np.sum(packet.p == 1)])
    assert reference.blur(images).sum() == pytest.approx(len(packet))


def test_blur_is_its_own_adjoint():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2, 12, 15))
    assert np.vdot(reference.blur(a), b) == pytest.approx(np.vdot(a, reference.blur(b)))
