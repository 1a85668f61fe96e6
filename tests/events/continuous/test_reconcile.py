"""What knots and packets say together."""

import numpy as np
import pytest

from pauca.events import Status, Trajectory
from pauca.events.continuous import reconciled

PIXELS = np.array([200.0, 200.0, 108.0])


def _rows(t_us, velocity, sigma, half_us=10_000, status=Status.CONVERGED) -> Trajectory:
    n, t_us = len(t_us), np.asarray(t_us, np.int64)
    zeros = np.zeros(n, np.int64)
    return Trajectory(
        motion="rotation",
        t_us=t_us,
        velocity=np.asarray(velocity, float),
        covariance=np.full((n, 1, 1), sigma**2) * np.eye(3),
        start_us=t_us - half_us,
        end_us=t_us + half_us,
        n_events=zeros,
        evaluations=zeros,
        score=np.zeros(n),
        status=(status,) * n,
        acceleration=np.zeros((n, 3)),
    )


def _both(knots_at, packets_at, knot_sigma=0.1, packet_sigma=0.1, half_us=30_000, **statuses):
    """Knots every 10 ms and packets every 60 ms, of velocities that are functions of the seconds."""
    t_us = np.arange(0, 300_001, 10_000)
    middles_us = np.arange(30_000, 300_000, 60_000)
    knots = _rows(t_us, knots_at(t_us[:, None] * 1e-6), knot_sigma, 5_000, statuses.get("knot", Status.CONVERGED))
    packets = _rows(
        middles_us,
        packets_at(middles_us[:, None] * 1e-6),
        packet_sigma,
        half_us,
        statuses.get("packet", Status.CONVERGED),
    )
    return knots, packets


def _steady(value):
    return lambda t_s: np.full((len(t_s), 3), value)


def test_packets_that_are_surer_draw_the_knots_to_them_and_others_do_not():
    sure, unsure = (
        reconciled(*_both(_steady(1.0), _steady(1.01), knot_sigma=0.1, packet_sigma=sigma), PIXELS)
        for sigma in (1e-3, 10.0)
    )
    np.testing.assert_allclose(sure.velocity, 1.01, atol=2e-3)
    np.testing.assert_allclose(unsure.velocity, 1.0, atol=2e-3)


def test_a_bend_that_packets_cannot_follow_stays_where_they_agree_on_its_mean():
    """A packet of half length h in a velocity c t^2 about its middle tells c h^2 / 5: the displacement's regression."""

    def bent(t_s):
        return np.repeat(40 * (t_s - 0.15) ** 2, 3, axis=1)

    def seen(t_s):
        return bent(t_s) + 40 * 0.03**2 / 5

    knots, packets = _both(bent, seen, packet_sigma=1e-3)
    found = reconciled(knots, packets, PIXELS)
    inner = slice(3, -3)  # beyond the middles of the first and the last packet nothing is known
    np.testing.assert_allclose(found.velocity[inner], knots.velocity[inner], atol=3e-3)
    assert set(found.status) == {Status.CONVERGED}


def test_deviations_grow_with_those_of_packets_and_where_the_velocity_changes():
    calm, doubted = (
        reconciled(*_both(_steady(1.0), _steady(1.0), packet_sigma=sigma), PIXELS).covariance[15]
        for sigma in (0.1, 0.4)
    )
    assert np.all(np.diag(doubted) > 1.5 * np.diag(calm))

    def ramp(t_s):
        return np.repeat(20 * (t_s - 0.15), 3, axis=1)

    turning = reconciled(*_both(ramp, ramp), PIXELS).covariance
    assert np.all(np.diag(turning[15]) > 2 * np.diag(turning[28]))  # slow and fast at the same acceleration
    assert np.linalg.eigvalsh(turning).min() > 0


@pytest.mark.parametrize(
    ("packet", "knot", "told"),
    [
        (Status.CONVERGED, Status.CONVERGED, Status.CONVERGED),
        (Status.DISPUTED, Status.CONVERGED, Status.CONVERGED),  # the knots resolve it
        (Status.CONVERGED, Status.DISPUTED, Status.DISPUTED),
        (Status.REST, Status.REST, Status.REST),
        (Status.DISPUTED, Status.REST, Status.DISPUTED),
    ],
)
def test_status_of_both(packet, knot, told):
    found = reconciled(*_both(_steady(0.0), _steady(0.0), knot=knot, packet=packet), PIXELS)
    assert set(found.status) == {told}


@pytest.mark.parametrize("packet", [Status.STALLED, Status.DEGENERATE])
def test_a_packet_that_found_nothing_leaves_its_knots_degenerate(packet):
    knots, packets = _both(_steady(1.0), _steady(1.0))
    told = list(packets.status)
    told[2] = packet
    covariance = packets.covariance.copy()
    covariance[2] = np.inf
    found = reconciled(knots, Trajectory(**{**vars(packets), "status": tuple(told), "covariance": covariance}), PIXELS)
    within = (knots.t_us >= packets.start_us[2]) & (knots.t_us < packets.end_us[2])
    assert {found.status[i] for i in np.flatnonzero(within)} == {Status.DEGENERATE}
    assert {found.status[i] for i in np.flatnonzero(~within)} == {Status.CONVERGED}
    assert np.all(np.isfinite(found.covariance))


def test_where_both_are_sure_and_contradict_each_other_the_answer_is_disputed():
    knots, packets = _both(_steady(1.0), _steady(3.0), knot_sigma=0.01, packet_sigma=0.01)
    assert set(reconciled(knots, packets, PIXELS).status) == {Status.DISPUTED}


def test_knots_beyond_all_packets_are_not_trusted():
    knots, packets = _both(_steady(1.0), _steady(1.0))
    few = _rows(packets.t_us[:2], packets.velocity[:2], 0.1, 30_000)
    told = reconciled(knots, few, PIXELS).status
    assert told[0] is Status.CONVERGED
    assert set(told[-10:]) == {Status.DEGENERATE}


def test_without_packets_knots_stay_as_they_are():
    knots, packets = _both(_steady(1.0), _steady(1.0), packet=Status.DEGENERATE)
    assert reconciled(knots, packets, PIXELS) is knots


def test_a_knot_about_which_nothing_is_known_spoils_no_other():
    knots, packets = _both(_steady(1.0), _steady(1.01))
    covariance = knots.covariance.copy()
    covariance[15] = np.inf
    told = [Status.DEGENERATE if i == 15 else status for i, status in enumerate(knots.status)]
    found = reconciled(Trajectory(**{**vars(knots), "covariance": covariance, "status": tuple(told)}), packets, PIXELS)
    assert np.all(np.isfinite(found.velocity))
    assert np.isfinite(found.covariance).all(axis=(1, 2)).sum() == len(knots) - 1
    assert found.status[15] is Status.DEGENERATE
