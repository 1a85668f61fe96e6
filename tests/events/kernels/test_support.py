import numpy as np

from pauca.events.kernels.support import count_blocks, count_supported, find_supported


def _supported(t_us, x, y, asked):
    supported = np.full(len(x), 9, np.uint8)
    find_supported(np.array(t_us), np.array(x, np.uint16), np.array(y, np.uint16), asked, 1000, supported)
    return supported.tolist()


def test_neighbors_in_time_and_space_support_each_other():
    t_us, x, y = [0, 500, 600, 5000, 7000], [3, 4, 9, 3, 3], [3, 3, 3, 3, 3]
    assert _supported(t_us, x, y, np.ones((8, 12), bool)) == [1, 1, 0, 0, 0]


def test_events_of_other_pixels_are_left_out():
    asked = np.ones((8, 12), bool)
    asked[3, 4] = False
    assert _supported([0, 500], [3, 4], [3, 3], asked) == [0, 0]


def test_counts():
    x, y = np.array([0, 7, 8, 18, 19], np.uint16), np.array([0, 0, 0, 9, 9], np.uint16)
    counts = np.zeros(2, np.int64)
    count_blocks(x, y, 8, 2, 1, counts)  # what the blocks leave over belongs to the last ones
    assert counts.tolist() == [2, 3]
    chosen = np.zeros((10, 20), bool)
    chosen[9, 18:] = True
    assert count_supported(x, y, np.array([1, 1, 1, 0, 1], np.uint8), chosen) == 1
