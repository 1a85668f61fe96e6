import numpy as np
import pytest

from pauca.events import NegativeBinomial, reference
from pauca.events.kernels.image_pass import score_image
from pauca.events.kernels.sums import LANES
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


def _plainly(image, box, taps):
    """Sum and slopes, every pixel looked up, rounded as by the kernel: a row in lanes, then what is left of it."""
    segments, offset, first = tabulate(MODEL)
    radius, (w0, w1, w2) = 1 if taps[2] == 0 else 2, taps

    def blurred(lines, axis):
        b, d, a, e = (np.roll(lines, shift, axis) for shift in (1, -1, 2, -2))
        near = w0 * lines + w1 * (b + d)
        return near if w2 == 0 else near + w2 * (a + e)

    bits = (blurred(blurred(image, 1), 0) + offset).view(np.int32)
    score, score_step, slope, slope_step = np.moveaxis(segments[(bits >> 16) - first], -1, 0)
    fraction = (bits & 0xFFFF).astype(np.float32) * np.float32(2.0**-16)
    value, slope = score + fraction * score_step, slope + fraction * slope_step
    height, width = image.shape[0] - 2 * PAD, image.shape[1] - 2 * PAD
    rows = slice(PAD + max(box[2] - radius, 0), PAD + min(box[3] + radius, height - 1) + 1)
    columns = slice(PAD + max(box[0] - radius, 0), PAD + min(box[1] + radius, width - 1) + 1)
    inside = np.zeros_like(slope)
    inside[rows, columns] = slope[rows, columns]
    total = 0.0
    for line in value[rows, columns]:
        whole = len(line) // LANES * LANES
        lanes = np.zeros(LANES, np.float32)
        for block in line[:whole].reshape(-1, LANES):
            lanes += block
        row = 0.0
        for one in (*lanes.tolist(), *line[whole:].tolist()):
            row += one
        total += row
    return total, blurred(blurred(inside, 1), 0)


@pytest.mark.parametrize("sigma", [0.5, 1.0])
@pytest.mark.parametrize("size", [(90, 40), (64, 20), (50, 33)])
def test_passing_over_what_holds_no_votes_changes_no_bit(size, sigma):
    width, height = size
    rng = np.random.default_rng(width)
    votes = np.zeros((height, width))
    votes[rng.integers(height, size=25), rng.integers(width, size=25)] = rng.exponential(size=25)
    votes[height // 2 :, 3:22] = 0
    votes[0, 0] = votes[-1, -1] = 0.3  # the box is the frame: its last block is cut
    image, box = _padded(votes), (0, width - 1, 0, height - 1)
    expected, slopes = _plainly(image, box, blur_taps(sigma))
    assert score_image(image, PAD, box, blur_taps(sigma), *tabulate(MODEL)) == expected
    assert np.array_equal(image, slopes)
