"""LZ4 frames, many in one call, into memory that is used again: a camera's packets are so small that a call for each,
and memory for each, cost as much as their bytes.

The format: https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md and lz4_Block_format.md beside it.
"""

from numba import njit

from pauca.events.kernels.unaligned import copy8, copy16, load1, load2, load4

_FRAME = 0x184D2204  # the first four bytes
_PLAIN = 0x40  # version 1, and neither checksums nor sizes nor a dictionary; blocks linked or not (0x20)
_HEADER, _BLOCK = 7, 4  # bytes of a plain frame's header, and of the size before each block
_STORED = 1 << 31  # in a block's size: not compressed


@njit(cache=True, nogil=True)
def unpack_frames(data, starts, ends, out, bounds):
    """Decompress frames, one behind the other, until one is not plain, is damaged, or does not fit.

    Args:
        data: uint8, which holds the frames.
        starts, ends: where each begins and ends, within `data`.
        out: uint8, for the contents; written from its beginning.
        bounds: where each content begins in `out`, and behind the last where it ends; one more than frames.

    Returns:
        How many frames were decompressed.
    """
    bounds[0] = 0
    for frame in range(len(starts)):
        size = _frame(data, starts[frame], ends[frame], out, bounds[frame])
        if size < 0:
            return frame
        bounds[frame + 1] = bounds[frame] + size
    return len(starts)


@njit(cache=True, nogil=True)
def _frame(data, at, end, out, first):
    """Bytes of a frame's content, written from `first` on; -1 where this decoder cannot tell."""
    if at + _HEADER > end or load4(data, at) != _FRAME or data[at + 4] & 0xDF != _PLAIN:
        return -1
    at, o = at + _HEADER, first
    while at + _BLOCK <= end:
        size = load4(data, at)
        at += _BLOCK
        if size == 0:
            return o - first if at == end else -1
        n = size & (_STORED - 1)
        if at + n > end:
            return -1
        if size & _STORED:
            if o + n > out.size:
                return -1
            out[o : o + n] = data[at : at + n]
            o += n
        else:
            o = _block(data, at, at + n, out, first, o)
            if o < 0:
                return -1
        at += n
    return -1


@njit(cache=True, nogil=True)
def _block(data, at, end, out, first, o):
    """Decompress a block to `out[o:]`, with what stands from `first` on behind it; where it ends, or -1."""
    room = out.size
    while at < end:
        token = load1(data, at)
        n, at = token >> 4, at + 1
        if n < 15 and token & 15 < 15 and at + 18 <= end and o + 40 <= room:  # as nearly all: few bounds to check
            copy16(out, o, data, at)
            back = load2(data, at + n)
            if back >= 8 and o + n - back >= first:
                o, at = o + n, at + n + 2
                copy8(out, o, out, o - back)
                copy8(out, o + 8, out, o + 8 - back)
                copy8(out, o + 16, out, o + 16 - back)
                o += (token & 15) + 4
                continue
        if n == 15:
            n, at = _longer(data, at, end)
        if n < 0 or at + n > end or o + n > room:
            return -1
        if at + n + 16 <= data.size and o + n + 16 <= room:
            copy16(out, o, data, at)  # what is more than n is written over by what follows
            k = 16
            while k < n:
                copy16(out, o + k, data, at + k)
                k += 16
        else:
            for k in range(n):
                out[o + k] = data[at + k]
        at, o = at + n, o + n
        if at >= end:  # the last sequence has literals alone
            return o
        if at + 2 > end:
            return -1
        back = load2(data, at)
        n, at = token & 15, at + 2
        if n == 15:
            n, at = _longer(data, at, end)
        n += 4
        if n < 4 or back == 0 or o - back < first or o + n > room:
            return -1
        if back >= 8 and o + n + 24 <= room:
            copy8(out, o, out, o - back)
            copy8(out, o + 8, out, o + 8 - back)
            k = 16
            while k < n:
                copy8(out, o + k, out, o + k - back)
                k += 8
        else:
            _repeat(out, o, back, n)
        o += n
    return -1


@njit(cache=True, nogil=True)
def _repeat(out, o, back, n):
    """Write n bytes at `o`, each as the one so many places before it, which may be within what this writes."""
    k = 0
    while k < min(n, 8) or (k < n and o + n + 8 > out.size):
        out[o + k] = out[o + k - back]
        k += 1
    back *= (7 + back) // back  # it repeats: so it does from eight or more places before
    while k < n:
        copy8(out, o + k, out, o + k - back)
        k += 8


@njit(cache=True, nogil=True)
def _longer(data, at, end):
    """A length from 15 on, with the bytes that follow, and where they end; below 0 where the block ends before."""
    length, more = 15, 255
    while more == 255:
        if at >= end:
            return -1000, at
        more = load1(data, at)
        length += more
        at += 1
    return length, at
