import numpy as np
import pytest

from pauca.events.kernels.vote import vote_bilinear


def _vote(x, y, p=0):
    images = np.zeros((2, 5 + 8, 6 + 8), np.float32)
    result = vote_bilinear(np.float32([x]), np.float32([y]), np.uint8([p]), 4, images)
    return images[:, 4:-4, 4:-4], result


def test_a_vote_is_shared_by_nearness():
    images, (lost, *box) = _vote(2.25, 3.5, p=1)
    np.testing.assert_allclose(images[1, 3:5, 2:4], [[0.375, 0.125], [0.375, 0.125]])
    assert images.sum() == 1
    assert (lost, box) == (0, [2, 3, 3, 4])


@pytest.mark.parametrize(
    ("x", "y"), [(-0.001, 1), (1, -0.001), (5.0, 1), (1, 4.0), (np.nan, 1), (1, np.nan), (np.inf, 1), (1e30, 1)]
)
def test_events_outside_the_frame_are_counted_and_not_voted(x, y):
    images, (lost, *_) = _vote(x, y)
    assert lost == 1
    assert not images.any()
