"""Windows of a millisecond: each answer is led on to from the one before, and trusted no more than a search."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from pauca import events
from pauca.events import AlignConfig, Aligner, Camera, GyroPrior, SimulateConfig, Status
from pauca.events.packets import Proof
from pauca.events.recent import Recent
from pauca.events.windows import joined

from .scenes import CAMERA, jittered, rotating_events, whole_pixels

LENS = Camera((64, 48), 60.0, 62.0, 31.0, 22.0, -0.2, 0.05)


class Searching(Aligner):
    """Searches for each window's motion anew."""

    def _slid(self, start):
        return None


def _milliseconds(stream, step=1):
    edges = np.searchsorted(stream.t_us, np.arange(stream.t_us[0], stream.t_us[-1], 1000 * step))
    return [stream[first:end] for first, end in pairwise(edges.tolist())]


def _simulated(**changes: Any) -> tuple[events.Events, Camera, events.GroundTruth]:
    config = SimulateConfig(**{"scene": "texture", "duration_s": 0.12, "peak_deg_s": 200.0, "seed": 3, **changes})
    recording = events.simulate(config, camera=Camera.pinhole((128, 96)))
    assert recording.camera is not None
    assert recording.ground_truth is not None
    return recording.events, recording.camera, recording.ground_truth


def test_windows_of_a_millisecond_take_one_evaluation_and_agree_with_searches():
    stream, camera, _ = _simulated(movement="constant", duration_s=0.08)
    aligners = [kind(camera) for kind in (Aligner, Searching)]
    found, searched = ([aligner.align(window) for window in _milliseconds(stream)][30:] for aligner in aligners)
    assert np.mean([a.evaluations == 1 for a in found]) > 0.7
    assert sum(a.evaluations for a in found) < 0.6 * sum(a.evaluations for a in searched)
    for here, there in zip(found, searched, strict=True):
        assert (here.start_us, here.end_us, here.status) == (there.start_us, there.end_us, there.status)
        assert (np.abs(here.velocity - there.velocity) < 0.7 * np.sqrt(there.covariance.diagonal())).all()
        here_sd, there_sd = (np.sqrt(a.covariance.diagonal()) for a in (here, there))
        np.testing.assert_allclose(here_sd, there_sd, rtol=0.5)  # the curvature is that of the last search


def test_tiny_windows_are_searched_from_time_to_time():
    """By the curvature of the last search alone, 400 windows of 100 us drifted away from what they stated."""
    led_on: list[bool] = []

    class Counting(Aligner):
        def _slid(self, start):
            led_on.append((found := super()._slid(start)) is not None)
            return found

    stream, camera, _ = _simulated(movement="constant", duration_s=0.06)
    aligner = Counting(camera)
    for window in _milliseconds(stream, 0.1):
        aligner.align(window)
    longest = max(len(run) for run in "".join("+-"[not each] for each in led_on).split("-"))
    assert 64 < longest <= 140


@pytest.mark.slow
@pytest.mark.parametrize("scene", ["texture", "shapes"])
def test_a_camera_that_stops_is_seen_to_stop(scene):
    stream, camera, truth = _simulated(scene=scene, movement="stop-and-go", axis=(0.3, 0.9, 0.3), duration_s=0.3)
    for kind in (Aligner, Searching):
        aligner = kind(camera)
        found = [aligner.align(window) for window in _milliseconds(stream)]
        trusted = [a for a in found if a.status.trusted]
        error = [a.velocity - [np.interp(a.t_us * 1e-6, truth.t_s, w) for w in truth.omega_rad_s.T] for a in trusted]
        deviation = np.sqrt([a.covariance.diagonal() for a in trusted])
        assert (np.abs(error) > 4 * deviation).sum() <= 3, kind
        assert {Status.REST, Status.CONVERGED} <= {a.status for a in found}


