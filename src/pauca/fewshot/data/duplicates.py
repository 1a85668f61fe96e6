"""Images that look alike as a whole: by a hash of 64 bits first, then by a thumbnail."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8, UInt64
from PIL import Image

# Two images are near duplicates if at most this many of the 64 bits of their difference hashes differ and their
# thumbnails correlate at least so much. Of 400 Tiny-ImageNet images saved again as JPEG (quality 75 or 40), halved,
# doubled, made gray or 10 % brighter, 96 to 100 % are found; of the 288 million pairs of the 24000 originals, only the
# one that is a duplicate. Mirror images are not found; crops are, by `data.crops`.
NEAR_BITS = 7
NEAR_CORRELATION = 0.98
THUMBNAIL = 16  # pixels on a side
_PAIRS_AT_ONCE = 8192  # thumbnails of both, as numbers: 17 MB


def perceive(gray: Image.Image) -> tuple[int, UInt8[np.ndarray, "256"]]:
    """Difference hash (which of two neighbors is brighter, on a 9 x 8 grid) and a thumbnail."""
    grid = np.array(gray.resize((9, 8), Image.Resampling.BOX))
    bits = np.packbits(grid[:, 1:] > grid[:, :-1])
    thumbnail = np.array(gray.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    return int.from_bytes(bits.tobytes(), "big"), thumbnail.ravel()


def near_pairs(hashes: UInt64[np.ndarray, "n"], thumbnails: UInt8[np.ndarray, "n 256"]) -> Iterator[tuple[int, int]]:
    """Pairs whose hashes and thumbnails are close."""
    for pairs in _close_blocks(hashes, NEAR_BITS):
        first, second = (_normalized(thumbnails[column]) for column in pairs.T)
        yield from map(tuple, pairs[(first * second).sum(1) > NEAR_CORRELATION].tolist())


def _normalized(thumbnails: UInt8[np.ndarray, "n 256"]) -> Float32[np.ndarray, "n 256"]:
    shapes = thumbnails.astype(np.float32)
    shapes -= shapes.mean(1, keepdims=True)
    return shapes / (np.linalg.norm(shapes, axis=1, keepdims=True) + 1e-6)  # an even gray correlates with nothing


def close_pairs(hashes: UInt64[np.ndarray, "n"], bits: int) -> Int[np.ndarray, "pairs 2"]:
    """All pairs of 64-bit hashes that differ in at most `bits` bits, for bits <= 7, in order."""
    blocks = [np.empty((0, 2), np.int64), *_close_blocks(hashes, bits)]
    pairs = np.concatenate(blocks)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _close_blocks(hashes: UInt64[np.ndarray, "n"], bits: int) -> Iterator[Int[np.ndarray, "some 2"]]:
    """`close_pairs` in runs that fit in memory.

    Such a pair agrees wholly on at least one of eight groups of 8 bits, so only members of equal groups are compared; a
    pair counts in the first group that it agrees on.
    """
    found: list[np.ndarray] = []
    waiting = 0
    for shift in range(0, 64, 8):
        group = (hashes >> np.uint64(shift)) & np.uint64(0xFF)
        order = np.argsort(group, kind="stable")  # ascending within each group
        for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            for place, row in enumerate(rows[:-1]):
                others = rows[place + 1 :]
                differing = hashes[row] ^ hashes[others]
                near = np.bitwise_count(differing) <= bits
                if not near.any():
                    continue
                close = others[near][~_agree_below(differing[near], shift)]
                if len(close):
                    found.append(np.stack([np.full_like(close, row), close], 1))
                    waiting += len(close)
                if waiting > _PAIRS_AT_ONCE:
                    yield np.concatenate(found)
                    found, waiting = [], 0
    if found:
        yield np.concatenate(found)


def _agree_below(differing: UInt64[np.ndarray, "n"], shift: int) -> Bool[np.ndarray, "n"]:
    """Whether some whole group of 8 bits below `shift` does not differ."""
    agree = np.zeros(len(differing), bool)
    for lower in range(0, shift, 8):
        agree |= (differing >> np.uint64(lower)) & np.uint64(0xFF) == 0
    return agree
