import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pauca import events
from pauca.errors import ConfigError, InputError
from pauca.events import AlignConfig, Aligner, Events, Recording, Status, packets

from .scenes import CAMERA, rotating_events

SMALL = AlignConfig(packet_events=5_000, min_events=500, packet_s=0.1, border=20, most_pixels=100.0)
WHOLE = AlignConfig(packet_events=30_000, border=20)  # small windows are one packet each


def _select(window, chosen):
    return Events(window.t_us[chosen], window.x[chosen], window.y[chosen], window.p[chosen], window.size)


def test_recovers_a_constant_rotation_within_its_uncertainty():
    """Over 12 motions the squared distances are chi-squared with three degrees of freedom, or smaller: the stated
    covariance is made for scenes that the model fits less well than these points."""
    rng = np.random.default_rng(0)
    config = replace(WHOLE, acceleration=False)
    distances = []
    for seed in range(12):
        omega = rng.uniform(-4, 4, 3)
        found = Aligner(CAMERA, config).align(rotating_events(omega, seed))
        assert found.status is Status.CONVERGED
        error = found.velocity - omega
        assert np.abs(error).max() < 0.2  # rad/s; over 20 ms, a quarter of a pixel
        distances.append(error @ np.linalg.solve(found.covariance, error))
    assert np.sum(distances) < stats.chi2.ppf(0.999, 3 * 12)
    assert np.max(distances) < stats.chi2.ppf(1 - 0.001 / 12, 3)


def test_recovers_velocity_and_acceleration():
    omega, acceleration = np.array([1.0, -2.0, 3.0]), np.array([60.0, 40.0, -80.0])
    window = rotating_events(omega, duration_us=60_000, acceleration=acceleration)
    found = Aligner(CAMERA, SMALL).align(window)
    np.testing.assert_allclose(found.velocity, omega, atol=0.1)
    np.testing.assert_allclose(found.acceleration, acceleration, atol=12)


def test_velocity_without_acceleration_is_valid_for_the_middle_whatever_the_reference():
    window = rotating_events([1.0, -2.0, 3.0])
    for reference in ("middle", "first"):
        config = replace(WHOLE, acceleration=False, reference=reference)
        found = Aligner(CAMERA, config).align(window)
        assert found.t_us == 5_010_000
        assert found.t_ref_us == (5_010_000 if reference == "middle" else 5_000_000)
        np.testing.assert_allclose(found.velocity, [1.0, -2.0, 3.0], atol=0.4)


@pytest.mark.parametrize("config", [replace(WHOLE, objective="contrast"), replace(WHOLE, exact=False)])
def test_other_objective_and_warp_find_the_same_motion(config):
    found = Aligner(CAMERA, config).align(rotating_events([2.0, -2.0, 3.0]))
    np.testing.assert_allclose(found.velocity, [2.0, -2.0, 3.0], atol=0.15)


def test_recovers_a_translation():
    rng = np.random.default_rng(0)
    t_us = np.sort(rng.integers(0, 20_001, 4000))
    start = rng.uniform([10, 10], [50, 38], (80, 2))[rng.integers(0, 80, 4000)]
    velocity = np.array([3.0, -4.0])  # focal lengths per second
    seen = start + (t_us[:, None] - 10_000) * 1e-6 * velocity * (CAMERA.fx, CAMERA.fy)
    p = rng.integers(0, 2, 4000).astype(np.uint8)
    window = Events(t_us, *seen.T.astype(np.float32).copy(), p, CAMERA.size)
    found = Aligner(CAMERA, replace(WHOLE, motion="translation")).align(window)
    np.testing.assert_allclose(found.velocity, velocity, atol=0.1)


def test_a_gap_in_the_stream_does_not_extrapolate_the_motion():
    window = rotating_events([1.0, -2.0, 3.0], duration_us=60_000, acceleration=[60.0, 40.0, -80.0])
    later = Events(window.t_us + 10_000_000, window.x, window.y, window.p, window.size)
    aligner = Aligner(CAMERA, SMALL)
    before, after = aligner.align(window), aligner.align(later)
    np.testing.assert_allclose(after.velocity, before.velocity, atol=0.05)


