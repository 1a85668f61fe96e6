"""LZ4 frames beside the library's, whole and damaged."""

import lz4.frame
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauca.events.kernels.lz4 import unpack_frames

GUARD = 64  # bytes behind the room, which nothing may write


def _content(rng: np.random.Generator, size: int) -> bytes:
    """Noise, runs of short patterns of any period, and what was there before, from near and far."""
    out = bytearray()
    while len(out) < size:
        n, kind = int(rng.integers(1, 400)), rng.integers(0, 4)
        if kind == 0 or not out:
            out += rng.bytes(n)
        elif kind == 1:
            out += (rng.bytes(int(rng.integers(1, 24))) * n)[:n]
        elif kind == 2:
            at = int(rng.integers(0, len(out)))
            out += out[at : at + n]
        else:
            out += b"".join(bytes([k & 255, 7, 0, 0]) + rng.bytes(1) + bytes(11) for k in range(n // 16))
    return bytes(out[:size])


def _unpacked(frames: list[bytes], room: int) -> list[bytes]:
    data = np.frombuffer(b"".join(frames), np.uint8)
    ends = np.cumsum([len(frame) for frame in frames])
    starts = ends - [len(frame) for frame in frames]
    whole, bounds = np.full(room + GUARD, 0xA5, np.uint8), np.zeros(len(frames) + 1, np.int64)
    count = unpack_frames(data, starts, ends, whole[:room], bounds)
    assert (whole[room:] == 0xA5).all()
    assert bounds[count] <= room
    return [whole[bounds[i] : bounds[i + 1]].tobytes() for i in range(count)]


@settings(deadline=None, max_examples=50)  # the first example compiles the kernel
@given(seed=st.integers(0, 2**32 - 1), linked=st.booleans(), size=st.integers(0, 200_000), slack=st.integers(0, 40))
def test_frames_as_the_library_has_them(seed, linked, size, slack):
    rng = np.random.default_rng(seed)
    contents = [_content(rng, size), b"", _content(rng, int(rng.integers(0, 60)))]
    frames = [lz4.frame.compress(content, store_size=False, block_linked=linked) for content in contents]
    assert _unpacked(frames, sum(map(len, contents)) + slack) == contents


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(0, 3000))
def test_damage_writes_nothing_beyond_the_room(seed, size):
    rng = np.random.default_rng(seed)
    frame = bytearray(lz4.frame.compress(_content(rng, size), store_size=False))
    for _ in range(int(rng.integers(1, 6))):
        frame[int(rng.integers(0, len(frame)))] = int(rng.integers(0, 256))
    cut = bytes(frame[: int(rng.integers(0, len(frame) + 1))])
    whole = bytes(frame) if rng.integers(0, 2) else cut
    found = _unpacked([whole], int(rng.integers(0, 2 * size + 100)))
    try:
        theirs = lz4.frame.decompress(whole)
    except RuntimeError:
        return  # theirs may refuse a header's checksum, or more than the header announced
    assert found in ([], [theirs])


@pytest.mark.parametrize("options", [{"store_size": True}, {"content_checksum": True}, {"block_checksum": True}])
def test_what_is_not_plain_is_left_to_the_library(options):
    content = bytes(1000)
    plain = lz4.frame.compress(content, store_size=False)
    other = lz4.frame.compress(content, **{"store_size": False, **options})
    assert _unpacked([plain, other, plain], 5000) == [content]


def test_what_does_not_fit_is_left():
    frame = lz4.frame.compress(bytes(1000), store_size=False)
    assert _unpacked([frame, frame], 1999) == [bytes(1000)]
    assert _unpacked([frame], 999) == []