def test_a_proof_holds_while_the_score_is_nearer_to_the_motion_than_to_rest():
    packet = Aligner(CAMERA).packet(rotating_events([1.0, -2.0, 3.0]))
    n = len(packet)
    proof = Proof(n, rest=2.0, gain=1.0)
    assert proof.holds(1000.0 + 2.6 * n, packet, 1000.0)
    assert not proof.holds(1000.0 + 2.4 * n, packet, 1000.0)
    assert not Proof(2 * n, 2.0, 1.0).holds(1000.0 + 2.6 * n, packet, 1000.0)
    assert not Proof(n // 2, 2.0, 1.0).holds(1000.0 + 2.6 * n, packet, 1000.0)


def test_one_step_from_a_start_that_is_nearly_right_is_the_search():
    aligner = Aligner(CAMERA)
    packet = aligner.packet(jittered(rotating_events([1.0, -2.0, 3.0], points=200)))
    estimator = aligner._estimator
    there = estimator.estimate(packet, estimator.still(packet), np.zeros(6))
    assert there.proof is not None
    assert there.shape is not None
    near = there.point + 0.005 / estimator.pixels_moved(packet)
    led = estimator.slide(packet, near, there.shape, there.proof)
    assert led is not None
    assert led.evaluations == 1
    assert (
        np.abs((led.point - there.point) * estimator.pixels_moved(packet)).max() < 0.02
    )  # 0.2 nats, where a search ends
    far = there.point + 3.0 / estimator.pixels_moved(packet)
    searched = estimator.slide(packet, far, there.shape, there.proof)
    assert searched is None or searched.evaluations > 1


@pytest.mark.parametrize("undistorted", [True, False])
def test_recent_events_are_the_windows_joined(undistorted):
    stream = rotating_events([1.0, -2.0, 3.0], duration_us=60_000)
    if not undistorted:
        stream = whole_pixels(stream)
    recent, aligner, held = Recent(LENS), Aligner(LENS), []
    for window in _milliseconds(stream):
        recent.add(window)
        held.append(window)
        kept = joined(held)
        excess = max(0, len(kept) - 1000)
        recent.drop(excess)
        held = [kept[excess:]]
        for name in ("t_us", "x", "y", "p"):
            np.testing.assert_array_equal(getattr(recent.events, name), getattr(held[0], name))
        expected = aligner.packet(held[0][len(held[0]) // 3 :])
        packet = recent.packet(len(held[0]) // 3, expected.t_ref_us)
        for name in ("x", "y", "dt_s", "p", "start_us", "end_us"):
            np.testing.assert_array_equal(getattr(packet, name), getattr(expected, name))


def test_events_after_a_gap_are_not_joined():
    stream = rotating_events([1.0, -2.0, 3.0], duration_us=60_000)
    recent = Recent(CAMERA)
    recent.add(stream.between(5_000_000, 5_010_000))
    later = stream.between(5_050_000, 5_055_000)
    recent.add(later)
    assert len(recent) == len(later)


@pytest.mark.parametrize("config", [{"acceleration": False}, {"objective": "contrast"}])
def test_settings_for_which_a_step_promises_nothing_known_search_every_window(config):
    stream, camera, _ = _simulated(movement="constant", duration_s=0.06)
    aligner = Aligner(camera, AlignConfig(**config))
    found = [aligner.align(window) for window in _milliseconds(stream)][25:]
    assert all(a.evaluations > 1 for a in found)
    assert {a.status for a in found} == {Status.CONVERGED}


def test_a_gyroscope_and_the_papers_settings_search_every_window():
    stream, camera, truth = _simulated(movement="constant", duration_s=0.06)
    gyroscope = GyroPrior.of_camera(truth)
    for aligner in (Aligner(camera, prior=gyroscope), Aligner(camera, AlignConfig.paper())):
        assert all(a.evaluations > 1 for a in [aligner.align(window) for window in _milliseconds(stream)][25:])


def test_windows_that_are_led_on_to_are_warped_to_where_the_settings_say():
    stream, camera, _ = _simulated(movement="constant", duration_s=0.06)
    aligner = Aligner(camera, AlignConfig(reference="first"))
    found = [aligner.align(window) for window in _milliseconds(stream)][25:]
    assert any(a.evaluations == 1 for a in found)
    assert all(a.t_ref_us == a.start_us for a in found)


def test_a_curvature_of_nothing_but_rounding_errors_is_no_error(monkeypatch):
    def singular(*_):
        raise np.linalg.LinAlgError("Singular matrix")

    stream, camera, _ = _simulated(movement="constant", duration_s=0.06)
    aligner = Aligner(camera)
    monkeypatch.setattr(aligner._estimator, "slide", singular)
    assert all(a.evaluations > 1 for a in [aligner.align(window) for window in _milliseconds(stream)][25:])