def test_warm_start_needs_fewer_evaluations():
    window = rotating_events([4.0, -4.0, 3.0])
    aligner = Aligner(CAMERA, SMALL)
    assert aligner.align(window).evaluations > aligner.align(window).evaluations


def _same_pixel(window):
    spot = np.full(len(window), 20, np.float32)
    return Events(window.t_us, spot, spot, window.p, window.size)


def _same_time(window):
    return Events(np.full_like(window.t_us, 7), window.x, window.y, window.p, window.size)


@pytest.mark.parametrize(
    "spoil",
    [lambda w: w[:0], lambda w: w[:1], lambda w: w[:30], _same_pixel, _same_time],
    ids=["empty", "one event", "thirty events", "one pixel", "one instant"],
)
def test_packets_without_information_are_degenerate_and_do_no_harm(spoil):
    window = rotating_events([1.0, -2.0, 3.0])
    aligner = Aligner(CAMERA, SMALL)
    found = aligner.align(spoil(window))
    assert found.status is Status.DEGENERATE
    assert np.all(np.isfinite(found.velocity))
    assert np.isfinite(found.score)
    np.testing.assert_allclose(aligner.align(window).velocity, [1.0, -2.0, 3.0], atol=0.15)


def test_singular_curvature_is_degenerate_too(monkeypatch):
    def fail(*args, **kwargs):
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr(packets, "maximize", fail)
    assert Aligner(CAMERA, SMALL).align(rotating_events([1.0, -2.0, 3.0])).status is Status.DEGENERATE


def test_events_that_leave_the_frame_raise_nothing():
    rng = np.random.default_rng(0)
    t_us = np.sort(rng.integers(0, 2_000_000, 3000))
    x, y = rng.uniform(0, 64, 3000).astype(np.float32), rng.uniform(0, 48, 3000).astype(np.float32)
    window = Events(t_us, x, y, np.zeros(3000, np.uint8), CAMERA.size)
    found = Aligner(CAMERA, AlignConfig(border=0)).align(window)
    assert np.all(np.isfinite(found.velocity))


def _noise(n, duration_us, seed=0, size=(64, 48)):
    rng = np.random.default_rng(seed)
    t_us = np.sort(rng.integers(0, duration_us, n))
    x, y = (rng.integers(0, pixels, n).astype(np.uint16) for pixels in size)
    return Events(t_us, x, y, rng.integers(0, 2, n).astype(np.uint8), size)


@pytest.mark.parametrize("camera", [CAMERA, events.DAVIS240C], ids=["pinhole", "distorted"])
@pytest.mark.parametrize("n", [300, 2000, 20_000])
def test_noise_alone_is_rest(camera, n):
    for found in events.align_packets(_noise(n, 200_000, size=camera.size), camera):
        assert found.status is not Status.CONVERGED
        assert not found.velocity.any()


def test_noise_after_a_fast_motion_does_not_run_on():
    """A camera that stopped: the warm start is far away, and the likelihood has a maximum near it."""
    fast = rotating_events([6.0, -8.0, 3.0])
    aligner = Aligner(CAMERA, SMALL)
    assert np.linalg.norm(aligner.align(fast).velocity) > 5
    noise = _noise(2000, 100_000)
    after = Events(noise.t_us + fast.t_us[-1] + 1000, noise.x.astype("f4"), noise.y.astype("f4"), noise.p, noise.size)
    for found in aligner.align_all(after)[1:]:
        assert found.status is not Status.CONVERGED


@pytest.mark.parametrize("deg_s", [5.0, 20.0])
@pytest.mark.parametrize("scene", ["texture", "shapes"])
def test_a_pinhole_camera_does_not_hold_the_estimate_at_zero(scene, deg_s):
    """Bilinear voting has a spike at rest, where all events of a camera without distortion fall on whole pixels."""
    t_s = np.linspace(0, 0.5, 51)
    motion = events.GroundTruth(t_s, np.radians(deg_s) * np.tile([0.5, 1.0, 0.2], (51, 1)))
    camera = events.Camera.pinhole((240, 180))
    recording = events.simulate(events.SimulateConfig(scene=scene, seed=3), camera=camera, motion=motion)
    found = [a for a in events.align_packets(recording) if a.status is Status.CONVERGED]
    assert len(found) >= 1
    error = np.degrees(np.array([a.velocity for a in found]) - motion.omega_rad_s[0])
    assert np.median(np.abs(error)) < max(1.0, 0.1 * deg_s)


