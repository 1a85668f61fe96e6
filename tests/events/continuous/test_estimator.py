"""The whole estimator on moving points, and on the simulated sequences."""

import numpy as np
import pytest

from pauca import events
from pauca.errors import ConfigError, InputError
from pauca.events import AlignConfig, Recording, Status, TrajectoryConfig
from pauca.events.whole import refine_stream
from pauca.events.windows import joined

from ..scenes import CAMERA, jittered, rotating_events

SMALL = AlignConfig(
    packet_events=5_000,
    min_events=500,
    packet_s=0.05,
    border=20,
    vote="quadratic",
    blur_sigma=0.5,
    estimator="trajectory",
)


def _turning(duration_us=200_000):
    """A motion at constant acceleration that reverses about y in the middle; recording, velocity at each time."""
    omega, acceleration = np.array([1.0, 0.0, 0.5]), np.array([0.0, 40.0, 10.0])
    window = jittered(rotating_events(omega, per_point=150, duration_us=duration_us, acceleration=acceleration))
    middle_us = 5_000_000 + duration_us // 2
    return window, lambda t_us: omega + (t_us[:, None] - middle_us) * 1e-6 * acceleration


def test_velocity_is_found_between_knots_and_within_its_interval():
    window, truth = _turning()
    found = events.align(Recording(window, CAMERA), config=SMALL)
    t_us = np.linspace(window.t_us[0], window.t_us[-1], 50).astype(np.int64)
    assert np.abs(found.at(t_us) - truth(t_us)).max() < 0.25
    sigma = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    assert np.mean(np.abs(found.velocity - truth(found.t_us)) < 2 * sigma) > 0.9
    assert set(found.status[1:-1]) == {Status.CONVERGED}  # the ends know one side alone
    assert found.t_us[0] == window.t_us[0]
    assert found.n_events.sum() == len(window)
    assert np.all(np.diff(found.t_us) <= 60_000)  # of a motion without jerk


def test_a_trajectory_of_knots_survives_files_and_evaluation(tmp_path):
    window, truth = _turning()
    found = events.align(Recording(window, CAMERA), config=SMALL)
    found.to_csv(tmp_path / "t.csv")
    found.to_npz(tmp_path / "t.npz")
    for read in (events.Trajectory.from_csv(tmp_path / "t.csv"), events.Trajectory.from_npz(tmp_path / "t.npz")):
        np.testing.assert_allclose(read.velocity, found.velocity, rtol=1e-6)
        np.testing.assert_array_equal(read.t_us, found.t_us)
    gyroscope = events.GroundTruth(found.t_s, truth(found.t_us))
    assert events.evaluate(found, gyroscope).rms_deg_s < 6


def test_refine_is_the_second_half_of_align():
    window, _ = _turning()
    alignments = list(events.align_packets(window, CAMERA, SMALL))
    done = []
    found = events.refine(window, events.Trajectory.from_alignments(alignments), CAMERA, SMALL, done.append)
    np.testing.assert_array_equal(found.velocity, events.align(window, CAMERA, SMALL).velocity)
    assert len(done) > 1
    assert sum(done) == len(window)


def test_noise_at_rest_is_rest_with_an_honest_interval():
    rng = np.random.default_rng(0)
    t_us = np.sort(rng.integers(0, 300_000, 6_000))
    x, y = rng.integers(0, 64, 6_000).astype(np.uint16), rng.integers(0, 48, 6_000).astype(np.uint16)
    noise = events.Events(t_us, x, y, rng.integers(0, 2, 6_000).astype(np.uint8), CAMERA.size)
    packets = events.Trajectory.from_alignments([events.Aligner(CAMERA, SMALL).align(noise)])
    still = events.Trajectory(**{**vars(packets), "velocity": np.zeros((1, 3)), "status": (Status.CONVERGED,)})
    found = events.refine(noise, still, CAMERA, SMALL)
    assert np.abs(found.velocity).max() < 1e-6
    assert set(found.status) == {Status.REST}
    sigma = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    assert 0.01 < np.median(sigma) < 1  # a pixel in 0.1 s is 0.17 rad/s


def test_noise_between_two_motions_is_no_motion_however_close_the_knots_lie():
    """Packets that did not see the stop expect motion throughout, and place knots of 4 pixels: 334 deg/s, converged."""
    omega = np.array([0.0, 3.0, 1.0])
    before = jittered(rotating_events(omega, per_point=150, duration_us=100_000))
    rng = np.random.default_rng(1)
    noise_us = np.sort(rng.integers(5_100_001, 5_200_000, 1_500))
    x, y = rng.integers(0, 64, 1_500).astype(np.uint16), rng.integers(0, 48, 1_500).astype(np.uint16)
    noise = events.Events(noise_us, x, y, rng.integers(0, 2, 1_500).astype(np.uint8), CAMERA.size)
    after = events.Events(before.t_us + 200_000, before.x, before.y, before.p, before.size)
    window = joined([before, noise, after])
    expected = events.Trajectory.from_alignments([events.Aligner(CAMERA, SMALL).align(before)])
    found = events.refine(window, expected, CAMERA, SMALL)
    still = (found.t_us > 5_120_000) & (found.t_us < 5_180_000)
    assert not any(found.status[k] is Status.CONVERGED for k in np.flatnonzero(still))
    sigma = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    assert np.all(np.abs(found.velocity) < 4 * sigma + np.abs([0, 3.5, 1.5]))
    assert np.abs(found.velocity).max() < 3.5


def test_too_little_to_refine_stays_as_it_is():
    window, _ = _turning()
    found = events.align(Recording(window[:30], CAMERA), config=SMALL)
    assert found.status == (Status.DEGENERATE,)


