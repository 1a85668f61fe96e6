"""Evaluation: intervals against scipy, confusion, calibration and pairing against counts done by hand."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from pauca.errors import ConfigError, InputError
from pauca.fewshot.answers.held_out import hold_out
from pauca.fewshot.answers.in_episodes import episode_temperatures
from pauca.fewshot.answers.temperature import class_spread, fit_temperature
from pauca.fewshot.embedding import embed_images, images_per_pass
from pauca.fewshot.episodes import sample_episodes
from pauca.fewshot.evaluation import (
    Calibration,
    compare,
    evaluate,
    mean_interval,
)
from pauca.fewshot.latent import LatentConfig
from pauca.fewshot.model import MCRNet, ModelConfig
from pauca.fewshot.pretrained import Features
from pauca.fewshot.types import EpisodeConfig, TrainingData
from pauca.fewshot.views_at_test import ViewsAtTest


def flat_model(base_learner="prototypes") -> MCRNet:
    """Raw pixels as features: nothing to train, and the toy classes are easy to tell by them."""
    config = ModelConfig(base_learner=base_learner, image_size=16, latent=LatentConfig(mode="none"))
    return MCRNet(config, backbone=nn.Flatten()).eval()


class Oracle(nn.Module):
    """Reads a query's class off its feature and answers with fixed confidence, wrong for class 0."""

    def forward(self, support, support_labels, query, way):
        true = query[..., 0].long()
        answer = torch.where(true == 0, 1, true)
        return torch.log(torch.where(nn.functional.one_hot(answer, way) > 0, 0.8, 0.2 / (way - 1)))


def test_interval_is_students_over_episodes():
    values = np.random.default_rng(0).normal(0.6, 0.1, 50)
    low, high = stats.t.interval(0.95, 49, values.mean(), stats.sem(values))
    interval = mean_interval(values)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.mean - interval.half_width == pytest.approx(low)
    assert interval.mean + interval.half_width == pytest.approx(high)
    assert str(interval).startswith(f"{100 * values.mean():.2f} ± ")


def test_a_single_episode_has_no_interval():
    assert mean_interval(np.array([0.5])).half_width == float("inf")


def test_interval_covers_the_truth_in_95_of_100_repeats():
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        interval = mean_interval(generator.binomial(15, 0.6, 30) / 15)
        covered += abs(interval.mean - 0.6) <= interval.half_width
    assert 0.92 < covered / 400 < 0.98


def test_separable_classes_are_recognized(toy_images, toy_episodes):
    evaluation = evaluate(flat_model(), toy_images, toy_episodes)
    assert evaluation.accuracy.mean == 1.0
    assert evaluation.episode_accuracy.shape == (40,)
    assert evaluation.confusion.sum() == 40 * 12
    assert np.array_equal(evaluation.confusion, np.diag(evaluation.confusion.diagonal()))


def test_batches_of_episodes_do_not_change_the_result(toy_images, toy_episodes, monkeypatch):
    whole = evaluate(flat_model("ridge"), toy_images, toy_episodes)
    monkeypatch.setattr("pauca.fewshot.evaluation._VALUES_PER_HEAD_CALL", {"cpu": 1})
    one_by_one = evaluate(flat_model("ridge"), toy_images, toy_episodes)
    assert np.array_equal(whole.episode_accuracy, one_by_one.episode_accuracy)
    assert np.array_equal(whole.confusion, one_by_one.confusion)


def test_confusion_and_calibration_count_what_an_oracle_does(toy_images, toy_episodes):
    chosen = dataclasses.replace(
        toy_episodes, classes=torch.arange(3).repeat(40, 1), query_labels=toy_images.labels[toy_episodes.query] % 3
    )
    model = flat_model()
    model.base_learner = Oracle()
    features = (toy_images.labels % 3).float()[:, None]
    evaluation = evaluate(model, toy_images, chosen, features=features)
    asked = torch.bincount(chosen.query_labels.flatten(), minlength=3).numpy()
    assert evaluation.confusion[0, 1] == asked[0]
    assert list(evaluation.confusion.diagonal()[:3]) == [0, asked[1], asked[2]]
    assert evaluation.confused_pairs() == [("class-0", "class-1", asked[0])]
    assert evaluation.class_accuracy[:3].tolist() == [0.0, 1.0, 1.0]
    assert np.isnan(evaluation.class_accuracy[3:]).all()
    accuracy = (asked[1] + asked[2]) / asked.sum()
    assert evaluation.calibration.expected_error == pytest.approx(abs(accuracy - 0.8))


