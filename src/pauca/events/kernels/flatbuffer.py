"""Packets of AEDAT4, each of which is a FlatBuffer: a vector of events, inertial samples that each have a layout of
their own, or an image, of which its time alone is read.
"""

import numpy as np
from numba import njit

from pauca.events.kernels.unaligned import load1, load2, load4, load8

EVENTS, SAMPLES, FRAME = 1, 2, 3  # what a packet may hold

EVENT_BYTES = 16  # of an event: time (8), x (2), y (2), polarity (1)
SAMPLE_BYTES = 12  # more than these has each inertial sample: an offset, and a table with a time
_FIELDS = (0, 2, 3, 4, 5, 6, 7)  # time; acceleration x, y, z; angular velocity x, y, z (1 is the temperature)


@njit(cache=True, nogil=True)
def split_packets(data, numbers, holds, spans):
    """Where the packets of a piece of a file are; each has the number of its stream and its length before it.

    Args:
        data: uint8; the piece, which begins with a packet.
        numbers: of the file's streams.
        holds: what the packets of each stream hold; 0 passes them over.
        spans: int64 [n, 3], where each packet begins and ends, and what it holds; filled.

    Returns:
        How many packets there are, where the last whole one ends (passed over or not), and how many bytes the next one
        takes: 0 where nothing follows, -1 where no packet does.
    """
    count, at = 0, 0
    while at < data.size:
        if at + 8 > data.size:
            return count, at, 8
        number, length = _signed(data, at), _signed(data, at + 4)
        stream = 0
        while stream < len(numbers) and numbers[stream] != number:
            stream += 1
        if stream == len(numbers) or length < 0:
            return count, at, -1
        if at + 8 + length > data.size:
            return count, at, 8 + length
        if holds[stream]:
            spans[count, 0], spans[count, 1], spans[count, 2] = at + 8, at + 8 + length, holds[stream]
            count += 1
        at += 8 + length
    return count, at, 0


@njit(cache=True, nogil=True)
def read_packets(data, bounds, kinds, columns, rows, times, filled):
    """Read packets one after the other, until one is damaged.

    Args:
        data: uint8; the packets.
        bounds: where each begins, and where the last ends; one more than packets.
        kinds: EVENTS, SAMPLES or FRAME for each.
        columns: t (int64), x, y (uint16), p (uint8) of the events; filled.
        rows: float64 [n, 7] of the inertial samples, as `read_samples` has them; filled.
        times: int64, of the frames; filled.
        filled: how many events, samples and frames were read; written.

    Returns:
        How many packets were read.
    """
    filled[:] = 0
    for packet in range(len(kinds)):
        content, kind = data[bounds[packet] : bounds[packet + 1]], kinds[packet]
        if kind == EVENTS:
            count = read_events(content, columns, filled[0])
        elif kind == SAMPLES:
            count = read_samples(content, rows[filled[1] :])
        else:
            count = _read_time(content, times, filled[2])
        if count < 0:
            return packet
        filled[kind - 1] += count
    return len(kinds)


@njit(cache=True, nogil=True)
def read_events(data, columns, first):
    """Read all events of a packet to places `first` and after.

    Returns:
        How many there are; -1 where the packet is cut short or damaged, or there are more than places.
    """
    start, count = _vector(data, EVENT_BYTES)
    if start < 0 or first + count > len(columns[0]):
        return -1
    t, x, y, p = columns[0][first:], columns[1][first:], columns[2][first:], columns[3][first:]
    for i in range(count):
        at = start + EVENT_BYTES * i
        t[i], x[i], y[i], p[i] = load8(data, at), load2(data, at + 8), load2(data, at + 10), load1(data, at + 12)
    return count


@njit(cache=True, nogil=True)
def read_samples(data, rows):
    """Read all inertial samples of a packet.

    Args:
        data: the buffer (uint8), which begins with its size.
        rows: time (us), acceleration (g) and angular velocity (deg/s) of each sample; filled.

    Returns:
        How many there are; -1 where one lies beyond the buffer, or there are more than rows.
    """
    n = data.size
    start, count = _vector(data, 4)
    if start < 0 or count > len(rows):
        return -1
    for i in range(count):
        at = start + 4 * i
        sample = at + load4(data, at)
        for column in range(len(_FIELDS)):
            place = _field(data, sample, _FIELDS[column])
            size = 8 if column == 0 else 4
            if place < 0 or place + size > n:
                return -1
            if place == 0:
                rows[i, column] = 0
            elif column == 0:
                rows[i, column] = load8(data, place)
            else:
                rows[i, column] = data[place : place + 4].view(np.float32)[0]
    return count


@njit(cache=True, nogil=True)
def _read_time(data, times, place):
    """An image's time; returns how many were read."""
    at = _field(data, 4 + load4(data, 4), 0) if data.size >= 8 else -1
    if at < 0 or at + 8 > data.size:
        return -1
    times[place] = load8(data, at) if at else 0
    return 1


@njit(cache=True, nogil=True)
def _vector(data, size):
    """Where the elements of the root's only vector begin (-1: beyond the buffer), and how many there are."""
    if data.size < 12:
        return -1, 0
    place = _field(data, 4 + load4(data, 4), 0)
    if place == 0:
        return 0, 0
    if place < 0 or place + 4 > data.size:
        return -1, 0
    start = place + load4(data, place)
    if start + 4 > data.size:
        return -1, 0
    count = load4(data, start)
    return (start + 4, count) if start + 4 + size * count <= data.size else (-1, 0)


@njit(cache=True, nogil=True)
def _field(data, table, number):
    """Where a field of a table is; 0 where it is absent, -1 where the table lies beyond the buffer."""
    if table + 4 > data.size:
        return -1
    layout = table - _signed(data, table)
    if layout < 0 or layout + 2 > data.size:
        return -1
    place = 4 + 2 * number
    if place >= load2(data, layout):
        return 0
    if layout + place + 2 > data.size:
        return -1
    offset = load2(data, layout + place)
    return table + offset if offset else 0


@njit(cache=True, nogil=True)
def _signed(data, at):
    return (load4(data, at) ^ (1 << 31)) - (1 << 31)
