"""How far times are out of order, in one pass."""

from numba import njit


@njit(cache=True, nogil=True)
def scan_order(t, last, latest):
    """Look for times that step back.

    Args:
        t: times (int64).
        last: the time before them.
        latest: the latest time before them.

    Returns:
        How many step back from the one before, index of the first that does (-1: none), the largest step back, the
        largest distance behind the latest time, and the latest time.
    """
    count, first, step, late = 0, -1, 0, 0
    for i in range(t.size):
        time = t[i]
        if time < last:
            count += 1
            if first < 0:
                first = i
            if last - time > step:
                step = last - time
        if time >= latest:
            latest = time
        elif latest - time > late:
            late = latest - time
        last = time
    return count, first, step, late, latest
