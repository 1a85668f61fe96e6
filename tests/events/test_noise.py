"""Background noise: taken out where there is much of it, and slow or textured scenes left alone."""

from dataclasses import replace

import numpy as np
import pytest

from pauca import events
from pauca.events import AlignConfig, Events, Recording, SimulateConfig, Status
from pauca.events.noise import noise_mask, remove_noise, shows_structure, without_noise

CAMERA = events.Camera.pinhole((160, 120))
SHAPES = SimulateConfig(scene="shapes", duration_s=0.2, seed=3, peak_deg_s=200.0)


def _noise(hz, seed=0, size=(160, 120), duration_us=200_000):
    rng = np.random.default_rng(seed)
    n = rng.poisson(hz * size[0] * size[1] * duration_us * 1e-6)
    t_us = np.sort(rng.integers(0, duration_us, n))
    return Events.from_arrays(
        t_us, rng.integers(0, size[0], n), rng.integers(0, size[1], n), rng.integers(0, 2, n), size
    )


@pytest.mark.parametrize("hz", [6.0, 10.0, 30.0])
def test_most_of_much_noise_is_found(hz):
    assert noise_mask(_noise(hz)).mean() > 0.6


def test_little_noise_is_left():
    assert not noise_mask(_noise(1.0)).any()


@pytest.mark.parametrize("changes", [{}, {"scene": "texture"}, {"scene": "texture", "peak_deg_s": 10.0}])
def test_scenes_without_much_noise_are_left_alone(changes):
    recording = events.simulate(replace(SHAPES, **changes), camera=CAMERA)
    assert remove_noise(recording) is recording


def test_the_events_of_edges_stay():
    clean = events.simulate(replace(SHAPES, noise_hz=0.0), camera=CAMERA).events
    noise = _noise(10.0)
    order = np.argsort(np.concatenate([clean.t_us, noise.t_us]), kind="stable")
    columns = [np.concatenate([getattr(clean, name), getattr(noise, name)])[order] for name in ("t_us", "x", "y", "p")]
    found = noise_mask(Events(*columns, clean.size))
    of_scene = order < len(clean)
    assert found[of_scene].mean() < 0.2
    assert found[~of_scene].mean() > 0.7


def test_it_is_counted_and_said():
    recording = Recording(_noise(10.0), CAMERA)
    cleaned = remove_noise(recording)
    dropped = len(recording.events) - len(cleaned.events)
    assert f"{dropped:,} events of background noise" in cleaned.notes[-1]


@pytest.mark.parametrize("size", [(160, 120), (12, 12), (4, 4)])
def test_few_events_and_small_sensors(size):
    none = np.zeros(0)
    assert len(noise_mask(Events.from_arrays(none, none, none, none, size))) == 0
    one = Events.from_arrays(np.array([5]), np.array([1]), np.array([1]), np.array([1]), size)
    assert not noise_mask(one).any()


def test_noise_costs_little_where_edges_have_few_events():
    """10 Hz a pixel made errors 2.6 times as large."""
    rms = []
    for hz, wanted in ((0.5, True), (10.0, True), (10.0, False)):
        recording = events.simulate(replace(SHAPES, noise_hz=hz), camera=CAMERA)
        config = AlignConfig(estimator="packets", remove_noise=wanted)  # of knots noise makes no such errors
        found, truth = events.align(recording, config=config), recording.ground_truth
        at = np.stack([np.interp(found.t_s, truth.t_s, part) for part in truth.omega_rad_s.T], axis=1)
        rms.append(np.sqrt(np.mean((found.velocity - at)[found.trusted] ** 2)))
    assert rms[1] < 0.8 * rms[2]
    assert rms[1] < 1.5 * rms[0]


@pytest.mark.parametrize("duration_us", [20_000, 74_999, 75_000, 75_001, 125_000, 210_000, 260_000])
@pytest.mark.parametrize("step", [97, 3001, 10**6])
def test_chunks_lose_what_the_whole_loses(duration_us, step):
    scene = events.simulate(SHAPES, camera=CAMERA).events.between(0, duration_us // 2)
    noise = _noise(10.0, duration_us=duration_us)
    order = np.argsort(np.concatenate([scene.t_us, noise.t_us]), kind="stable")
    both = [np.concatenate([getattr(scene, name), getattr(noise, name)])[order] for name in ("t_us", "x", "y", "p")]
    whole, dropped = Events(*both, size=CAMERA.size), []
    parts = list(without_noise((whole[i : i + step] for i in range(0, len(whole), step)), dropped))
    mask = noise_mask(whole)
    assert sum(dropped) == mask.sum() > 0
    for name in ("t_us", "x", "y", "p"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name)[~mask])


@pytest.mark.parametrize("hz", [0.5, 3.0, 20.0])
def test_noise_shows_no_structure(hz):
    assert not shows_structure(_noise(hz))
    assert not shows_structure(remove_noise(Recording(_noise(hz), CAMERA)).events)


def test_a_vibration_that_the_hysteresis_hides_is_no_rest():
    """80 deg/s at 35 Hz move the image by a pixel to and fro: it read 0 +- 0.1 deg/s, and 66 was true."""
    shaken = replace(SHAPES, movement="rest", vibration_hz=35.0, vibration_deg_s=80.0)
    found = events.align(events.simulate(shaken, camera=CAMERA))
    assert Status.REST not in found.status
    assert Status.CONVERGED not in found.status[1:]
