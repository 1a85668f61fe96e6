"""Every kernel against its twin in `pauca.events.device.reference`; votes bit for bit but for how places are rounded.

Runs on a GPU (marker `gpu`) or, with TRITON_INTERPRET=1, in Triton's interpreter, which `test_interpreter.py` starts.
"""

import os
from itertools import product

import numpy as np
import pytest
import torch

from pauca.events.camera import Camera, undistortion_table
from pauca.events.device import reference
from pauca.events.device.batch import BLOCK, UNIT, Batch, Plane, Stored
from pauca.events.device.requests import DevicePacket, Request, as_rows
from pauca.events.likelihood import NegativeBinomial
from pauca.events.warp import Frame, Warp

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
kernels = pytest.importorskip("pauca.events.device.kernels", reason="needs Triton")
pytestmark = [pytest.mark.usefixtures("poisoned_memory"), *([] if INTERPRETED else [pytest.mark.gpu])]

CAMERA = Camera((64, 44), 55.0, 57.0, 31.0, 21.0, -0.3, 0.1, 0.001, -0.002)
LATE_US = 1_900_000_000  # in a recording: a time that no event of a block has must not overflow
COUNTS = (1, BLOCK, 2 * BLOCK + 77)
WARPS = [Warp(), Warp(exact=False), Warp("translation")]
IMAGES = [("quadratic", 0.5), ("quadratic", 1.0), ("bilinear", 1.0)]
CASES = list(product(WARPS, IMAGES))


def stored_and_batch() -> tuple[Stored, Batch]:
    stored, requests = stored_and_requests()
    return stored, Batch.of(as_rows(requests), DEVICE)


def scored(stored: Stored, batch: Batch, plane: Plane) -> tuple[torch.Tensor, ...]:
    images, inside = kernels.vote(stored, batch, plane)
    values, slopes = kernels.score_images(images, plane)
    moments, rows = kernels.gather(stored, batch, plane, slopes, each=True)
    return images, inside, values, slopes, moments, kernels.sums_over_parts(rows, batch, plane)


def stored_and_requests() -> tuple[Stored, list[Request]]:
    rng = np.random.default_rng(3)
    n = sum(COUNTS) + 5
    x, y, p = rng.integers(0, 64, n), rng.integers(0, 44, n), rng.integers(0, 2, n)
    times = LATE_US + np.sort(rng.integers(0, 40_000, n)).astype(np.int32)
    words = (x | y << 15 | p << 30).astype(np.int32)
    bearings = torch.tensor(undistortion_table(CAMERA), device=DEVICE)
    stored = Stored(torch.tensor(words, device=DEVICE), torch.tensor(times, device=DEVICE), bearings)
    requests, first = [], 5
    for count in COUNTS:
        nothing = np.zeros(count, np.float32)
        polarity = np.zeros(count, np.uint8)
        packet = DevicePacket(nothing, nothing, nothing, polarity, LATE_US + 20_000, LATE_US, LATE_US + 40_000, first)
        velocity, acceleration = rng.normal(0, 3, 3), rng.normal(0, 50, 3)
        requests.append(Request(0, packet, velocity, acceleration if count > 1 else None))
        first += count
    return stored, requests


def plane_of(warp: Warp, vote: str, blur_sigma: float) -> Plane:
    return Plane.of(Frame(CAMERA, 10), warp, NegativeBinomial(), vote, blur_sigma, DEVICE)


def ids(value: object) -> str:
    return str(value).replace(" ", "")


@pytest.mark.parametrize(("warp", "image"), CASES, ids=ids)
def test_vote(warp, image):
    (stored, batch), plane = stored_and_batch(), plane_of(warp, *image)
    images, inside = kernels.vote(stored, batch, plane)
    expected, expected_inside = reference.vote(stored, batch, plane)
    assert images.shape == expected.shape
    assert images.dtype == torch.int64
    assert (inside - expected_inside).abs().max() <= 1  # on the very edge of the frame
    assert inside[2] > 500
    difference = (images - expected).double() * UNIT
    assert difference.abs().max() < 2e-4
    assert abs(images.double().sum() * UNIT - inside.sum()) < 1e-3


@pytest.mark.parametrize(("warp", "image"), CASES[:3], ids=ids)
def test_score_images(warp, image):
    (stored, batch), plane = stored_and_batch(), plane_of(warp, *image)
    images, _ = reference.vote(stored, batch, plane)
    values, slopes = kernels.score_images(images, plane)
    expected_values, expected = reference.score_images(images, plane)
    torch.testing.assert_close(values, expected_values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slopes, expected, rtol=1e-4, atol=1e-4)
    assert expected.abs().max() > 1


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize(("warp", "image"), CASES, ids=ids)
def test_gather(warp, image, each):
    (stored, batch), plane = stored_and_batch(), plane_of(warp, *image)
    images, _ = reference.vote(stored, batch, plane)
    _, slopes = reference.score_images(images, plane)
    moments, rows = kernels.gather(stored, batch, plane, slopes, each)
    expected, expected_rows = reference.gather(stored, batch, plane, slopes, each)
    scale = expected.abs().amax(1, keepdim=True)
    torch.testing.assert_close(moments / scale, expected / scale, rtol=1e-3, atol=1e-4)
    if not each:
        assert rows is None
        return
    k = warp.parameters
    chosen = [*range(k), 3, 4, 5]
    torch.testing.assert_close(rows[:, chosen], expected_rows[:, chosen], rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize("warp", WARPS, ids=ids)
def test_sums_over_parts(warp):
    (stored, batch), plane = stored_and_batch(), plane_of(warp, *IMAGES[0])
    images, _ = reference.vote(stored, batch, plane)
    _, slopes = reference.score_images(images, plane)
    _, rows = reference.gather(stored, batch, plane, slopes, each=True)
    sums, expected = (module.sums_over_parts(rows, batch, plane) for module in (kernels, reference))
    assert sums.dtype == torch.float64
    assert (expected.view(len(COUNTS), -1, 9)[2, :, 3] > 0).all()  # every part has events
    scale = expected.abs().view(len(COUNTS), -1, 9).amax(1, keepdim=True) + 1e-12
    far = (sums - expected).view(len(COUNTS), -1, 9) / scale
    assert far.abs().max() < 1e-5


@pytest.mark.parametrize("chosen", range(len(COUNTS)))
def test_no_bit_depends_on_the_rest_of_the_batch(chosen):
    (stored, requests), plane = stored_and_requests(), plane_of(*WARPS[:1], *IMAGES[0])
    together, alone = (
        scored(stored, Batch.of(as_rows(some), DEVICE), plane) for some in (requests, requests[chosen : chosen + 1])
    )
    assert all(torch.equal(a[chosen], b[0]) for a, b in zip(together, alone, strict=True))


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs one program after the other")
def test_repeats_bit_for_bit():
    (stored, batch), plane = stored_and_batch(), plane_of(*WARPS[:1], *IMAGES[0])
    found = [scored(stored, batch, plane) for _ in range(3)]
    for again in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], again, strict=True))
