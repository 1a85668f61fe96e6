"""The kernels together, against the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauca.events import Contrast, Frame, NegativeBinomial, Packet, Scorer, Warp, reference

from .scenes import CAMERA, random_packet, without_kinks

WARPS = [Warp("rotation"), Warp("rotation", exact=False), Warp("translation")]


def _assert_agree(scorer, packet, velocity, acceleration):
    packet = without_kinks(packet, scorer.frame, scorer.warp, velocity, acceleration)
    fast = scorer(packet, velocity, acceleration)
    smoothing = scorer.vote, scorer.blur_sigma
    slow = reference.score(packet, scorer.frame, scorer.warp, scorer.pixel_score, velocity, acceleration, *smoothing)
    assert fast.inside == slow.inside
    assert fast.value == pytest.approx(slow.value, rel=2e-5, abs=1e-2)
    np.testing.assert_allclose(fast.gradient, slow.gradient, atol=3e-4 * np.abs(slow.gradient).max() + 1e-6)
    scale = np.sqrt(np.diag(slow.fisher)) + 1e-9
    np.testing.assert_allclose(fast.fisher / np.outer(scale, scale), slow.fisher / np.outer(scale, scale), atol=1e-3)


@pytest.mark.parametrize("warp", WARPS)
@pytest.mark.parametrize("pixel_score", [NegativeBinomial(), Contrast()])
@pytest.mark.parametrize(("vote", "blur_sigma"), [("bilinear", 1.0), ("quadratic", 0.5), ("quadratic", 0.8)])
@given(seed=st.integers(0, 2**32 - 1), motion=st.lists(st.floats(-1, 1), min_size=6, max_size=6))
@settings(max_examples=8, deadline=None)
def test_kernels_agree_with_the_reference(warp, pixel_score, vote, blur_sigma, seed, motion):
    scorer, k = Scorer(Frame(CAMERA, 20), warp, pixel_score, vote, blur_sigma), warp.parameters
    motion = np.array(motion)
    _assert_agree(scorer, random_packet(seed), 2 * motion[:k], 40 * motion[k : 2 * k])


def test_images_are_clean_for_the_next_packet():
    scorer = Scorer(Frame(CAMERA, 20))
    for seed in range(3):
        _assert_agree(scorer, random_packet(seed), np.array([1.0, -1.0, 2.0]), np.zeros(3))


def test_events_outside_the_frame_are_worth_a_thin_spread():
    """Leaving must not pay: the score of lost events is what they are worth in an empty image."""
    scorer = Scorer(Frame(CAMERA, 0), Warp("translation"))
    packet, still = random_packet(0), np.zeros(2)
    half, most = scorer(packet, np.array([20.0, 0.0])), scorer(packet, np.array([400.0, 0.0]))
    assert len(packet) > half.inside > most.inside
    assert most.inside < 0.1 * len(packet)
    assert scorer(packet, still).value > half.value > most.value
    _assert_agree(scorer, packet, np.array([20.0, 0.0]), still)


def test_empty_packet_has_the_score_of_an_empty_image():
    scorer = Scorer(Frame(CAMERA, 0))
    nothing = np.zeros(0, np.float32)
    score = scorer(Packet(nothing, nothing, nothing, np.zeros(0, np.uint8), 0, 0, 0), np.zeros(3))
    assert score.value == pytest.approx(2 * 64 * 48 * NegativeBinomial().value(np.zeros(1))[0])
    assert not score.gradient.any()
    assert score.inside == 0


def test_images_hold_every_event_and_show_polarities_apart():
    packet = random_packet(4)
    images = Scorer(Frame(CAMERA, 20)).images(packet, np.zeros(3))
    assert images.shape == (2, 88, 104)
    assert images.sum(axis=(1, 2)) == pytest.approx([np.sum(packet.p == 0), np.sum(packet.p == 1)], rel=1e-5)
