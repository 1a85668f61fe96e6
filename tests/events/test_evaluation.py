import numpy as np
import pytest

from pauca.errors import ConfigError, InputError
from pauca.events import Alignment, GroundTruth, Status, Trajectory
from pauca.events.evaluation import (
    PACKET_END,
    PACKET_MIDDLE,
    STATED,
    Protocol,
    axes_matrix,
    evaluate,
    find_time_offset,
    fit_time_offset,
)

T_S = np.arange(0, 70, 0.001)


def _truth(t_s):
    """Smooth, different on each axis, never above 3 rad/s."""
    return np.stack([3 * np.sin(2 * t_s), 2 * np.cos(3 * t_s), 1.5 * np.sin(t_s + 1)], axis=-1)


TRUTH = GroundTruth(T_S, _truth(T_S))


def _trajectory(velocity_at, times_s=T_S[1000:69_000:10], k=3, covariance=1.0, status=Status.CONVERGED):
    alignments = [
        Alignment(
            motion="rotation" if k == 3 else "translation",
            t_us=round(t * 1e6),
            velocity=velocity_at(t)[:k],
            acceleration=np.zeros(k),
            covariance=covariance * np.eye(k),
            score=0.0,
            status=status,
            evaluations=1,
            t_ref_us=round(t * 1e6),
            start_us=round(t * 1e6) - 3_000,
            end_us=round(t * 1e6) + 5_000,
            n_events=1,
        )
        for t in times_s
    ]
    return Trajectory.from_alignments(alignments)


def test_a_perfect_trajectory_has_no_error():
    result = evaluate(_trajectory(_truth), TRUTH)
    assert result.rms_deg_s < 1e-3
    assert result.left_out == 0


def test_constant_errors_come_out_as_they_went_in():
    result = evaluate(_trajectory(lambda t: _truth(t) + np.radians([3.0, 0.0, -4.0])), TRUTH)
    assert result.rms_axes_deg_s == pytest.approx((3, 0, 4), abs=1e-3)
    assert result.rms_deg_s == pytest.approx(np.sqrt(25 / 3), abs=1e-3)
    assert result.median_deg_s == pytest.approx(3, abs=1e-3)
    assert result.percent == pytest.approx(100 * np.sqrt(25 / 3) / np.degrees(6), abs=1e-2)  # of 3 - -3 rad/s


def test_protocol_a_middle_of_the_packet_and_gyroscope_2_4_ms_earlier():
    """Packets of this test are centered 1 ms after the time they state."""
    late_gyroscope = _trajectory(lambda t: _truth(t + 0.001 + 0.0024))
    result = evaluate(late_gyroscope, TRUTH, PACKET_MIDDLE)
    assert result.rms_deg_s < 1e-3
    assert result.t_s.max() <= 60
    assert result.left_out > 0
    assert evaluate(late_gyroscope, TRUTH, STATED).rms_deg_s > 0.3


def test_protocol_b_end_of_the_packet_less_2_4_ms():
    result = evaluate(
        _trajectory(lambda t: _truth(t + 0.005 - 0.0024) + np.radians([3.0, 0.0, 0.0])), TRUTH, PACKET_END
    )
    assert result.rms_deg_s == pytest.approx(1.0, abs=1e-3)  # mean of the axes' 3, 0, 0
    assert result.percent == pytest.approx(100 / np.degrees(3), abs=1e-2)
    assert result.t_s.max() <= 59.75


def test_axes_of_a_turned_gyroscope():
    turned = GroundTruth(T_S, np.stack([TRUTH.omega_rad_s[:, 1], -TRUTH.omega_rad_s[:, 0], TRUTH.omega_rad_s[:, 2]], 1))
    assert evaluate(_trajectory(_truth), turned, axes="-y x z").rms_deg_s < 1e-3
    assert evaluate(_trajectory(_truth), turned).rms_deg_s > 10


@pytest.mark.parametrize("axes", ["x y", "x y w", "x x z", ""])
def test_axes_must_be_a_permutation(axes):
    with pytest.raises(ConfigError, match="expected x, y and z"):
        axes_matrix(axes)


def test_axes_matrix():
    np.testing.assert_array_equal(axes_matrix("z, -x, +y") @ [1, 2, 3], [3, -1, 2])


def test_time_offset_is_found():
    late = GroundTruth(T_S + 0.0083, TRUTH.omega_rad_s)
    assert fit_time_offset(_trajectory(_truth, np.arange(1.0, 9.0, 0.05)), late) == pytest.approx(-0.0083, abs=1.5e-4)


