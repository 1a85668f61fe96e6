"""The logistic head: the optimum at every size of features, and its options."""

import pytest
import torch

from pauca.errors import ConfigError
from pauca.fewshot.base_learners import LogisticRegression, logistic


@pytest.mark.parametrize("size", [0.01, 1.0, 10.0, 100.0])
@pytest.mark.parametrize(("way", "shot", "features"), [(5, 1, 64), (5, 5, 64), (5, 15, 8), (2, 5, 4)])
def test_the_optimum_satisfies_its_equation(way, shot, features, size, make_episodes):
    """To 1e-6, which rounding alone costs where K, of rank 8 and with entries of 1e5, multiplies the answer."""
    support, labels, _ = make_episodes(way, shot, features, size)
    gram, targets = support @ support.mT, torch.nn.functional.one_hot(labels, way).double()
    dual = logistic.solve_dual(gram, targets)
    assert (dual - targets + (gram @ dual).softmax(-1)).abs().max() < 1e-6


def test_the_bias_is_a_constant_feature(make_episodes):
    support, labels, query = make_episodes()
    one = torch.ones_like(support[..., :1])
    extended = LogisticRegression()(
        torch.cat([support, one], -1), labels, torch.cat([query, one[:, : query.shape[1]]], -1), 5
    )
    torch.testing.assert_close(LogisticRegression(bias=True)(support, labels, query, 5), extended)


def test_a_larger_penalty_is_less_sure(make_episodes):
    support, labels, query = make_episodes()
    sure = [LogisticRegression(p)(support, labels, query, 5).softmax(-1).amax(-1).mean() for p in (0.1, 1.0, 100.0)]
    assert sure[0] > sure[1] > sure[2]


def test_a_penalty_that_is_not_positive_is_refused():
    with pytest.raises(ConfigError, match="must be positive"):
        LogisticRegression(penalty=-1.0)