def test_calibration_with_temperature_is_that_of_the_classifier(toy_images):
    """Each episode's temperature is the one that a classifier finds which is fitted to its support."""
    shapes = EpisodeConfig(way=(2, 4), shot=(1, 6), query=3, unbalanced=True)
    tasks = sample_episodes(toy_images, shapes, 12, 3)
    for model in (Features("ridge"), Features("cosine"), flat_model("ridge")):
        features = torch.randn(len(toy_images), 6, generator=torch.Generator().manual_seed(1)).double()
        features += toy_images.labels[:, None] * 0.1
        support = features[tasks.support]
        found = episode_temperatures(model, support, tasks.support_labels, tasks.way)
        for episode, (rows, labels) in enumerate(zip(support, tasks.support_labels, strict=True)):
            used = labels >= 0
            way = int(labels.max()) + 1
            held_out = hold_out(model, rows[used], labels[used], way)
            spread = float(class_spread(rows[used][None], torch.nn.functional.one_hot(labels[used])[None]))
            expected = fit_temperature(model, held_out, int(used.sum()) / way, spread)
            assert float(found[episode]) == pytest.approx(expected, rel=1e-6)
        assert len(found.unique()) > 1
        result = evaluate(model, toy_images, tasks, features=features, temperature=True)
        assert result.calibration_with_temperature is not None
        assert result.calibration_with_temperature.counts.sum() == result.calibration.counts.sum()
        assert "without temperature" in result.calibration_summary()


def test_the_temperature_of_an_episode_is_its_own_beside_a_larger_one():
    """Of more than 200 examples fewer parts are left out."""
    labels, model = torch.full((2, 250), -1), Features("ridge")
    labels[0], labels[1, :60] = torch.arange(5).repeat(50), torch.arange(5).repeat(12)
    support = torch.randn(2, 250, 8, generator=torch.Generator().manual_seed(0)).double()
    support += labels.clamp_min(0)[..., None] * 0.1
    together, alone = (episode_temperatures(model, support[e], labels[e], 5) for e in (slice(0, 2), slice(1, 2)))
    held_out = hold_out(model, support[1, :60], labels[1, :60], 5)
    assert float(together[1]) == pytest.approx(fit_temperature(model, held_out, 12.0), rel=1e-6)
    assert float(alone[0]) == pytest.approx(float(together[1]), rel=1e-6)


def test_padded_queries_are_not_counted(toy_images, toy_episodes):
    shortened = dataclasses.replace(toy_episodes, query_labels=toy_episodes.query_labels.clone())
    shortened.query_labels[:, -5:] = -1
    evaluation = evaluate(flat_model(), toy_images, shortened)
    assert evaluation.accuracy.mean == 1.0
    assert evaluation.confusion.sum() == 40 * 7


def test_expected_calibration_error_by_hand():
    calibration = Calibration(np.array([0.3, np.nan, 0.9]), np.array([0.5, np.nan, 0.8]), np.array([30, 0, 10]))
    assert calibration.expected_error == pytest.approx((30 * 0.2 + 10 * 0.1) / 40)


def test_comparison_is_paired(toy_images, toy_episodes):
    base = evaluate(flat_model(), toy_images, toy_episodes)
    generator = np.random.default_rng(0)
    hard = generator.uniform(0.3, 0.9, 40)  # episodes differ far more than the models do
    first = dataclasses.replace(base, episode_accuracy=hard + generator.normal(0.02, 0.01, 40))
    second = dataclasses.replace(base, episode_accuracy=hard)
    comparison = compare(first, second)
    differences = first.episode_accuracy - second.episode_accuracy
    expected = stats.ttest_rel(first.episode_accuracy, second.episode_accuracy)
    low, high = expected.confidence_interval(0.95)
    assert comparison.p_value == pytest.approx(expected.pvalue)
    assert comparison.difference.mean - comparison.difference.half_width == pytest.approx(low)
    assert comparison.difference.mean + comparison.difference.half_width == pytest.approx(high)
    assert comparison.significant
    assert abs(first.accuracy.mean - second.accuracy.mean) < first.accuracy.half_width  # unpaired, nothing is seen
    assert comparison.wins == int((differences > 0).sum())
    assert comparison.losses == int((differences < 0).sum())


