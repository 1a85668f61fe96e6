"""Which pixels are called hot, and which are spared."""

import numpy as np

from pauca.events.camera import Camera
from pauca.events.description import info
from pauca.events.hot_pixels import hot_pixel_mask, remove_hot_pixels
from pauca.events.recording import Recording
from pauca.events.simulation import SimulateConfig, simulate
from pauca.events.types import Events

CAMERA = Camera((64, 48), 60.0, 60.0, 31.5, 23.5)


def _events(t_us, x=None, y=None, p=None, size=(64, 48)) -> Events:
    n = len(t_us)
    rng = np.random.default_rng(0)
    x = rng.integers(0, size[0], n) if x is None else x
    y = rng.integers(0, size[1], n) if y is None else y
    p = rng.integers(0, 2, n) if p is None else p
    return Events.from_arrays(np.asarray(t_us), np.asarray(x), np.asarray(y), np.asarray(p), size)


def _poisson(rate_hz: float, seconds: float, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.sort(rng.integers(0, int(seconds * 1e6), rng.poisson(rate_hz * seconds)))


def test_hot_pixels_are_found_and_the_scene_is_spared():
    """Five hot pixels at 500 Hz in front of moving polygons: exactly these are found, with their rates."""
    config = SimulateConfig(scene="shapes", duration_s=1.0, noise_hz=0.5, seed=2)
    clean = simulate(config, camera=CAMERA).events
    assert not hot_pixel_mask(clean).any()
    rng = np.random.default_rng(5)
    hot = rng.choice(64 * 48, 5, replace=False)
    t, pixel = _poisson(2500, 1.0), rng.choice(hot, 2500 * 2)
    pixel = pixel[: len(t)]
    joined = np.concatenate([clean.t_us, t])
    order = np.argsort(joined, kind="stable")
    x = np.concatenate([clean.x, pixel % 64])[order]
    y = np.concatenate([clean.y, pixel // 64])[order]
    recording = Recording(_events(joined[order], x, y), CAMERA, name="hot")
    found = info(recording)
    assert {(h.x, h.y) for h in found.hot_pixels} == {(int(k % 64), int(k // 64)) for k in hot}
    assert all(300 < h.rate_hz < 900 for h in found.hot_pixels)
    assert [h.rate_hz for h in found.hot_pixels] == sorted((h.rate_hz for h in found.hot_pixels), reverse=True)
    cleaned = remove_hot_pixels(recording)
    assert info(cleaned).hot_pixels == ()
    assert len(cleaned.events) <= len(clean)
    assert "dropped" in cleaned.notes[-1]
    assert "events of 5 hot pixels" in cleaned.notes[-1]


def test_neighbouring_hot_pixels():
    t = _poisson(20_000, 1.0)
    n = len(t)
    x, y = np.random.default_rng(3).integers(0, 64, n), np.random.default_rng(4).integers(0, 48, n)
    x[::20], y[::20] = 10, 10
    x[1::20], y[1::20] = 11, 10
    mask = hot_pixel_mask(_events(t, x, y))
    assert np.argwhere(mask).tolist() == [[10, 10], [10, 11]]


def test_nothing_to_remove_returns_the_recording_itself():
    recording = Recording(_events(_poisson(10_000, 1.0)))
    assert remove_hot_pixels(recording) is recording