def test_windows_of_any_length_are_answered():
    window = rotating_events([1.0, -2.0, 3.0], points=200, per_point=300, duration_us=400_000)
    config = AlignConfig(packet_events=4000, min_events=1000)
    for milliseconds in (1, 5, 20, 100, 400):
        aligner, errors, deviations = Aligner(CAMERA, config), [], []
        for start in range(0, 400_001, 1000 * milliseconds):
            piece = window.between(5_000_000 + start, 5_000_000 + start + 1000 * milliseconds)
            found = aligner.align(piece)
            if found.status is Status.CONVERGED:
                error = np.abs(found.velocity - [1.0, -2.0, 3.0])
                errors.append(error.max())
                deviations.append((error / np.sqrt(found.covariance.diagonal())).max())
            if len(errors) == 40:
                break
        assert len(errors) >= min(400 // milliseconds, 40) * 0.8
        assert np.median(errors) < 0.1
        # 487 rad/s once, in windows of 1 ms. It was 0.6 when all were searched for; of those led on to, one of the
        # first 18 ms (1,501 events) is off by 0.68 and by 1.9 of its deviations (searched for, the worst is 0.30).
        assert np.max(errors) < 0.8
        assert np.max(deviations) < 4


def test_a_long_window_is_cut_and_all_its_packets_can_be_had():
    window = rotating_events([1.0, -2.0, 3.0], duration_us=60_000)
    config = AlignConfig(packet_events=1000, min_events=300)
    alignments = Aligner(CAMERA, config).align_all(window)
    assert len(alignments) > 2
    assert sum(a.n_events for a in alignments) >= len(window)  # the last may reach back for events that it needs
    assert Aligner(CAMERA, config).align(window).end_us == window.t_us[-1]


def test_an_aligner_in_two_threads_at_once_says_so():
    aligner = Aligner(CAMERA, SMALL)
    with aligner._alone(), pytest.raises(InputError, match="another thread"):
        aligner.align(rotating_events([1.0, -2.0, 3.0]))
    aligner.align(rotating_events([1.0, -2.0, 3.0]))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda aligner: pickle.loads(pickle.dumps(aligner))])
