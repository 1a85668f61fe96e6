"""A gyroscope as a prior: bad packets become better, good ones stay, and what contradicts is said."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from pauca import cli, events
from pauca.errors import ConfigError, InputError
from pauca.events import AlignConfig, Aligner, Camera, GroundTruth, GyroPrior, Status
from pauca.events.gyro_prior import Expected, combined
from pauca.events.gyroscope import GyroFit
from pauca.events.packets import Estimate
from pauca.events.pieces import Workers, align_in_pieces
from pauca.events.types import Packet
from pauca.runs import json_text

from .scenes import CAMERA, random_events, rotating_events

CONFIG = AlignConfig(packet_events=4_000, min_events=400, border=20)
OMEGA = np.array([1.0, -2.0, 3.0])


def _readings(omega, begin_s: float = 4.5, end_s: float = 6.0, noise: float = 0.0, seed: int = 0) -> GroundTruth:
    t_s = np.arange(begin_s, end_s, 0.002)
    rates = np.broadcast_to(omega, (len(t_s), 3)) + noise * np.random.default_rng(seed).standard_normal((len(t_s), 3))
    return GroundTruth(t_s, rates)


def _packet(start_us: int, end_us: int) -> Packet:
    nothing = np.zeros(3, np.float32)
    return Packet(nothing, nothing, nothing, np.zeros(3, np.uint8), (start_us + end_us) // 2, start_us, end_us)


def test_the_line_through_the_readings_of_a_packet():
    t_s = np.arange(0, 1, 0.001)
    prior = GyroPrior.of_camera(GroundTruth(t_s, np.outer(t_s, [1, 2, 3]) + np.array([0.5, 0, 0])), sd_deg_s=2.0)
    for end_us in (340_000, 302_000):  # a line that is fitted, and one between two readings
        packet = _packet(300_000, end_us)
        told = prior.expected(packet)
        assert told is not None
        np.testing.assert_allclose(told.velocity, packet.t_ref_us * 1e-6 * np.array([1, 2, 3]) + [0.5, 0, 0], atol=1e-9)
        np.testing.assert_allclose(told.acceleration, [1, 2, 3], rtol=1e-6)
        np.testing.assert_allclose(np.sqrt(np.diag(told.covariance)), np.radians(2.0))
    assert prior.expected(_packet(990_000, 1_010_000)) is None  # nobody read the gyroscope then
    assert prior.expected(_packet(-10_000, 10_000)) is None
    gap = GyroPrior.of_camera(GroundTruth(np.array([0.0, 0.01, 0.1, 0.2]), np.ones((4, 3))))
    assert gap.expected(_packet(110_000, 120_000)) is None


def test_what_a_fit_leaves_open_widens_the_prior():
    gyro = _readings(OMEGA)
    fit = GyroFit(0.01, 0.001, np.eye(3), np.full(3, 1.0), np.array([0.1, 0, 0]), np.full(3, 0.02), 1.0, 50, False)
    prior = GyroPrior.from_fit(fit, gyro)
    np.testing.assert_allclose(prior.t_us[0], (gyro.t_s[0] + 0.01) * 1e6)
    told = prior.expected(_packet(5_000_000, 5_020_000))
    assert told is not None
    np.testing.assert_allclose(told.velocity, OMEGA - [0.1, 0, 0], atol=1e-9)
    sd = np.sqrt(np.radians(1) ** 2 + 0.02**2 + (np.radians(1) * np.linalg.norm(told.velocity)) ** 2)
    np.testing.assert_allclose(np.sqrt(np.diag(told.covariance)), sd, rtol=1e-6)


def test_a_mounting_that_a_fit_leaves_open_is_a_number():
    """Its infinite standard deviation times a velocity of zero was NaN, and so was what events were combined with."""
    fit = GyroFit(0.0, 0.0, np.eye(3), np.array([np.inf, 1, 1]), np.zeros(3), np.zeros(3), 1.0, 50, False)
    for omega in (np.zeros(3), OMEGA):
        told = GyroPrior.from_fit(fit, _readings(omega)).expected(_packet(5_000_000, 5_020_000))
        assert told is not None
        sd = np.hypot(np.radians(1), 2 * np.linalg.norm(omega))
        np.testing.assert_allclose(told.covariance, sd**2 * np.eye(3), rtol=1e-6, atol=1e-12)
    for name in ("offset_sd_s", "bias_sd_rad_s"):
        for wrong in (np.inf, -1.0):
            open_ = replace(fit, **{name: np.full(3, wrong) if name == "bias_sd_rad_s" else wrong})
            with pytest.raises(ConfigError, match=f"{name} must be a number from 0 on, got .*fit another motion"):
                GyroPrior.from_fit(open_, _readings(OMEGA))


def _estimate(velocity, sd: float, status: Status = Status.CONVERGED) -> Estimate:
    return Estimate(np.concatenate([velocity, np.zeros(3)]), 0.0, sd**2 * np.eye(3), status, None, 5)


def test_events_and_gyroscope_are_weighted_by_their_covariances():
    told = Expected(np.array([1.0, 0, 0]), np.full(3, 7.0), 0.1**2 * np.eye(3))
    sure = combined(_estimate([0.98, 0, 0], 0.001), told)
    np.testing.assert_allclose(sure.point[:3], [0.98, 0, 0], atol=1e-4)
    half = combined(_estimate([0.8, 0, 0], 0.1), told)
    np.testing.assert_allclose(half.point[:3], [0.9, 0, 0])
    np.testing.assert_allclose(half.covariance, 0.1**2 / 2 * np.eye(3))
    assert half.status is Status.CONVERGED
    for status in (Status.DISPUTED, Status.STALLED, Status.DEGENERATE):
        lost = combined(_estimate([50.0, 0, 0], 1e9 if status is Status.DEGENERATE else 0.1, status), told)
        assert lost.status is Status.CONVERGED
        np.testing.assert_array_equal(lost.point, [1, 0, 0, 7, 7, 7])
    against = combined(_estimate([3.0, 0, 0], 0.05), told)
    assert against.status is Status.DISPUTED
    np.testing.assert_array_equal(against.point[:3], [1, 0, 0])
    resting = combined(_estimate([0.0, 0, 0], 0.5, Status.REST), told)
    assert resting.status is Status.REST
    assert not resting.point.any()


def test_a_good_packet_stays_and_one_of_noise_gets_the_gyroscopes():
    motion = rotating_events(OMEGA, points=120, per_point=120, duration_us=80_000)
    rng = np.random.default_rng(1)
    begin_us = int(motion.t_us[-1]) + 1
    noise = random_events(np.sort(rng.integers(begin_us, begin_us + 60_000, 600)))
    noise = events.Events(noise.t_us, noise.x.astype(np.float32), noise.y.astype(np.float32), noise.p, noise.size)
    stream = events.joined([motion, noise])
    prior = GyroPrior.of_camera(_readings(OMEGA, noise=0.01))
    without = list(Aligner(CAMERA, CONFIG).follow(motion))
    found = list(Aligner(CAMERA, CONFIG, prior).follow(stream))
    assert all(a.status is Status.CONVERGED for a in found if a.end_us <= motion.t_us[-1])
    for a, b in zip(found[:3], without[:3], strict=True):
        assert np.all(np.abs(a.velocity - b.velocity) < 2 * np.sqrt(np.diag(b.covariance)))
        assert np.linalg.norm(a.velocity - OMEGA) < np.linalg.norm(b.velocity - OMEGA) + 0.005
    last = found[-1]
    assert last.start_us >= begin_us - 20_000
    np.testing.assert_allclose(last.velocity, OMEGA, atol=0.05)
    assert not list(Aligner(CAMERA, CONFIG).follow(noise))[-1].velocity.any()  # without, noise is rest


@pytest.mark.slow
def test_a_vibration_that_packets_cannot_follow_becomes_better():
    config = events.SimulateConfig(
        scene="shapes", movement="rest", duration_s=1.0, vibration_hz=20.0, vibration_deg_s=100.0, seed=4
    )
    recording = events.simulate(config, camera=Camera.pinhole((120, 90)))
    truth = recording.ground_truth
    assert truth is not None
    assert recording.camera is not None
    noise = np.radians(1.0) * np.random.default_rng(0).standard_normal(truth.omega_rad_s.shape)
    prior = GyroPrior.of_camera(GroundTruth(truth.t_s, truth.omega_rad_s + noise))
    wrong = {}
    for name, told in (("without", None), ("with", prior)):
        found = list(Aligner(recording.camera, AlignConfig(), told).follow(recording.events))
        true = np.stack([np.interp([a.t_us * 1e-6 for a in found], truth.t_s, w) for w in truth.omega_rad_s.T], axis=1)
        off = np.degrees(np.abs(np.stack([a.velocity for a in found]) - true)).max(axis=1)
        trusted = np.array([a.status.trusted for a in found])
        wrong[name] = off.max(), off[trusted].max(initial=0), trusted.mean()
    assert wrong["without"][0] > 20, wrong
    assert wrong["with"][0] < 0.1 * wrong["without"][0], wrong
    assert wrong["with"][1] < 5, wrong


def test_the_command_takes_readings_and_their_fit(tmp_path, capsys):
    camera = Camera((120, 90), 100.0, 100.0, 60.0, 45.0)
    recording = events.simulate(events.SimulateConfig(duration_s=0.6, peak_deg_s=300.0, seed=5), camera=camera)
    truth = recording.ground_truth
    assert truth is not None
    events.write(tmp_path / "turn.npz", recording)
    gyro = GroundTruth(truth.t_s - 0.004, truth.omega_rad_s + np.array([0.05, 0, 0]))
    rows = np.column_stack([gyro.t_s, np.zeros((len(gyro.t_s), 3)), gyro.omega_rad_s])
    np.savetxt(tmp_path / "imu.txt", rows, fmt="%.9f")
    words = ["events", "align", str(tmp_path / "turn.npz"), "--images", "0", "--quiet", "--out"]
    assert cli.main([*words, str(tmp_path / "a")]) == 0
    capsys.readouterr()
    fitted = ["events", "gyro", str(tmp_path / "a" / "trajectory.npz"), str(tmp_path / "imu.txt"), "--json"]
    assert cli.main([*fitted, "--within-s", "0.02"]) == 0
    (tmp_path / "fit.json").write_text(capsys.readouterr().out)
    assert json.loads((tmp_path / "fit.json").read_text())["not_told"] == []
    prior = ["--gyro-prior", str(tmp_path / "imu.txt"), "--gyro-fit", str(tmp_path / "fit.json")]
    assert cli.main([*words, str(tmp_path / "b"), *prior]) == 0
    alone, both = (events.Trajectory.from_npz(tmp_path / name / "trajectory.npz") for name in "ab")
    rms = [np.degrees(np.sqrt(np.mean((found.velocity - _true(found, truth)) ** 2))) for found in (alone, both)]
    assert rms[1] < rms[0]
    for more, said in (
        (["--gyro-fit", "x.json"], "add its readings"),
        ([*prior[:2], "--gyro-sd-deg-s", "0"], "must be positive"),
        ([*prior[:2], "--gyro-fit", str(tmp_path / "imu.txt")], "is no fit of a gyroscope"),
        ([*prior, "--estimator", "trajectory"], "choose --estimator packets"),
        ([*prior, "--motion", "translation"], "no prior of a translation"),
    ):
        assert cli.main([*words, str(tmp_path / "c"), *more]) == 2
        assert said in capsys.readouterr().err


def test_the_command_says_what_is_wrong_with_readings_that_contradict_all_packets(tmp_path, capsys):
    config = events.SimulateConfig(duration_s=0.6, peak_deg_s=200.0, seed=5)
    made = events.simulate(config, camera=Camera((120, 90), 100.0, 100.0, 60.0, 45.0))
    truth = made.ground_truth
    assert truth is not None
    events.write(tmp_path / "turn.npz", made)
    words = ["events", "align", str(tmp_path / "turn.npz"), "--images", "1", "--force", "--out", str(tmp_path / "out")]
    for change, said in (
        (lambda rates: rates, None),
        (np.degrees, "convert them (--gyro-unit deg/s)"),
        (np.radians, "multiply them by 57.3"),
        (lambda rates: rates[:, [1, 2, 0]], "are its axes, its clock and its unit (--gyro-unit) the camera's?"),
    ):
        rows = np.column_stack([truth.t_s, np.zeros((len(truth.t_s), 3)), change(truth.omega_rad_s)])
        np.savetxt(tmp_path / "imu.txt", rows, fmt="%.9f")
        assert cli.main([*words, "--gyro-prior", str(tmp_path / "imu.txt")]) == 0
        told = capsys.readouterr().out
        assert ("contradicts the events" in told) == (said is not None), told
        assert said is None or said in told
        assert len(list((tmp_path / "out").glob("aligned_*.png"))) == 1


def test_a_steady_motion_in_degrees_a_second_names_the_unit_beside_axes_and_clock(tmp_path, capsys):
    """Nothing but the size tells the unit of a constant: axes and clock alone were blamed."""
    config = events.SimulateConfig(movement="constant", peak_deg_s=90.0, duration_s=0.4, seed=5)
    made = events.simulate(config, camera=Camera((120, 90), 100.0, 100.0, 60.0, 45.0))
    truth = made.ground_truth
    assert truth is not None
    events.write(tmp_path / "turn.npz", made)
    rows = np.column_stack([truth.t_s, np.zeros((len(truth.t_s), 3)), np.degrees(truth.omega_rad_s)])
    np.savetxt(tmp_path / "imu.txt", rows, fmt="%.9f")
    words = ["events", "align", str(tmp_path / "turn.npz"), "--images", "0", "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--gyro-prior", str(tmp_path / "imu.txt")]) == 0
    told = capsys.readouterr().out
    assert re.search(r"it turns by 5,15\d\.\d deg/s where they turn by (89|90|91)\.\d; are its axes", told), told
    assert "its clock and its unit (--gyro-unit) the camera's?" in told


def _true(found, truth) -> np.ndarray:
    return np.stack([np.interp(found.t_s, truth.t_s, w) for w in truth.omega_rad_s.T], axis=1)


def test_bad_priors_are_refused():
    with pytest.raises(InputError, match="two or more readings"):
        GyroPrior(np.zeros(1), np.zeros((1, 3)), 0.1)
    with pytest.raises(ConfigError, match="standard deviation"):
        GyroPrior(np.arange(2) * 1e3, np.zeros((2, 3)), 0.0)
    t_s = np.arange(0, 1, 0.001)
    for times, apart in ((t_s, "0.001"), (1e9 * t_s, "1e\\+06"), (1e6 * t_s[::100], "100000"), (0 * t_s, "0")):
        with pytest.raises(InputError, match=f"are {apart} us apart, and 10 to 50,000 us are expected"):
            GyroPrior(times, np.zeros((len(times), 3)), 0.1)
    with pytest.raises(ConfigError, match="translation"):
        Aligner(CAMERA, AlignConfig(motion="translation"), GyroPrior.of_camera(_readings(OMEGA)))


def test_a_gyroscope_of_another_clock_is_refused(caplog):
    motion = rotating_events(OMEGA, points=120, per_point=120, duration_us=80_000)  # at 5 s
    parts = [motion[:3_000], motion[:0], motion[3_000:]]
    for shift_s, span in ((-5.0, "-0.500 to 0.998"), (1.7e9, "1700000004.500 to 1700000005.998")):
        said = f"read at {span} s, and the events lie at 5.000 to 5.0[0-9]* s: are both on one clock"
        readings = _readings(OMEGA)
        readings = GroundTruth(readings.t_s + shift_s, readings.omega_rad_s)

        def aligner(readings=readings) -> Aligner:
            return Aligner(CAMERA, CONFIG, GyroPrior.of_camera(readings))

        for follow in (
            lambda aligner: next(aligner.follow(motion)),
            lambda aligner: list(aligner.follow(iter(parts))),
            lambda aligner: list(align_in_pieces(parts, aligner, Workers(1))),
        ):
            with pytest.raises(InputError, match=said):
                follow(aligner())
        for take in (Aligner.align, Aligner.push):
            caplog.clear()
            if shift_s < 0:
                with pytest.raises(InputError, match=said):
                    take(aligner(), motion)
            else:  # a stream may get there
                live = aligner()
                take(live, parts[0])
                take(live, parts[2])
                assert len(caplog.records) == 1
                assert "are both on one clock?" in caplog.text


def test_a_gyroscope_that_was_read_for_a_part_is_taken():
    motion = rotating_events(OMEGA, points=120, per_point=120, duration_us=80_000)
    middle_us = int(motion.t_us[len(motion) // 2])
    for begin_s, end_s in ((4.5, middle_us * 1e-6), (middle_us * 1e-6, 6.0)):
        prior = GyroPrior.of_camera(_readings(OMEGA, begin_s, end_s))
        parts = [motion[:3_000], motion[3_000:6_000], motion[6_000:]]
        whole = list(Aligner(CAMERA, CONFIG, prior).follow(motion))
        in_parts = Aligner(CAMERA, CONFIG, prior).follow(iter(parts))
        assert [a.velocity.tolist() for a in in_parts] == [a.velocity.tolist() for a in whole]
        list(Aligner(CAMERA, CONFIG, prior).follow(motion[-3_000:], whole=False))
        live = Aligner(CAMERA, CONFIG, prior)
        for part in parts:
            live.align(part)


def test_a_fit_is_read_back_exactly(tmp_path):
    motion = np.random.default_rng(0).standard_normal((80, 3))
    fit = GyroFit(0.01, 0.001, np.eye(3), np.ones(3), motion[0], np.ones(3), 1 / 3, 80, True)
    (tmp_path / "fit.json").write_text(json.dumps(fit.as_dict()))
    back = GyroFit.from_file(tmp_path / "fit.json")
    assert json.dumps(back.as_dict()) == json.dumps(fit.as_dict())
    nothing = replace(fit, axes_sd_deg=np.array([np.inf, 1, 1]), offset_sd_s=np.inf)
    for text in (json_text(nothing.as_dict()), json.dumps(nothing.as_dict())):  # the second as by version 0.1
        (tmp_path / "fit.json").write_text(text)
        assert GyroFit.from_file(tmp_path / "fit.json").as_dict() == nothing.as_dict()
    (tmp_path / "fit.json").write_text(json.dumps(fit.as_dict() | {"bias_rad_s": [0, None, 0]}))
    with pytest.raises(InputError, match="a number that is none"):
        GyroFit.from_file(tmp_path / "fit.json")
    (tmp_path / "fit.json").write_text(json.dumps(fit.as_dict() | {"axes": [1, 2]}))
    with pytest.raises(InputError, match="another shape"):
        GyroFit.from_file(tmp_path / "fit.json")
    (tmp_path / "fit.json").write_text(json.dumps(fit.as_dict() | {"used": float("inf")}))
    with pytest.raises(InputError, match="is no fit"):
        GyroFit.from_file(tmp_path / "fit.json")