def test_a_model_does_not_differ_from_itself(toy_images, toy_episodes):
    evaluation = evaluate(flat_model("ridge"), toy_images, toy_episodes)
    comparison = compare(evaluation, evaluation)
    assert comparison.difference == (0.0, 0.0)
    assert comparison.p_value == 1.0
    assert not comparison.significant


def test_evaluations_on_other_episodes_are_not_compared(toy_images, toy_episodes):
    first = evaluate(flat_model(), toy_images, toy_episodes[:20])
    second = evaluate(flat_model(), toy_images, toy_episodes[20:])
    with pytest.raises(ConfigError, match="cannot be paired"):
        compare(first, second)


def test_images_of_the_wrong_size_are_refused(toy_images):
    model = MCRNet(ModelConfig(backbone="conv4", image_size=32, latent=LatentConfig(mode="none")))
    with pytest.raises(InputError, match=r"toy: images are \(3, 16, 16\).*model takes \(3, 32, 32\)"):
        embed_images(model, toy_images)


def test_a_diverged_model_is_named(toy_images):
    model = flat_model()
    model.deviation.fill_(0)
    with pytest.raises(InputError, match="features of image 0 are not finite"):
        embed_images(model, toy_images)


def test_no_episodes_are_no_evaluation(toy_images, toy_episodes):
    with pytest.raises(InputError, match="at least one episode"):
        evaluate(flat_model(), toy_images, toy_episodes[:0])


def test_mirror_images_can_be_averaged_in(toy_images, toy_episodes):
    model = flat_model()
    mirrored = dataclasses.replace(toy_images, images=toy_images.images.flip(-1))
    expected = (embed_images(model, toy_images) + embed_images(model, mirrored)) / 2
    torch.testing.assert_close(embed_images(model, toy_images, views=ViewsAtTest(mirror=True)), expected)
    ours, given = (
        evaluate(model, toy_images, toy_episodes, views=ViewsAtTest(mirror=True)),
        evaluate(model, toy_images, toy_episodes, features=expected),
    )
    assert (ours.episode_accuracy == given.episode_accuracy).all()


def test_small_passes_on_a_cpu_change_nothing_but_the_time(toy_images):
    """A pass of the CPU stays below glibc's 32 MiB for a map of 64 channels; 84 pixels allow fewer images than 16."""
    at = {size: images_per_pass("cpu", torch.empty(0, 3, size, size)) for size in (16, 32, 84)}
    assert all(64 * 4 * size**2 * images <= 2**25 for size, images in at.items())
    assert at[16] > at[32] > at[84] > 1
    torch.manual_seed(0)
    model = MCRNet(ModelConfig(backbone="conv4-32", image_size=16, latent=LatentConfig(mode="none"))).eval()
    whole = embed_images(model, toy_images)
    alone = torch.cat([model.embed(image) for image in toy_images.images.split(1)])
    torch.testing.assert_close(whole, alone)


def test_images_that_were_fitted_in_another_way_are_refused(toy_images, toy_episodes):
    squashed = dataclasses.replace(toy_images, fitting="squash")
    with pytest.raises(InputError, match="images were fitted by squash, the model is for crop"):
        evaluate(flat_model(), squashed, toy_episodes)


def test_classes_that_the_model_was_trained_on_are_told(toy_images, toy_episodes):
    model = flat_model()
    assert evaluate(model, toy_images, toy_episodes).seen_warning() == ""
    model.trained_on = TrainingData.of(toy_images.only(["class-3", "class-5"]))
    seen = evaluate(model, toy_images, toy_episodes)
    assert seen.seen_classes == ("class-3", "class-5")
    assert seen.seen_warning().startswith("the model was trained on 2 of these 8 classes, first 'class-3'")