def test_a_copy_of_an_aligner_goes_on_by_itself(copied):
    """Its lock could not be copied."""
    window = rotating_events([1.0, -2.0, 3.0], duration_us=60_000)
    aligner = Aligner(CAMERA, SMALL)
    aligner.push(window[: len(window) // 2])
    with aligner._alone():
        other = copied(aligner)
        found = other.push(window[len(window) // 2 :]) + other.flush()  # while the first one is at work
    expected = aligner.push(window[len(window) // 2 :]) + aligner.flush()
    assert len(found) == len(expected) > 0
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.velocity, two.velocity)


def test_align_takes_camera_from_the_recording_and_reports_progress():
    window = rotating_events([1.0, -2.0, 3.0])
    seen = []
    trajectory = events.align(Recording(window, CAMERA), config=SMALL, progress=seen.append)
    assert len(trajectory) == len(seen) == 1  # one packet tells its mean best, and is not refined
    np.testing.assert_array_equal(trajectory.velocity[0], seen[0].velocity)


def test_missing_and_wrong_cameras_are_said():
    window = rotating_events([1.0, -2.0, 3.0])
    with pytest.raises(InputError, match="give one"):
        events.align(window)
    with pytest.raises(InputError, match="sensor of"):
        events.align(window, events.Camera((240, 180), 200.0, 200.0, 120.0, 90.0))


@pytest.mark.parametrize(
    "bad",
    [
        {"r": 1.0},
        {"beta": -1.0},
        {"min_events": 0},
        {"packet_events": 10, "min_events": 20},
        {"slowest_s": 0.05},
        {"least_pixels": 30.0},
        {"packet_s": 0.0},
        {"longest_s": 0.01},
        {"border": -1},
        {"blur_sigma": 0.0},
    ],
)
def test_bad_configurations(bad):
    with pytest.raises(ConfigError):
        AlignConfig(**bad)


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("motion", "'rotation' or 'translation'"),
        ("objective", "'st-ppp' or 'contrast'"),
        ("estimator", "'packets' or 'trajectory' or None"),
        ("vote", "'bilinear' or 'quadratic'"),
        ("reference", "'middle' or 'first'"),
        ("device", "'cpu' or 'cuda'"),
    ],
)
def test_a_choice_that_is_not_known_is_refused(name, choices):
    config = object.__new__(AlignConfig)  # of which tests would check the types first
    vars(config).update(vars(SMALL) | {name: "gpu"})
    with pytest.raises(ConfigError, match=f"{name} 'gpu' is not known; choose {choices}"):
        config.__post_init__()


def test_same_input_gives_the_same_bits():
    window = rotating_events([1.0, -2.0, 3.0])
    a, b = (Aligner(CAMERA, SMALL).align(window) for _ in range(2))
    assert a.velocity.tobytes() == b.velocity.tobytes()


# Published packets of the paper's authors: 30,000 events each, the paper's protocol. `best` is where an independent
# implementation of the same likelihood, with another optimizer, has its maximum (specification). The likelihood is flat
# there (standard deviation 0.05 rad/s) and its kinks make many small maxima: ours lies within 0.03 rad/s, or higher.
@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "best"),
    [
        ("boxes_rotation", (3.578, 3.945, -1.758)),
        ("shapes_rotation", (1.846, -0.515, 1.492)),
        ("dynamic_rotation", (0.463, -2.114, -0.673)),
        ("poster_rotation", (-1.332, -5.308, 7.855)),
    ],
)
def test_real_packets_agree_with_an_independent_optimum(pauca_data, name, best):
    recording = events.read(pauca_data / "events" / "davis240c_packets" / f"{name}.npz")
    aligner = Aligner(recording.camera, AlignConfig.paper())
    found = aligner.align(recording.events)
    assert found.status is Status.CONVERGED
    away = np.abs(found.velocity - best).max()
    above = found.score - aligner.score(recording.events, np.array(best))
    assert away < 0.03 or above > 0, f"{away:.3f} rad/s away, {above:.3f} nats higher"


# `benchmarks/events_accuracy.py` prints the figures.
@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize(("name", "limit"), [("texture_rot", 2.5), ("shapes_rot", 5.0), ("texture_slow", 3.8)])
def test_packets_keep_their_limits_on_simulated_sequences(pauca_data, name, limit):
    recording = events.read(pauca_data / "events" / "sim" / f"{name}.npz")
    found = events.align(recording, config=AlignConfig(estimator="packets"))
    assert events.evaluate(found, recording.ground_truth).rms_deg_s < limit


def test_hot_pixels_of_a_recording_are_left_out_and_their_number_is_logged(caplog):
    clean = events.SimulateConfig(duration_s=0.2, seed=1, scene="shapes")
    camera = events.Camera.pinhole((120, 90))
    spoilt = events.simulate(replace(clean, hot_pixels=30, hot_pixel_hz=1000.0), camera=camera)
    trajectory = events.align(spoilt)
    assert "events of 30 hot pixels" in caplog.text
    assert spoilt.notes == ()
    caplog.clear()
    kept = events.align(spoilt, config=AlignConfig(remove_hot_pixels=False))
    assert "hot" not in caplog.text
    assert kept.n_events.sum() == len(spoilt.events)
    assert trajectory.n_events.sum() == len(events.remove_hot_pixels(spoilt).events)


def test_a_score_of_another_number_of_velocities_is_refused():
    with pytest.raises(InputError, match="a rotation has 3 velocities"):
        Aligner(CAMERA, SMALL).score(rotating_events([1.0, -2.0, 3.0]), np.zeros(2))
