"""Sums over parts of many packets, beside those of one after the other."""

import numpy as np
import pytest
import torch

from pauca.events.consistency import sums_over_parts
from pauca.events.device import parts

from ..scenes import random_packet


@pytest.mark.parametrize("k", [2, 3])
def test_sums_are_those_of_each_packet_alone(k):
    packets = [random_packet(seed, n) for seed, n in enumerate((400, 9, 37))]
    rng = np.random.default_rng(1)
    slopes = [rng.normal(0, 100, (k, len(packet))).astype(np.float32) for packet in packets]
    rows = np.full((len(packets), 6, 512), 7e3, np.float32)  # what follows in a row is not to be looked at
    for row, packet, slope in zip(rows, packets, slopes, strict=True):
        row[:k, : len(packet)] = slope
        row[3:, : len(packet)] = packet.x, packet.y, packet.dt_s
    events = torch.tensor([len(packet) for packet in packets], dtype=torch.int32)
    spans, regions = parts.sums_over_parts(torch.tensor(rows), events, k)
    for i, (packet, slope) in enumerate(zip(packets, slopes, strict=True)):
        for found, expected in zip((spans[i], regions[i]), sums_over_parts(packet, slope), strict=True):
            # The kernel of the CPU adds up blocks of 512 events in float32.
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
