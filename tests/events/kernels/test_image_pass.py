import numpy as np
import pytest

from pauca.events import NegativeBinomial, reference
from pauca.events.kernels.image_pass import score_image
from pauca.events.likelihood import tabulate
from pauca.events.score import PAD, blur_taps, empty

MODEL = NegativeBinomial()


def _padded(votes):
    return np.pad(votes, PAD).astype(np.float32)


def _expected(votes, sigma):
    counts = reference.blur(np.stack([votes, votes]), sigma)
    nothing = np.zeros(1)
    above = MODEL.value(counts) - MODEL.value(nothing) - MODEL.slope(nothing) * counts
    return above[0].sum(), reference.blur(MODEL.slope(counts) - MODEL.slope(nothing), sigma)[0]


@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0])
@pytest.mark.parametrize("box", [(0, 29, 0, 19), (0, 3, 0, 2), (27, 29, 18, 19), (10, 12, 8, 9)])
def test_score_and_slope_of_votes_inside_a_box(box, sigma):
    left, right, top, bottom = box
    votes = np.zeros((20, 30))
    rng = np.random.default_rng(0)
    votes[top : bottom + 1, left : right + 1] = rng.exponential(size=(bottom - top + 1, right - left + 1))
    image = _padded(votes)
    total = score_image(image, PAD, box, blur_taps(sigma), *tabulate(MODEL))
    value, slope = _expected(votes, sigma)
    assert total == pytest.approx(value, rel=1e-4)
    np.testing.assert_allclose(image[PAD:-PAD, PAD:-PAD], slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.5, 1.0])
@pytest.mark.parametrize("box", [(0, 29, 0, 19), (0, 3, 0, 2), (27, 29, 18, 19)])
def test_what_an_image_is_left_with_is_emptied(box, sigma):
    images = np.zeros((2, 28, 38), np.float32)
    left, right, top, bottom = box
    images[:, PAD + top : PAD + bottom + 1, PAD + left : PAD + right + 1] = 1
    for image in images:
        score_image(image, PAD, box, blur_taps(sigma), *tabulate(MODEL))
    assert images.any()
    empty(images, box)
    assert not images.any()
