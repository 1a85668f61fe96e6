"""libcaer's compressed words, as ROS drivers of DAVIS and DVXplorer send them, to events."""

from numba import njit

_TIME_HIGH, _TIME_LOW, _X, _Y, _BASE_Y, _VECTOR_8 = 0, 1, 2, 3, 4, 5  # the four highest of 16 bits


@njit(cache=True, nogil=True)
def decode_compressed(words, t, x, y, p):
    """One message: a word sets the column or a part of the time, is one event, or up to eight of a column.

    Returns:
        How many events were written; times are microseconds since the message's base.
    """
    n, high, low, column, base, polarity = 0, 0, 0, 0, 0, 0
    for word in words:
        kind = word >> 12
        if kind == _Y:
            t[n], x[n], y[n], p[n] = high | low, column, word & 0x7FF, (word >> 11) & 1
            n += 1
        elif kind == _X:
            column = word & 0x7FF
        elif kind == _TIME_LOW:
            low = word & 0xFFF
        elif kind == _TIME_HIGH:
            high = (word & 0xFFF) << 12
        elif kind == _BASE_Y:
            base, polarity = word & 0x7FF, (word >> 11) & 1
        elif kind == _VECTOR_8:
            for bit in range(8):
                if (word >> bit) & 1:
                    t[n], x[n], y[n], p[n] = high | low, column, base + bit, polarity
                    n += 1
            base += 8
    return n
