"""What every base learner must do: agree with its reference, differentiate exactly, ignore padding, refuse nonsense."""

import numpy as np
import pytest
import torch
from torch import nn

from pauca.errors import ConfigError, InputError
from pauca.fewshot import reference
from pauca.fewshot.base_learners import BASE_LEARNERS, make_base_learner
from pauca.fewshot.types import PADDING

NAMES = sorted(BASE_LEARNERS)
REFERENCES = {
    "ridge": reference.ridge_logits,
    "svm": reference.svm_logits,
    "prototypes": reference.prototype_logits,
    "logistic": reference.logistic_logits,
    "cosine": reference.cosine_logits,
}


def head_of(name: str, **options) -> nn.Module:
    return make_base_learner(name, scale=1.0, **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("way", "shot", "size"), [(5, 1, 1.0), (5, 5, 0.1), (5, 5, 1.0), (3, 8, 0.3), (2, 1, 3.0)])
def test_agrees_with_the_reference_in_float64(name, way, shot, size, make_episodes):
    support, labels, query = make_episodes(way, shot, size=size)
    logits = head_of(name)(support, labels, query, way)
    for e in range(len(support)):
        expected = REFERENCES[name](support[e].numpy(), labels[e].numpy(), query[e].numpy(), way)
        np.testing.assert_allclose(logits[e].detach().numpy(), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_close_to_float64(name, make_episodes):
    support, labels, query = make_episodes(features=640)
    exact = head_of(name)(support, labels, query, 5)
    single = head_of(name)(support.float(), labels, query.float(), 5)
    assert single.dtype == torch.float32
    assert (single - exact).abs().max() < 1e-4 * exact.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_features_are_computed_in_float32_also_under_autocast(name, make_episodes):
    support, labels, query = (part.bfloat16() if part.is_floating_point() else part for part in make_episodes())
    plain = head_of(name)(support.float(), labels, query.float(), 5)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = head_of(name)(support, labels, query, 5)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(plain, under_autocast)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_exact(name, make_episodes):
    support, labels, query = make_episodes(way=3, shot=2, features=5, count=2)
    head = head_of(name)

    def logits(support, query):
        return head(support, labels, query, 3)

    assert torch.autograd.gradcheck(logits, (support.requires_grad_(), query.requires_grad_()), rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing_even_where_it_holds_features(name, make_episodes):
    support, labels, query = make_episodes(way=4, shot=3)
    padded = torch.cat([support, 100 * torch.ones_like(support[:, :2])], 1)
    padded_labels = torch.cat([labels, torch.full_like(labels[:, :2], PADDING)], 1)
    order = torch.randperm(padded.shape[1], generator=torch.Generator().manual_seed(0))
    head = head_of(name)
    torch.testing.assert_close(
        head(padded[:, order], padded_labels[:, order], query, 4), head(support, labels, query, 4), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_class_without_support_gets_no_probability_and_changes_no_other(name, make_episodes):
    support, labels, query = make_episodes(way=3, shot=4)
    head = head_of(name)
    alone, among = head(support, labels, query, 3), head(support, labels + (labels > 0), query, 5)
    assert torch.isneginf(among[..., [1, 4]]).all()
    torch.testing.assert_close(among[..., [0, 2, 3]], alone, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_stay_finite_with_padding_and_absent_classes(name, make_episodes):
    support, labels, query = make_episodes(way=3, shot=4)
    labels = labels.clone()
    labels[:, 5:7] = PADDING
    support.requires_grad_()
    logits = head_of(name)(support, labels, query, 4)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.zeros(logits.shape[:2]).long().flatten()).backward()
    assert support.grad is not None
    assert support.grad.isfinite().all()
    assert (support.grad[:, 5:7] == 0).all()
    assert support.grad.abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_unbalanced_support_is_classified(name, make_episodes):
    support, labels, query = make_episodes(way=3, shot=6, features=64, apart=3.0)
    labels = labels.clone()
    labels[:, 1:6] = PADDING  # one example of the first class, six of the others
    answers = head_of(name)(support, labels, query, 3).argmax(-1)
    assert (answers == torch.arange(3).repeat_interleave(3)).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_scale_is_learnable_and_multiplies(name, make_episodes):
    support, labels, query = make_episodes()
    head = make_base_learner(name, scale=3.0)
    torch.testing.assert_close(head(support, labels, query, 5), 3 * head_of(name)(support, labels, query, 5))
    assert "scale" in {name for name, parameter in head.named_parameters() if parameter.requires_grad}


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_the_same_answers_and_gradients(name, make_episodes):
    support, labels, query = make_episodes(5, 5)
    results = []
    for device in ("cpu", "cuda"):
        moved = support.detach().to(device).requires_grad_()
        logits = head_of(name).to(device)(moved, labels.to(device), query.to(device), 5)
        (gradient,) = torch.autograd.grad(logits.square().sum(), moved)
        results.append((logits.detach().cpu(), gradient.cpu()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-9)


def test_features_that_are_not_finite_name_the_episode_and_image(make_episodes):
    support, labels, query = make_episodes()
    query[2, 4, 0] = float("nan")
    with pytest.raises(InputError, match=r"episode 2: the features of query images \[4\] are not finite"):
        head_of("ridge")(support, labels, query, 5)
    support[1, 7] = float("inf")
    with pytest.raises(InputError, match=r"episode 1: the features of support images \[7\]"):
        head_of("ridge")(support, labels, query, 5)


def test_labels_out_of_range_name_the_episode(make_episodes):
    support, labels, query = make_episodes()
    labels[1, 3] = 7
    with pytest.raises(InputError, match=r"episode 1: support label 7 is outside 0 \.\. 4"):
        head_of("ridge")(support, labels, query, 5)


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ConfigError, match="'forest' is unknown; choose one of ridge, svm"):
        make_base_learner("forest")
    with pytest.raises(ConfigError, match=r"base learner ridge: .*wideness"):
        make_base_learner("ridge", wideness=3.0)
