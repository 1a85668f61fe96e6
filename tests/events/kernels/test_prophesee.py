"""The decoders against the formats' descriptions, written out for one word after the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauca.events.io.prophesee import Decoder
from pauca.events.kernels.prophesee import EARLY, UNKNOWN


def evt3(words: list[int]) -> tuple[list[tuple[int, int, int, int]], int, int]:
    """Events t, x, y, p; how many came before the first time, and how many words are of no known type."""
    found, early, unknown = [], 0, 0
    turns = high = low = row = base = polarity = 0
    has_time = False
    for word in words:
        kind, value = word >> 12, word & 0xFFF
        pixels = []
        if kind == 0x0:
            row = value & 0x7FF
        elif kind == 0x2:
            pixels = [(value & 0x7FF, value >> 11)]
        elif kind == 0x3:
            base, polarity = value & 0x7FF, value >> 11
        elif kind in (0x4, 0x5):
            width = {0x4: 12, 0x5: 8}[kind]
            pixels = [(base + i, polarity) for i in range(width) if value >> i & 1]
            base += width
        elif kind == 0x6:
            low = value
        elif kind == 0x8:
            turns += has_time and value < high - 2048
            low = low if value == high else 0
            high, has_time = value, True
        elif kind not in (0x7, 0xA, 0xE, 0xF):
            unknown += 1
        early += 0 if has_time else len(pixels)
        found += [((turns << 24) + (high << 12) + low, x % 65536, row, p) for x, p in pixels if has_time]
    return found, early, unknown


@settings(deadline=None)  # the first example compiles the kernel
@given(
    words=st.lists(
        st.builds(
            lambda kind, value: kind << 12 | value,
            st.sampled_from([0, 2, 2, 3, 4, 4, 5, 6, 8, *range(16)]),
            st.integers(0, 0xFFF),
        ),
        max_size=200,
    ),
    cut=st.integers(0, 400),
)
def test_evt3_is_what_its_words_say_wherever_it_is_cut(words, cut):
    decoder, data = Decoder("EVT3"), np.array(words, "<u2").tobytes()
    parts = [decoder.decode(part) for part in (data[:cut], data[cut:])]
    columns = [np.concatenate(column).tolist() for column in zip(*parts, strict=True)]
    found, early, unknown = evt3(words)
    assert list(zip(*columns, strict=True)) == found
    assert (decoder._state[EARLY], decoder._state[UNKNOWN]) == (early, unknown)


@pytest.mark.parametrize("kind", [0x4, 0x5])
def test_every_vector_of_evt3(kind):
    for value in range(1 << 12):
        words = np.array([0x8000, 0x3064, kind << 12 | value], "<u2").tobytes()
        _, x, _, _ = Decoder("EVT3").decode(words)
        width = {0x4: 12, 0x5: 8}[kind]
        assert x.tolist() == [100 + i for i in range(width) if value >> i & 1]
