"""What every base learner must do: agree with its reference, differentiate exactly, ignore padding, refuse nonsense."""

import numpy as np
import pytest
import torch
from torch import nn

from pauca.errors import ConfigError, InputError
from pauca.fewshot import reference
from pauca.fewshot.base_learners import BASE_LEARNERS, Head, example_weights, make_base_learner
from pauca.fewshot.types import PADDING

NAMES = sorted(name for name, kind in BASE_LEARNERS.items() if kind.__module__.startswith("pauca.fewshot."))
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
@pytest.mark.parametrize("size", [0.1, 1.0])
def test_unbalanced_support_agrees_with_the_reference(name, size, make_episodes):
    support, labels, query = make_episodes(way=3, shot=6, size=size)
    kept = [0, *range(6, 11), *range(12, 18)]  # one, five and six examples
    logits = head_of(name)(support[:, kept], labels[:, kept], query, 3)
    for e in range(len(support)):
        expected = REFERENCES[name](support[e, kept].numpy(), labels[e, kept].numpy(), query[e].numpy(), 3)
        np.testing.assert_allclose(logits[e].detach().numpy(), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_exact_under_unbalanced_support(name, make_episodes):
    support, labels, query = make_episodes(way=3, shot=2, features=5, count=2)
    labels = labels.clone()
    labels[:, 1] = PADDING
    head = head_of(name)

    def logits(support, query):
        return head(support, labels, query, 3)

    assert torch.autograd.gradcheck(logits, (support.requires_grad_(), query.requires_grad_()), rtol=1e-4)


@pytest.mark.parametrize("size", [0.1, 0.3])
@pytest.mark.parametrize("name", NAMES)
def test_a_class_with_one_example_is_not_forgotten(name, size):
    """Beside four classes of ten. Without weights, ridge recognizes 18 and 22 % of its queries, prototypes 13 %."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(200, 5, 1, 64, generator=generator, dtype=torch.float64)
    images = size * (0.6 * centers + torch.randn(200, 5, 14, 64, generator=generator, dtype=torch.float64))
    support = torch.cat([images[:, 0, :1], images[:, 1:, :10].flatten(1, 2)], 1)
    labels = torch.cat([torch.zeros(1), torch.arange(1, 5).repeat_interleave(10)]).long().expand(200, -1)
    answers = head_of(name)(support, labels, images[:, :, 10:].flatten(1, 2), 5).argmax(-1).unflatten(1, (5, 4))
    of_class = (answers == torch.arange(5)[:, None]).double().mean((0, 2))
    assert of_class[0] > 0.5
    assert of_class.mean() > 0.88  # the best without weights, but for cosines, is 0.87


def test_equal_shots_weigh_exactly_one(make_episodes):
    _, labels, _ = make_episodes(way=5, shot=3)
    targets = torch.nn.functional.one_hot(labels, 7).float()  # two classes without support
    assert (example_weights(targets) == 1).all()
    targets[:, 4:6] = 0  # padding
    weights = example_weights(targets)
    assert (weights[:, 4:6] == 1).all()
    torch.testing.assert_close((weights.unsqueeze(-1) * targets).sum(1)[:, :5], torch.full((3, 5), 13 / 5))


@pytest.mark.parametrize("name", NAMES)
def test_a_fitted_head_answers_as_a_fresh_one(name, make_episodes, monkeypatch):
    support, labels, query = make_episodes()
    head = head_of(name)
    fitted = head.fitted(support, labels, 5)
    expected = head(support, labels, query, 5)
    monkeypatch.setattr(type(head), "fit", None)  # fitting again would fail
    assert torch.equal(fitted(query), expected)
    torch.testing.assert_close(fitted(query[:, 3:4]), expected[:, 3:4], rtol=1e-12, atol=1e-12)


def test_a_head_of_ones_own_may_say_scores_alone(make_episodes):
    class Constant(Head):
        def scores(self, support, targets, query):
            return torch.ones(len(query), query.shape[1], targets.shape[-1])

    support, labels, query = make_episodes()
    assert (Constant()(support, labels, query, 5) == 1).all()
    with pytest.raises(NotImplementedError, match="Head says neither fit nor scores"):
        Head()(support, labels, query, 5)


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
