import numpy as np
import pytest

from pauca.events.kernels.vote import vote_bilinear, vote_quadratic

VOTES = [vote_bilinear, vote_quadratic]


def _vote(vote, x, y, p=0):
    images = np.zeros((2, 5 + 8, 6 + 8), np.float32)
    result = vote(np.float32([x]), np.float32([y]), np.uint8([p]), 4, images)
    return images[:, 4:-4, 4:-4], result


def test_a_bilinear_vote_is_shared_by_nearness():
    images, (lost, *box) = _vote(vote_bilinear, 2.25, 3.5, p=1)
    np.testing.assert_allclose(images[1, 3:5, 2:4], [[0.375, 0.125], [0.375, 0.125]])
    assert images.sum() == 1
    assert (lost, box) == (0, [2, 3, 3, 4])


@pytest.mark.parametrize(("x", "y"), [(2.0, 2.0), (2.25, 3.49), (1.5, 1.75), (0.5, 0.5), (4.49, 3.49)])
def test_a_quadratic_vote_has_the_same_mean_and_spread_wherever_it_falls(x, y):
    images, (lost, *box) = _vote(vote_quadratic, x, y, p=1)
    row, column = np.mgrid[0:5, 0:6]
    assert images[0].sum() == 0
    assert images[1].sum() == pytest.approx(1)
    for along, at in ((column, x), (row, y)):
        assert (images[1] * along).sum() == pytest.approx(at, abs=1e-6)
        assert (images[1] * (along - at) ** 2).sum() == pytest.approx(0.25, abs=1e-6)
    voted = np.nonzero(images[1] > 0)
    assert lost == 0
    assert box[0] <= voted[1].min() <= voted[1].max() <= box[1]
    assert box[2] <= voted[0].min() <= voted[0].max() <= box[3]


@pytest.mark.parametrize("vote", VOTES)
@pytest.mark.parametrize(
    ("x", "y"), [(-0.001, 1), (1, -0.001), (5.0, 1), (1, 4.0), (np.nan, 1), (1, np.nan), (np.inf, 1), (1e30, 1)]
)
def test_events_outside_the_frame_are_counted_and_not_voted(vote, x, y):
    images, (lost, *_) = _vote(vote, x, y)
    assert lost == 1
    assert not images.any()
