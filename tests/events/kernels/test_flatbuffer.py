"""Inertial samples as FlatBuffers, packed here by hand."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauca.events.kernels.flatbuffer import read_samples


def _sample(t: int, values: list[float], fields: int = 8) -> tuple[bytes, int]:
    """A layout and the table that follows it, and where the table begins: time, temperature, six numbers."""
    numbers = [20.0, *values][: fields - 1]
    layout = struct.pack(f"<HH{fields}H", 4 + 2 * fields, 0, 4, *(12 + 4 * i for i in range(fields - 1)))
    table = struct.pack("<iq", len(layout), t) + struct.pack(f"<{len(numbers)}f", *numbers)
    return layout + table, len(layout)


def _packet(samples: list[tuple[bytes, int]]) -> bytes:
    """The size (at 0), where the root is (4), its layout (12), the root (20), the vector (28), the samples."""
    head = struct.pack("<I4s4HiI", 16, b"IMUS", 6, 8, 4, 0, 8, 4)
    at, places, bodies = 32 + 4 * len(samples), [], b""
    for i, (body, begins) in enumerate(samples):
        places.append(at + len(bodies) + begins - (32 + 4 * i))
        bodies += body
    whole = head + struct.pack(f"<I{len(places)}I", len(places), *places) + bodies
    return struct.pack("<I", len(whole)) + whole


def _read(data: bytes) -> np.ndarray | None:
    rows = np.full((len(data) // 4 + 1, 7), np.nan)
    count = read_samples(np.frombuffer(data, np.uint8), rows)
    return None if count < 0 else rows[:count]


def test_samples_and_what_they_leave_out():
    first, second = list(range(1, 7)), [0.5] * 6
    found = _read(_packet([_sample(2**40, first), _sample(7, second), _sample(9, first, fields=5)]))
    np.testing.assert_array_equal(found, [[2**40, *first], [7, *second], [9, 1, 2, 3, 0, 0, 0]])
    assert _read(_packet([])).shape == (0, 7)


@settings(deadline=None)  # the first example compiles the kernel
@given(seed=st.integers(0, 2**32 - 1))
def test_damage_is_told_and_reads_nothing_beyond_the_buffer(seed):
    rng = np.random.default_rng(seed)
    data = bytearray(_packet([_sample(i, [1.0] * 6) for i in range(int(rng.integers(0, 4)))]))
    for _ in range(int(rng.integers(1, 6))):
        data[int(rng.integers(4, len(data)))] = int(rng.integers(0, 256))
    found = _read(bytes(data[: int(rng.integers(0, len(data) + 1))]))
    assert found is None or not np.isnan(found[:, 0]).any()


@pytest.mark.parametrize("length", range(60))
def test_a_packet_cut_anywhere_has_no_samples(length):
    data = _packet([_sample(1, [1.0] * 6)])
    assert len(data) > 60
    assert _read(data[:length]) is None