def test_time_offset_is_found_for_the_times_of_the_protocol():
    """Packets of this test end 5 ms after the time they state; protocol (b) puts the estimate 2.4 ms before the end."""
    found = fit_time_offset(_trajectory(_truth, np.arange(1.0, 9.0, 0.05)), TRUTH, PACKET_END)
    assert found == pytest.approx(0.005 - 0.0024, abs=1.5e-4)


def test_other_clocks_and_translations_are_refused():
    with pytest.raises(InputError, match="one clock"):
        evaluate(_trajectory(_truth, np.arange(100.0, 101.0, 0.1)), TRUTH)
    with pytest.raises(InputError, match="translation"):
        evaluate(_trajectory(_truth, np.arange(1.0, 2.0, 0.1), k=2), TRUTH, Protocol())


def test_packets_that_are_not_converged_are_left_out_and_counted():
    good, bad = (
        _trajectory(_truth, np.arange(1.0, 2.0, 0.1)),
        _trajectory(lambda t: _truth(t) + 9.0, np.arange(2.0, 3.0, 0.1), status=Status.STALLED),
    )
    both = Trajectory(
        "rotation",
        *(
            np.concatenate([getattr(part, name) for part in (good, bad)])
            for name in ("t_us", "velocity", "covariance", "start_us", "end_us", "n_events", "evaluations", "score")
        ),
        good.status + bad.status,
    )
    result = evaluate(both, TRUTH)
    assert (len(result.t_s), result.not_trusted) == (10, 10)
    assert result.rms_deg_s < 1e-3
    assert evaluate(both, TRUTH, all_packets=True).rms_deg_s > 100
    with pytest.raises(InputError, match="none of 10 packets is converged"):
        evaluate(bad, TRUTH)


def test_stated_intervals_are_compared_with_the_errors():
    rng = np.random.default_rng(0)
    noisy = _trajectory(lambda t: _truth(t) + 0.02 * rng.standard_normal(3), covariance=0.02**2)
    result = evaluate(noisy, TRUTH)
    assert result.within_68 == pytest.approx(0.68, abs=0.01)
    assert result.within_95 == pytest.approx(0.95, abs=0.01)
    proud = _trajectory(lambda t: _truth(t) + 0.02 * rng.standard_normal(3), covariance=0.01**2)
    assert evaluate(proud, TRUTH).within_95 == pytest.approx(0.673, abs=0.01)


def test_an_offset_is_told_with_its_range():
    rng = np.random.default_rng(0)
    noisy = _trajectory(lambda t: _truth(t) + 0.02 * rng.standard_normal(3), np.arange(1.0, 9.0, 0.05))
    late = GroundTruth(T_S + 0.0083, TRUTH.omega_rad_s)
    found = find_time_offset(noisy, late)
    assert found.determined
    assert found.lowest_s <= -0.0083 <= found.highest_s


def test_an_offset_at_the_end_of_what_was_tried_is_said():
    late = GroundTruth(T_S + 0.08, TRUTH.omega_rad_s)
    found = find_time_offset(_trajectory(_truth, np.arange(1.0, 9.0, 0.05)), late)
    assert found.at_end
    assert not found.determined
    assert find_time_offset(_trajectory(_truth, np.arange(1.0, 9.0, 0.05)), late, within_s=0.1).determined


def test_a_constant_velocity_does_not_determine_an_offset():
    rng = np.random.default_rng(0)
    steady = GroundTruth(T_S, np.tile([1.0, 0.5, 0.0], (len(T_S), 1)))
    noisy = _trajectory(lambda t: np.array([1.0, 0.5, 0.0]) + 0.02 * rng.standard_normal(3), np.arange(1.0, 9.0, 0.1))
    assert not find_time_offset(noisy, steady).determined


def test_a_truth_in_another_unit_is_refused_and_one_without_motion_has_no_percentage():
    found = _trajectory(_truth)
    for change, told in ((np.degrees, r"convert them \(np\.radians\)"), (np.radians, "multiply them by 57.3")):
        with pytest.raises(InputError, match=f"the truth is in another unit: .*{told}"):
            evaluate(found, GroundTruth(T_S, change(_truth(T_S))))
    for protocol in (STATED, PACKET_END):
        resting = evaluate(found, GroundTruth(T_S, np.zeros((len(T_S), 3))), protocol)
        assert resting.percent is None
        assert resting.as_dict()["percent"] is None
