import numpy as np
from numba import njit

from pauca.events.kernels.sums import LANES
from pauca.events.kernels.vectors import add_spline, any_in_lanes, look_up_lanes, turn_four
from pauca.events.likelihood import NegativeBinomial, tabulate


@njit
def _any(source, first):
    return any_in_lanes(source, first)


@njit
def _look_up(count, at, table, offset, first, slope, sums):
    look_up_lanes(count, at, table, offset, first, slope, sums)


@njit
def _add(target, corner, stride, u, v):
    add_spline(target, corner, stride, u, v)


@njit
def _turn(source, places, target, at, stride):
    turn_four(source, places[0], places[1], places[2], places[3], target, at, stride)


def test_any_in_lanes_finds_each_of_them_and_no_other():
    for place in range(LANES + 2):
        source = np.zeros(LANES + 2, np.float32)
        source[place] = 1e-30
        assert _any(source, 1) == (1 <= place <= LANES)


def test_look_up_lanes_interpolates_as_written_down():
    segments, offset, first = tabulate(NegativeBinomial())
    count = np.random.default_rng(0).exponential(size=LANES + 3).astype(np.float32)
    count[5:9] = 0
    slope, sums = np.full(LANES + 3, 7, np.float32), np.arange(LANES, dtype=np.float32)
    _look_up(count, np.uint32(2), segments.reshape(-1), offset, np.int32(first), slope, sums)
    bits = (count[2:-1] + offset).view(np.int32)
    score, score_step, pixel_slope, slope_step = segments[(bits >> 16) - first].T
    fraction = (bits & 0xFFFF).astype(np.float32) * np.float32(2.0**-16)
    assert np.array_equal(sums, np.arange(LANES, dtype=np.float32) + (score + fraction * score_step))
    assert np.array_equal(slope[2:-1], pixel_slope + fraction * slope_step)
    assert slope[:2].tolist() == slope[-1:].tolist() * 2 == [7, 7]
    assert (slope[5:9] == 0).all()


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
