"""Pixels to bearings by the camera's table, and integer microseconds to float32 seconds."""

from numba import njit


@njit(cache=True, nogil=True)
def look_up_bearings(columns, rows, table, x, y):
    """x, y [n] = table[row, column] (float32 [height, width, 2])."""
    for i in range(columns.size):
        x[i] = table[rows[i], columns[i], 0]
        y[i] = table[rows[i], columns[i], 1]


@njit(cache=True, nogil=True)
def seconds_since(t_us, t_ref_us, dt_s):
    """dt_s [n] float32 = t_us - t_ref_us, subtracted as integers: float32 holds no absolute microseconds."""
    for i in range(t_us.size):
        dt_s[i] = (t_us[i] - t_ref_us) * 1e-6
