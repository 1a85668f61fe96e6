import numpy as np
import pytest

from pauca.events.kernels.cells import assign_cells, slopes_in_cells, sum_cells


def test_events_belong_to_the_cell_of_their_time():
    t_us = np.array([0, 1, 499, 500, 1700, 1999, 2000])
    fraction, first = np.empty(7, np.float32), np.empty(5, np.int64)
    assign_cells(t_us, 0.0, 500.0, fraction, first)
    assert first.tolist() == [0, 3, 4, 4, 7]
    np.testing.assert_allclose(fraction, [0, 0.002, 0.998, 0, 0.4, 0.998, 1], atol=1e-6)


def test_events_beyond_the_ends_count_as_there():
    fraction, first = np.empty(2, np.float32), np.empty(3, np.int64)
    assign_cells(np.array([-5, 1005]), 0.0, 500.0, fraction, first)
    assert first.tolist() == [0, 1, 2]
    assert fraction.tolist() == [0, 1]


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [15, 17], [100, 16]])
def test_sums_of_slopes_by_turn(counts):
    rng = np.random.default_rng(sum(counts))
    n, first = sum(counts), np.cumsum([0, *counts])
    px, py, sx, sy = rng.normal(size=(4, n)).astype(np.float32)
    fraction = rng.uniform(size=n).astype(np.float32)
    gradient, fisher = np.empty((3, 3)), np.empty((2, 6))
    sum_cells(px, py, sx, sy, fraction, first, tuple(np.float32([2, 3, 0.5, -0.5])), gradient, fisher)
    bearing = np.stack([(px - 0.5) / 2, (py + 0.5) / 3, np.ones(n)], axis=1).astype(float)
    by_bearing = np.stack([2 * sx, 3 * sy, -(2 * sx * bearing[:, 0] + 3 * sy * bearing[:, 1])], axis=1)
    turn = np.cross(bearing, by_bearing)
    expected = np.zeros((3, 3))
    for cell in range(2):
        mine = slice(first[cell], first[cell + 1])
        expected[cell] += ((1 - fraction[mine, None]) * turn[mine]).sum(0)
        expected[cell + 1] += (fraction[mine, None] * turn[mine]).sum(0)
        products = turn[mine].T @ turn[mine]
        np.testing.assert_allclose(fisher[cell], products[np.triu_indices(3)], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-3)


def test_slopes_of_each_event_add_up_to_the_sums():
    rng = np.random.default_rng(3)
    first, frame = np.array([0, 40, 70]), tuple(np.float32([2, 3, 0.5, -0.5]))
    events = rng.normal(size=(4, 70)).astype(np.float32)
    fraction = rng.uniform(size=70).astype(np.float32)
    slopes, dt_s = np.empty((3, 70), np.float32), np.empty(70, np.float32)
    slopes_in_cells(*events, fraction, first, frame, 1, np.float32(0.5), slopes, dt_s)
    gradient, fisher = np.empty((3, 3)), np.empty((2, 6))
    sum_cells(*events, fraction, first, frame, gradient, fisher)
    np.testing.assert_allclose(slopes.astype(float).sum(axis=1), gradient.sum(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dt_s[:40], (fraction[:40] - 1) / 2, atol=1e-6)
    np.testing.assert_allclose(dt_s[40:], fraction[40:] / 2, atol=1e-6)
