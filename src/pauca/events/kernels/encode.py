"""Events to bytes: Prophesee's EVT2, EVT3 and DAT, and lines of text; each is what its decoder reads back."""

import numpy as np
from numba import njit

_TIME_HIGH, _ADDRESS_Y, _ADDRESS_X, _TIME_LOW = 0x8000, 0x0000, 0x2000, 0x6000  # EVT3
_SECOND = 1_000_000

WORDS_EVT2, WORDS_EVT3 = 2, 4  # words that one event may take; clocks that run over take more


@njit(cache=True, nogil=True)
def encode_evt2(t, x, y, p, high, words):
    """EVT2: a word for each event, after one for the high part of its time where that is new.

    Args:
        t, x, y, p: events; times in microseconds, less than 2**34 after the last time that was written.
        high: high part of the time that was written last (t >> 6); -1 for none.
        words: filled (uint32).

    Returns:
        How many words were written, and the high part of the last time.
    """
    n = 0
    for i in range(t.size):
        new = t[i] >> 6
        if new != high:
            words[n] = np.uint32(0x80000000 | (new & 0xFFFFFFF))
            high = new
            n += 1
        kind = np.int64(1 if p[i] else 0)
        words[n] = np.uint32(kind << 28 | (t[i] & 0x3F) << 22 | np.int64(x[i]) << 11 | np.int64(y[i]))
        n += 1
    return n, high


@njit(cache=True, nogil=True)
def encode_evt3(t, x, y, p, state, words):
    """EVT3: a word for each event, after those that set what is new of its time and row.

    Args:
        t, x, y, p: events; times in microseconds, less than 2**23 after the last time that was written.
        state: what was written last: t >> 12, t & 4095 and y; -1 for none. It is brought up to date.
        words: filled (uint16).

    Returns:
        How many words were written.
    """
    n = 0
    high, low, row = state[0], state[1], state[2]
    for i in range(t.size):
        new = t[i] >> 12
        if new != high:
            words[n] = np.uint16(_TIME_HIGH | (new & 0xFFF))
            high, low = new, -1
            n += 1
        if (t[i] & 0xFFF) != low:
            low = t[i] & 0xFFF
            words[n] = np.uint16(_TIME_LOW | low)
            n += 1
        if np.int64(y[i]) != row:
            row = np.int64(y[i])
            words[n] = np.uint16(_ADDRESS_Y | row)
            n += 1
        words[n] = np.uint16(_ADDRESS_X | (0x800 if p[i] else 0) | np.int64(x[i]))
        n += 1
    state[0], state[1], state[2] = high, low, row
    return n


@njit(cache=True, nogil=True)
def encode_dat(t, x, y, p, words):
    """DAT: two words for each event, its time and its address."""
    for i in range(t.size):
        words[2 * i] = np.uint32(t[i] & 0xFFFFFFFF)
        kind = np.int64(1 if p[i] else 0)
        words[2 * i + 1] = np.uint32(kind << 28 | np.int64(y[i]) << 14 | np.int64(x[i]))


BYTES_A_LINE = 48  # at most: a time of 20 digits, pixels of 5, blanks


@njit(cache=True, nogil=True)
def _write_number(value, digits, out, i):
    """A number that is not negative, with at least so many digits; where it ends."""
    length, rest = 1, value
    while rest >= 10:
        rest //= 10
        length += 1
    length = max(length, digits)
    for place in range(length):
        out[i + length - 1 - place] = 48 + value % 10
        value //= 10
    return i + length


@njit(cache=True, nogil=True)
def format_lines(t, x, y, p, separator, out):
    """Lines `t x y p`, the time in seconds with six decimals.

    Args:
        t, x, y, p: events.
        separator: a byte.
        out: filled (uint8).

    Returns:
        How many bytes were written.
    """
    i = 0
    for k in range(t.size):
        time = t[k]
        if time < 0:
            out[i] = 45
            i, time = i + 1, -time
        i = _write_number(time // _SECOND, 1, out, i)
        out[i] = 46
        i = _write_number(time % _SECOND, 6, out, i + 1)
        out[i] = separator
        i = _write_number(np.int64(x[k]), 1, out, i + 1)
        out[i] = separator
        i = _write_number(np.int64(y[k]), 1, out, i + 1)
        out[i], out[i + 1], out[i + 2] = separator, 49 if p[k] else 48, 10
        i += 3
    return i
