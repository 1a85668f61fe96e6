"""The ridge head: the published formula, a learnable penalty, and systems that are nearly singular."""

import pytest
import torch

from pauca.errors import ConfigError
from pauca.fewshot.base_learners import Ridge


def test_a_larger_penalty_shrinks_the_answers(make_episodes):
    support, labels, query = make_episodes()
    answers = [Ridge(penalty)(support, labels, query, 5).abs().mean() for penalty in (1.0, 50.0, 2500.0)]
    assert answers[0] > answers[1] > answers[2]


def test_the_penalty_can_be_learned(make_episodes):
    support, labels, query = make_episodes()
    fixed, learned = Ridge(), Ridge(learn_penalty=True)
    assert {name for name, p in fixed.named_parameters() if p.requires_grad} == {"scale"}
    learned(support, labels, query, 5).sum().backward()
    assert learned.log_penalty.grad is not None
    assert learned.log_penalty.grad != 0


def test_the_bias_is_a_constant_feature(make_episodes):
    support, labels, query = make_episodes()
    one = torch.ones_like(support[..., :1])
    extended = Ridge()(torch.cat([support, one], -1), labels, torch.cat([query, one[:, : query.shape[1]]], -1), 5)
    torch.testing.assert_close(Ridge(bias=True)(support, labels, query, 5), extended)


def test_repeated_images_in_float32_are_solved(make_episodes):
    """Two hundred copies of large features leave a Gram matrix that float32 cannot tell from a singular one."""
    support, labels, query = make_episodes(way=2, shot=1, size=300.0)
    copies = support.repeat(1, 100, 1).float()
    logits = Ridge(penalty=1e-6)(copies, labels.repeat(1, 100), query.float(), 2)
    assert logits.isfinite().all()


def test_a_penalty_that_is_not_positive_is_refused():
    with pytest.raises(ConfigError, match="must be positive"):
        Ridge(penalty=0.0)
