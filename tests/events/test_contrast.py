import numpy as np

from pauca.events import Contrast


def test_sum_of_squares_orders_images_as_their_variance_does():
    rng = np.random.default_rng(3)
    images = rng.exponential(size=(20, 100))
    images /= images.sum(axis=1, keepdims=True)
    scores = Contrast().value(images).sum(axis=1)
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(images.var(axis=1)))


def test_slope_is_the_derivative():
    assert Contrast().slope(np.array([3.0]))[0] == 6.0