@pytest.mark.parametrize("bad", [{"motion": "translation"}, {"objective": "contrast"}, {"exact": False}])
def test_what_a_trajectory_is_not_for(bad):
    with pytest.raises(ConfigError, match="packets"):
        AlignConfig(estimator="trajectory", **bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"knot_pixels": 0.0},
        {"knot_s": 1.0},
        {"step": 7},
        {"step": 0},
        {"density": 0.0},
        {"turn_deg": 0.0},
        {"turning": 0.0},
        {"jerk": 0.0},
    ],
)
def test_bad_configurations(bad):
    with pytest.raises(ConfigError):
        TrajectoryConfig(**bad)


def test_a_translation_is_refused():
    window, _ = _turning()
    shift = events.align(window, CAMERA, AlignConfig(motion="translation", border=20, min_events=500))
    with pytest.raises(InputError, match="translation"):
        events.refine(window, shift, CAMERA, SMALL)


def test_same_input_gives_the_same_bits():
    window, _ = _turning()
    a, b = (events.align(window, CAMERA, SMALL) for _ in range(2))
    assert a.velocity.tobytes() == b.velocity.tobytes()


@pytest.mark.slow
def test_half_of_a_scene_that_moves_by_itself_is_disputed():
    recording = events.simulate(events.SimulateConfig(seed=21, duration_s=0.4, moving_object=0.5))
    found = events.align(recording)
    assert found.count(Status.CONVERGED) < 0.05 * len(found)


@pytest.mark.slow
def test_a_vibration_on_a_pan_is_followed():
    """+-50 deg/s at 20 Hz on 100 deg/s: a prior from packets, which do not see it, straightened it to RMS 14 deg/s."""
    t_s = np.arange(0, 0.6, 1e-3)
    shake = 2 * np.pi * 20 * t_s
    omega = np.radians(np.stack([50 * np.sin(shake), np.full_like(t_s, 100), 20 * np.cos(shake)], axis=1))
    config = events.SimulateConfig(scene="shapes", seed=11)
    recording = events.simulate(config, motion=events.GroundTruth(t_s, omega))
    found = events.align(recording)
    assert events.evaluate(found, recording.ground_truth).rms_deg_s < 4
    assert found.count(Status.CONVERGED) > 0.8 * len(found)


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize(("name", "limit"), [("texture_rot", 1.2), ("shapes_rot", 1.2), ("texture_slow", 1.6)])
def test_errors_on_the_simulated_sequences(pauca_data, name, limit):
    """The defaults on a 1 ms grid, of which 1.3, 1.3 and 1.7 were asked; 30 ms are left out: a cold simulator."""
    recording = events.read(pauca_data / "events" / "sim" / f"{name}.npz")
    found = events.align(recording)
    truth = recording.ground_truth
    t_us = np.arange(recording.events.t_us[0] + 30_000, recording.events.t_us[-1], 1000)
    at_times = np.stack([np.interp(t_us * 1e-6, truth.t_s, component) for component in truth.omega_rad_s.T], axis=1)
    error = np.degrees(found.at(t_us) - at_times)
    assert np.sqrt(np.mean(error**2)) < limit
    assert np.median(np.abs(error)) < 0.6


def test_a_recording_that_is_refined_in_pieces_has_the_knots_of_the_whole_but_at_the_seams(monkeypatch):
    monkeypatch.setattr("pauca.events.whole._OVERLAP_US", 100_000)
    window, truth = _turning(300_000)
    packets = events.Trajectory.from_alignments(list(events.align_packets(window, CAMERA, SMALL)))
    chunks = [window[i : i + 2_000] for i in range(0, len(window), 2_000)]
    whole = refine_stream(chunks, packets, CAMERA, SMALL)
    np.testing.assert_array_equal(whole.velocity, events.refine(window, packets, CAMERA, SMALL).velocity)
    pieces = refine_stream(chunks, packets, CAMERA, SMALL, piece=len(window) // 2)
    assert np.all(np.diff(pieces.t_us) > 0)
    assert (pieces.t_us[0], pieces.t_us[-1]) == (whole.t_us[0], whole.t_us[-1])
    for found in (whole, pieces):
        error = np.abs(found.velocity - truth(found.t_us))[found.trusted]
        assert len(error) > 0.7 * len(found)
        assert error.max() < 0.6


@pytest.mark.parametrize("step", [997, 5_000])
def test_pieces_are_the_same_for_any_chunks(step, monkeypatch):
    monkeypatch.setattr("pauca.events.whole._OVERLAP_US", 100_000)
    window, _ = _turning(300_000)
    packets = events.Trajectory.from_alignments(list(events.align_packets(window, CAMERA, SMALL)))
    size = len(window) // 3
    at_once, in_chunks = (
        refine_stream([window[i : i + chunk] for i in range(0, len(window), chunk)], packets, CAMERA, SMALL, piece=size)
        for chunk in (len(window), step)
    )
    assert at_once.velocity.tobytes() == in_chunks.velocity.tobytes()
    assert at_once.covariance.tobytes() == in_chunks.covariance.tobytes()


def test_one_packet_is_not_refined_and_other_motions_have_packets():
    window, _ = _turning()
    config = AlignConfig(border=20, min_events=500)
    assert config.between_knots
    few = window[: len(window) // 10]
    assert len(list(events.align_packets(few, CAMERA, config))) == len(events.align(few, CAMERA, config)) == 1
    for changes in ({"motion": "translation"}, {"objective": "contrast"}, {"rest_test": False}):
        assert not AlignConfig(**changes).between_knots
    assert not AlignConfig.paper().between_knots
