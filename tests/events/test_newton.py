import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauca.events import Status
from pauca.events.newton import Optimum, Trial, last_step, maximize, score_statistic


def _quadratic(information, best, fisher_scale):
    def evaluate(point):
        away = point - best
        return Trial(float(-0.5 * away @ information @ away), -information @ away, fisher_scale * information)

    return evaluate


@given(
    best=st.lists(st.floats(-5, 5), min_size=3, max_size=3),
    spread=st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    fisher_scale=st.floats(0.5, 20),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_finds_the_maximum_of_a_quadratic_whatever_its_fisher_matrix(best, spread, fisher_scale, seed):
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    information = axes @ np.diag(10.0 ** np.array(spread)) @ axes.T
    evaluate = _quadratic(information, np.array(best), fisher_scale)
    found = maximize(evaluate, np.zeros(3), reach=np.full(3, 1e3), max_evaluations=200)
    assert found.status is Status.CONVERGED
    away = found.point - np.array(best)
    # The step that is left promises less than 0.01 nats by a Fisher matrix up to 20 times as large.
    assert away @ information @ away < 0.2


def test_shape_saves_evaluations_on_a_similar_problem():
    evaluate = _quadratic(np.diag([1.0, 30.0, 900.0]) + 0.3, np.array([3.0, -2.0, 1.0]), 10.0)
    reach = np.full(3, 100.0)
    cold = maximize(evaluate, np.zeros(3), reach=reach)
    warm = maximize(evaluate, np.zeros(3), reach=reach, shape=cold.shape)
    assert warm.evaluations < cold.evaluations


def test_the_best_point_is_returned_where_the_score_is_rough():
    def evaluate(point):
        value = -50 * point[0] ** 2 + 0.3 * np.cos(400 * point[0])  # kinks that fool the gradient
        return Trial(float(value), -100 * point - 120 * np.sin(400 * point), np.array([[100.0]]))

    found = maximize(evaluate, np.array([0.7]), reach=np.ones(1))
    assert found.here.value == evaluate(found.point).value
    assert found.here.value > evaluate(np.array([0.7])).value


def test_a_direction_without_information_is_degenerate():
    evaluate = _quadratic(np.diag([1.0, 0.0]), np.zeros(2), 1.0)
    found = maximize(evaluate, np.ones(2), reach=np.ones(2))
    assert found.status is Status.DEGENERATE
    np.testing.assert_array_equal(found.point, np.ones(2))


def test_budget_used_up_is_stalled():
    evaluate = _quadratic(np.eye(2), np.array([100.0, 0.0]), 1.0)
    found = maximize(evaluate, np.zeros(2), reach=np.ones(2), max_evaluations=5)
    assert found.status is Status.STALLED
    assert found.evaluations == 5
    assert found.point[0] == pytest.approx(4.0)  # four steps of full reach


def test_a_start_that_is_known_is_not_evaluated_again():
    evaluate = _quadratic(np.eye(2), np.zeros(2), 1.0)
    found = maximize(evaluate, np.zeros(2), reach=np.ones(2), first=evaluate(np.zeros(2)))
    assert found.evaluations == 0
    assert found.status is Status.CONVERGED


def test_events_that_leave_a_direction_open_contradict_no_rest():
    """A factor of a singular matrix is rounding errors: solving with it gave millions, or none, by luck."""
    gradient = np.array([3.0, 3.0, 3.0])
    direction = np.array([1.0, 2.0, 3.0])
    for tiny in (0.0, 1e-17, 1e-12):
        assert score_statistic(gradient, np.outer(direction, direction) + tiny * np.diag([1.0, 5.0, 2.0])) == 0
    assert score_statistic(gradient, np.diag([1.0, 1e6, 1e12])) == pytest.approx(9.0, rel=1e-5)


def test_the_last_step_goes_on_to_the_maximum():
    best = np.array([1.0, -2.0])
    evaluate = _quadratic(np.diag([4.0, 1.0]), best, 0.5)
    found = maximize(evaluate, np.zeros(2), reach=np.full(2, 10.0), tolerance=1.0)
    np.testing.assert_allclose(found.point + last_step(found, np.full(2, 10.0), 1.0), best, atol=1e-9)


def test_no_last_step_where_it_was_tried_or_nothing_is_known():
    evaluate = _quadratic(np.diag([4.0, 1.0]), np.zeros(2), 1.0)
    start = np.array([1.0, 1.0])  # a step back promises 5 nats
    stopped = Optimum(start, evaluate(start), np.eye(2), Status.CONVERGED, 3)
    np.testing.assert_array_equal(last_step(stopped, np.full(2, 10.0), 1.0), 0)
    assert last_step(stopped, np.full(2, 10.0)).any()
    unknown = stopped._replace(here=stopped.here._replace(fisher=np.zeros((2, 2))))
    np.testing.assert_array_equal(last_step(unknown, np.full(2, 10.0)), 0)
