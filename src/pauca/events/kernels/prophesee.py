"""Prophesee's binary streams, EVT2, EVT2.1, EVT3 and DAT, to events, one word after the other.

Each decoder takes a part of a stream and the `state` (int64) that the part before it left, zeros at first, and returns
how many events it wrote. In the state it counts the events that it had to skip because no time had come before them,
and the words of no known type.
"""

import numpy as np
from numba import njit

STATE = 9
"""Numbers of a decoder's state: two counts, then what the words before have said."""

EARLY, UNKNOWN = 0, 1

# Types of words, the four highest bits. EVT2: 32 bits; EVT3: 16 bits.
_EVT2_OFF, _EVT2_ON, _EVT2_TIME_HIGH = 0x0, 0x1, 0x8
_EVT2_IGNORED = (0xA, 0xE, 0xF)  # external trigger, others, continued

_EVT3_Y, _EVT3_X, _EVT3_BASE_X, _EVT3_VECTOR_12, _EVT3_VECTOR_8 = 0x0, 0x2, 0x3, 0x4, 0x5
_EVT3_TIME_LOW, _EVT3_TIME_HIGH = 0x6, 0x8
_EVT3_IGNORED = (0x7, 0xA, 0xE, 0xF)  # continued 4, external trigger, others, continued 12

_NUMBER_OF_BIT = np.zeros(13, np.uint8)  # of a power of two by its rest: 2 is a primitive root of 13
_NUMBER_OF_BIT[[(1 << bit) % 13 for bit in range(12)]] = np.arange(12)


@njit(cache=True, nogil=True)
def decode_evt2(words, state, t, x, y, p):
    """EVT2: type 4, low time 6, x 11, y 11 bits; or type 4, high time 28 bits."""
    n, early, unknown = 0, state[0], state[1]
    high, rollover, has_time = state[2], state[3], state[4] != 0
    for word in words:
        kind = word >> 28
        if kind in (_EVT2_OFF, _EVT2_ON):
            if not has_time:
                early += 1
                continue
            t[n] = rollover + (high << 6) + ((word >> 22) & 0x3F)
            x[n] = (word >> 11) & 0x7FF
            y[n] = word & 0x7FF
            p[n] = kind
            n += 1
        elif kind == _EVT2_TIME_HIGH:
            new = np.int64(word & 0xFFFFFFF)
            if has_time and new < high - (1 << 27):
                rollover += 1 << 34
            high, has_time = new, True
        elif kind not in _EVT2_IGNORED:
            unknown += 1
    state[0], state[1], state[2], state[3], state[4] = early, unknown, high, rollover, int(has_time)
    return n


@njit(cache=True, nogil=True)
def count_evt21(words, type_shift, valid_shift):
    """How many events an EVT2.1 stream holds: each word carries up to 32 of one row."""
    n = 0
    for word in words:
        if (word >> np.uint64(type_shift)) & np.uint64(0xF) in (_EVT2_OFF, _EVT2_ON):
            valid = (word >> np.uint64(valid_shift)) & np.uint64(0xFFFFFFFF)
            while valid:
                valid &= valid - np.uint64(1)
                n += 1
    return n


@njit(cache=True, nogil=True)
def decode_evt21(words, type_shift, valid_shift, state, t, x, y, p):
    """EVT2.1: type 4, low time 6, x 11, y 11 bits, and which of the 32 pixels from x on had an event.

    Args:
        words: uint64.
        state: see above.
        type_shift, valid_shift: 60 and 0; 28 and 32 in files of the legacy order of the halves.
    """
    n, early, unknown = 0, state[0], state[1]
    high, rollover, has_time = state[2], state[3], state[4] != 0
    for word in words:
        kind = np.int64((word >> np.uint64(type_shift)) & np.uint64(0xF))
        said = np.int64((word >> np.uint64(type_shift - 28)) & np.uint64(0xFFFFFFF))
        if kind in (_EVT2_OFF, _EVT2_ON):
            valid = np.int64((word >> np.uint64(valid_shift)) & np.uint64(0xFFFFFFFF))
            for bit in range(32):
                if not (valid >> bit) & 1:
                    continue
                if not has_time:
                    early += 1
                    continue
                t[n] = rollover + (high << 6) + (said >> 22)
                x[n], y[n], p[n] = ((said >> 11) & 0x7FF) + bit, said & 0x7FF, kind
                n += 1
        elif kind == _EVT2_TIME_HIGH:
            if has_time and said < high - (1 << 27):
                rollover += 1 << 34
            high, has_time = said, True
        elif kind not in _EVT2_IGNORED:
            unknown += 1
    state[0], state[1], state[2], state[3], state[4] = early, unknown, high, rollover, int(has_time)
    return n


