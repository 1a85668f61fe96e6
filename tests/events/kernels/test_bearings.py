import numpy as np

from pauca.events.kernels.bearings import look_up_bearings, seconds_since


def test_each_event_gets_its_pixels_bearing():
    table = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    x, y = np.empty((2, 2), np.float32)
    look_up_bearings(np.array([3, 0], np.uint16), np.array([1, 2], np.uint16), table, x, y)
    np.testing.assert_array_equal([x, y], [table[[1, 2], [3, 0], 0], table[[1, 2], [3, 0], 1]])


def test_a_microsecond_survives_large_clocks():
    """float32 seconds since 1970 have steps of two minutes; the difference is taken before."""
    t_us = np.array([1_700_000_000_000_000, 1_700_000_000_000_001, 1_700_000_000_010_000])
    dt_s = np.empty(3, np.float32)
    seconds_since(t_us, 1_700_000_000_000_000, dt_s)
    np.testing.assert_allclose(dt_s, [0, 1e-6, 1e-2], rtol=1e-6)
