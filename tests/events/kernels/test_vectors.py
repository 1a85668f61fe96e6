import numpy as np
from numba import njit

from pauca.events.kernels.vectors import add_spline, copy_four, turn_four


@njit
def _copy(source, first, target, at):
    copy_four(source, first, target, at)


@njit
def _add(target, corner, stride, u, v):
    add_spline(target, corner, stride, u, v)


@njit
def _turn(source, places, target, at, stride):
    turn_four(source, places[0], places[1], places[2], places[3], target, at, stride)


def test_copy_four_copies_four():
    source, target = np.arange(20, dtype=np.float32), np.zeros(9, np.float32)
    _copy(source, 7, target, 3)
    np.testing.assert_array_equal(target, [0, 0, 0, 7, 8, 9, 10, 0, 0])


def test_add_spline_adds_to_nine_pixels():
    u, v = np.float32(0.3), np.float32(-0.2)
    image = np.ones((4, 7), np.float32)
    _add(image.reshape(-1), 8, 7, u, v)  # corner in row 1, column 1
    across, down = ([(0.5 - a) ** 2 / 2, 0.75 - a**2, (0.5 + a) ** 2 / 2] for a in (float(u), float(v)))
    expected = np.ones((4, 7))
    expected[1:4, 1:4] += np.outer(down, across)
    np.testing.assert_allclose(image, expected, rtol=1e-6)


def test_turn_four_writes_columns():
    source, target = np.arange(50, dtype=np.float32), np.full(30, -1, np.float32)
    _turn(source, np.array([0, 40, 10, 5]), target, 2, 8)
    expected = np.full(30, -1.0)
    expected[2:6], expected[10:14], expected[18:22] = [0, 40, 10, 5], [1, 41, 11, 6], [2, 42, 12, 7]
    np.testing.assert_array_equal(target, expected)