@njit(cache=True, nogil=True)
def count_evt3(words):
    """Room for the events of an EVT3 stream, and for one more: vectors carry up to twelve a word."""
    n = 1
    for word in words:  # without branches, so that the processor takes many words at once
        kind = word >> 12
        n += np.int64(kind == _EVT3_X) + 12 * (np.int64(kind == _EVT3_VECTOR_12) + np.int64(kind == _EVT3_VECTOR_8))
    return n


@njit(cache=True, nogil=True)
def decode_evt3(words, state, t, x, y, p):
    """EVT3: a word sets the row, the base of a vector or a part of the time; or it is one event, or up to twelve.

    The columns are one longer than the events may be: what is written behind the last is not counted. Which word comes
    next cannot be foreseen, and a wrong guess of the processor costs as much as four words: so the most frequent kinds,
    rows and events, take one way, and of a vector only the set bits are visited.
    """
    n, early, unknown = 0, state[0], state[1]
    high, rollover, known, low = state[2], state[3], state[4], state[5]
    row, base, polarity = state[6], state[7], state[8]
    time = rollover + (high << 12) + low
    for word in words:
        kind, said = word >> 12, np.int64(word & 0x7FF)
        if kind & ~_EVT3_X == _EVT3_Y:
            single = np.int64(kind >> 1)
            row = row if single else said
            t[n], x[n], y[n], p[n] = time, said, row, (word >> 11) & 1
            n += single & known
            early += single & (1 - known)
        elif kind in (_EVT3_VECTOR_12, _EVT3_VECTOR_8):
            width = 12 if kind == _EVT3_VECTOR_12 else 8
            bits = np.int64(word & ((1 << width) - 1))
            while bits:
                lowest = bits & -bits
                t[n], x[n], y[n], p[n] = time, base + _NUMBER_OF_BIT[lowest % 13], row, polarity
                n += known
                early += 1 - known
                bits ^= lowest
            base += width
        elif kind == _EVT3_BASE_X:
            base, polarity = said, np.int64((word >> 11) & 1)
        elif kind == _EVT3_TIME_LOW:
            low = np.int64(word & 0xFFF)
            time = rollover + (high << 12) + low
        elif kind == _EVT3_TIME_HIGH:
            new = np.int64(word & 0xFFF)
            if known and new < high - (1 << 11):
                rollover += 1 << 24
            if new != high:
                low = 0  # the old low part would put what comes before the next one up to 4 ms too late
            high, known = new, 1
            time = rollover + (high << 12) + low
        elif kind not in _EVT3_IGNORED:
            unknown += 1
    state[0], state[1], state[2], state[3], state[4] = early, unknown, high, rollover, known
    state[5], state[6], state[7], state[8] = low, row, base, polarity
    return n


@njit(cache=True, nogil=True)
def decode_dat(words, state, t, x, y, p):
    """DAT: pairs of 32 bits: the time, then x 14, y 14 and polarity 4 bits."""
    rollover, last = state[3], state[2]
    for i in range(len(words) // 2):
        time, address = np.int64(words[2 * i]), words[2 * i + 1]
        if time < last - (1 << 31):
            rollover += 1 << 32
        last = time
        t[i], x[i], y[i], p[i] = rollover + time, address & 0x3FFF, (address >> 14) & 0x3FFF, (address >> 28) & 0xF
    state[2], state[3] = last, rollover
    return len(words) // 2
