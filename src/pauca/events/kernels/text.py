"""Lines of text to events: a byte parser that reads decimals exactly, without a detour over floating point."""

import numpy as np
from numba import njit

MAX_DIGITS = 18  # what an int64 holds; further digits change nothing below a microsecond
POWERS = 10 ** np.arange(19, dtype=np.int64)

# Why a line was not an event; the order in which `parse_lines` counts them.
TOO_FEW, TOO_MANY, NO_NUMBER, NO_TIME = range(4)

_NEWLINE, _RETURN, _TAB, _SPACE = 10, 13, 9, 32
_COMMA, _SEMICOLON, _HASH, _PERCENT = 44, 59, 35, 37
_PLUS, _MINUS, _POINT, _ZERO, _NINE = 43, 45, 46, 48, 57
_POLARITY = 3  # role of a column
_T, _R, _U, _F, _A, _L, _S = 116, 114, 117, 102, 97, 108, 115
_E_BIG, _E_SMALL, _N_BIG, _N_SMALL, _I_BIG, _I_SMALL = 69, 101, 78, 110, 73, 105


@njit(cache=True, nogil=True, inline="always")
def _is_separator(byte):
    return byte in (_SPACE, _TAB, _COMMA, _SEMICOLON, _RETURN)


@njit(cache=True, nogil=True)
def _parse_number(text, i):
    """A decimal number at text[i]: where it ends (or -1), its digits as an integer, and its power of ten."""
    negative = text[i] == _MINUS
    if negative or text[i] == _PLUS:
        i += 1
    digits, power, count, seen, fraction = 0, 0, 0, 0, False
    while True:
        byte = text[i]
        if _ZERO <= byte <= _NINE:
            seen += 1
            if count < MAX_DIGITS:
                digits = digits * 10 + (byte - _ZERO)
                count += digits > 0  # leading zeros hold no place
                power -= fraction
            else:
                power += not fraction
        elif byte == _POINT and not fraction:
            fraction = True
        else:
            break
        i += 1
    if seen == 0:
        return -1, 0, 0
    if text[i] == _E_BIG or text[i] == _E_SMALL:
        i += 1
        down = text[i] == _MINUS
        if down or text[i] == _PLUS:
            i += 1
        exponent, first = 0, i
        while _ZERO <= text[i] <= _NINE:
            exponent = min(exponent * 10 + (text[i] - _ZERO), 1000)
            i += 1
        if i == first:
            return -1, 0, 0
        power += -exponent if down else exponent
    return i, -digits if negative else digits, power


@njit(cache=True, nogil=True, inline="always")
def _parse_truth(text, i):
    """`True` or `False` at text[i], of any case, as 1 or 0: where it ends, or -1."""
    first = text[i] | 0x20  # a small letter
    if first == _T and text[i + 1] | 0x20 == _R and text[i + 2] | 0x20 == _U and text[i + 3] | 0x20 == _E_SMALL:
        return i + 4, 1
    if first == _F and text[i + 1] | 0x20 == _A and text[i + 2] | 0x20 == _L and text[i + 3] | 0x20 == _S:
        return (i + 5, 0) if text[i + 4] | 0x20 == _E_SMALL else (-1, 0)
    return -1, 0


@njit(cache=True, nogil=True)
def _shifted(digits, power):
    """digits * 10**power as the nearest integer, halves away from zero; False where it overflows an int64."""
    if digits == 0 or power == 0:
        return digits, True
    if power > 0:
        if power > MAX_DIGITS or abs(digits) > 9_000_000_000_000_000_000 // POWERS[power]:
            return 0, False
        return digits * POWERS[power], True
    if power < -MAX_DIGITS:
        return 0, True
    unit = POWERS[-power]
    nearest = (abs(digits) + unit // 2) // unit
    return nearest if digits > 0 else -nearest, True


@njit(cache=True, nogil=True)
def _plain(digits, power):
    """digits * 10**power as a float; the division keeps 33.0 written as 330 * 10**-1 exact."""
    if power == 0:
        return float(digits)
    if power > 0:
        return digits * 10.0**power
    return digits / 10.0**-power


@njit(cache=True, nogil=True)
def _parse_line(text, i, columns, t_power, values):
    """The numbers of one line into `values` (t, x, y, p); the reason it is no event, or -1; and whether t is whole."""
    time, whole = 0, True
    for column in range(columns.size):
        while _is_separator(text[i]):
            i += 1
        if text[i] == _NEWLINE:
            return TOO_FEW, time, whole
        start = i
        i, digits, power = _parse_number(text, i)
        role = columns[column]
        if i < 0 and role == _POLARITY:
            i, digits = _parse_truth(text, start)
        if i < 0 or not (_is_separator(text[i]) or text[i] == _NEWLINE):
            sign = text[start] == _MINUS or text[start] == _PLUS
            letter = text[start + sign]
            named = letter in (_N_BIG, _N_SMALL, _I_BIG, _I_SMALL)  # nan, inf
            return (NO_TIME if named and role == 0 else NO_NUMBER), time, whole
        if role == 0:
            time, fits = _shifted(digits, power + t_power)
            whole = power >= 0
            if not fits:
                return NO_TIME, time, whole
        elif role > 0:
            values[role] = _plain(digits, power)
    while _is_separator(text[i]):
        i += 1
    return (-1 if text[i] == _NEWLINE else TOO_MANY), time, whole


@njit(cache=True, nogil=True)
def parse_lines(text, columns, t_power, t, x, y, p, bad_count, bad_line):
    """Parse whole lines into t, x, y, p, skipping empty ones and comments (# or %).

    Args:
        text: bytes (uint8) that end with a newline.
        columns: what each column is: 0 t, 1 x, 2 y, 3 p, -1 nothing of interest.
        t_power: power of ten from the unit of the times to microseconds.
        t, x, y, p: int64, float32, float32, float32 arrays, as long as there are lines.
        bad_count, bad_line: per reason (TOO_FEW, ...), how many lines, and the first (counted from 0; -1 for none).

    Returns:
        Events and lines parsed, and whether a time had a decimal point or an exponent.
    """
    n, line, i, fractional = 0, 0, 0, False
    values = np.zeros(4, np.float64)
    while i < text.size:
        while _is_separator(text[i]):
            i += 1
        if text[i] not in (_NEWLINE, _HASH, _PERCENT):
            reason, time, whole = _parse_line(text, i, columns, t_power, values)
            if reason < 0:
                t[n], x[n], y[n], p[n] = time, values[1], values[2], values[3]
                fractional |= not whole
                n += 1
            else:
                if bad_count[reason] == 0:
                    bad_line[reason] = line
                bad_count[reason] += 1
        while text[i] != _NEWLINE:
            i += 1
        i += 1
        line += 1
    return n, line, fractional
