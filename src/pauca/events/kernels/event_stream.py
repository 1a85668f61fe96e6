"""Event Stream's bytes to events, one after the other."""

from numba import njit


@njit(cache=True, nogil=True)
def decode_dvs(data, time, width, height, t, x, y, p):
    """Events of five bytes or more: time since the last event (7 bits) and polarity, then x and y in 16 bits each.

    A byte of 0xFF adds 127 us and is no event; 0xFE says that events were lost before it.

    Args:
        data: a part of a stream that begins with a whole event.
        time: of the event before, microseconds.
        width, height: of the sensor; events beyond it are counted and left out.
        t, x, y, p: filled.

    Returns:
        How many events were written, how many lie beyond the sensor, how many times events were lost, how many bytes
        belong to whole events, and the time of the last.
    """
    n, beyond, resets, i = 0, 0, 0, 0
    while i < data.size:
        first = data[i]
        if first == 0xFF:
            time += 127
            i += 1
            continue
        if first == 0xFE:
            resets += 1
            i += 1
            continue
        if i + 5 > data.size:
            break
        time += first >> 1
        column, row = data[i + 1] | (data[i + 2] << 8), data[i + 3] | (data[i + 4] << 8)
        i += 5
        if column >= width or row >= height:
            beyond += 1
            continue
        t[n], x[n], y[n], p[n] = time, column, height - 1 - row, first & 1
        n += 1
    return n, beyond, resets, i, time
