"""Copies among examples: found whatever the order, counted once, and named where their labels disagree."""

import re
import warnings

import numpy as np
import pytest
import torch

from pauca.errors import InputError
from pauca.fewshot import CopiedExamplesWarning, FewShotClassifier
from pauca.fewshot.answers.copies import copies, describe_copies, no_coincidences
from pauca.fewshot.answers.examples import Examples, Words
from pauca.fewshot.latent import LatentConfig
from pauca.fewshot.model import MCRNet, ModelConfig


@pytest.fixture
def classifier() -> FewShotClassifier:
    config = ModelConfig(base_learner="ridge", image_size=16, channels=1, latent=LatentConfig(mode="none"))
    return FewShotClassifier(MCRNet(config, backbone=torch.nn.Flatten()).eval(), device="cpu")


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16), dtype=np.uint8)


def test_copies_are_found_up_to_rounding():
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 30))).float()
    rows[[7, 31]] = rows[3].clone()
    rows[20] = rows[11] * (1 + 1e-7)
    rows[21] = rows[11] * 1.001  # another image
    expected = np.arange(40)
    expected[[7, 31]], expected[20] = 3, 11
    np.testing.assert_array_equal(copies(rows), expected)


def test_copies_of_one_image_promise_nothing(classifier):
    """Five copies each of two images were to be recognized in 95 % of further cases."""
    two = pictures(2)
    with pytest.warns(CopiedExamplesWarning, match="8 of 10 examples are copies"):
        classifier.fit(np.repeat(two, 5, 0), ["a"] * 5 + ["b"] * 5)
    assert classifier._learned.held_out is None


def test_copies_count_like_one_example(classifier):
    images, labels = pictures(8), list("aaaabbbb")
    alone = classifier.fit(images, labels).expected_accuracy()
    with pytest.warns(CopiedExamplesWarning, match="2 of 10 examples"):
        classifier.partial_fit(images[:1].repeat(2, 0), ["a", "a"])
    assert classifier._learned.held_out is not None
    assert classifier._learned.held_out.trials == pytest.approx(8)
    assert classifier.expected_accuracy().high - classifier.expected_accuracy().low == pytest.approx(
        alone.high - alone.low, abs=0.1
    )


def test_one_image_with_two_labels_is_named(classifier):
    images = pictures(6)
    images[5] = images[0]
    with pytest.warns(CopiedExamplesWarning, match="1 of 6 examples is the same image.*'a' and 'b'"):
        classifier.fit(images, list("aaabbb"))


def test_copies_within_a_class_count_once_also_where_another_class_has_the_image_first(classifier):
    images, labels = pictures(6), list("aaabbb")
    images[4] = images[3] = images[0]
    with pytest.warns(CopiedExamplesWarning, match="2 of 6 examples are the same image"):
        classifier.fit(images, labels)
    groups = classifier._learned.groups.tolist()
    assert groups[3] == groups[4]
    assert len(set(groups)) == 5


def test_features_from_elsewhere_may_repeat():
    rows = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learned = FewShotClassifier(backbone="features").fit(rows, list("aabb"))
    assert learned.expected_accuracy().examples == 4


def embedded(count: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, columns)).astype(np.float32)


@pytest.mark.parametrize("columns", [32, 640])
def test_five_copies_of_the_features_of_two_images_promise_nothing(columns):
    """They promised 98 %."""
    learned = FewShotClassifier(backbone="features")
    with pytest.warns(CopiedExamplesWarning, match="8 of 10 examples are copies of another of the same class"):
        learned.fit(np.repeat(embedded(2, columns), 5, 0), ["a"] * 5 + ["b"] * 5)
    assert learned._learned.held_out is None
    learned.set_params(reject=0.1)
    with pytest.raises(InputError, match="two different examples in at least two classes"):
        learned.threshold_  # noqa: B018


def test_copied_features_count_once_however_they_are_scaled():
    rows, labels = embedded(12, 64), list("aaaaaabbbbbb")
    alone = FewShotClassifier(backbone="features").fit(rows, labels)
    with pytest.warns(CopiedExamplesWarning, match="2 of 14 examples are copies"):
        more = FewShotClassifier(backbone="features").fit(np.vstack([rows, rows[0], 3 * rows[7]]), [*labels, "a", "b"])
    assert alone._learned.held_out.trials == 12
    assert more._learned.held_out.trials == pytest.approx(12)


def test_copies_within_a_group_are_no_news():
    rows, labels = embedded(6, 64), list("aaabbb")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learned = FewShotClassifier(backbone="features").fit(
            rows.repeat(2, 0), np.repeat(labels, 2), np.arange(6).repeat(2)
        )
    assert learned._learned.held_out.trials == pytest.approx(6)


def test_features_with_two_labels_are_not_called_an_image():
    rows = embedded(6, 64)
    rows[5] = rows[0]
    with pytest.warns(CopiedExamplesWarning, match="1 of 6 examples is the same as one of another class.* is wrong$"):
        FewShotClassifier(backbone="features").fit(rows, list("aaabbb"))


def test_what_is_alike_by_chance_is_no_copy():
    from sklearn.datasets import load_iris

    generator = np.random.default_rng(0)
    words = np.eye(100)[generator.integers(0, 100, 400)]  # one word of a hundred
    answers = generator.integers(0, 2, (300, 10)) + 0.0  # ten questions
    flowers, _ = load_iris(return_X_y=True)
    for rows in (words, answers, flowers, np.zeros((9, 5))):
        features = torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)
        found = copies(features)
        assert (found != np.arange(len(rows))).any()
        np.testing.assert_array_equal(no_coincidences(features, found), np.arange(len(rows)))


@pytest.mark.parametrize("divided", [False, True])
def test_what_is_alike_by_chance_is_no_copy_where_columns_are_centered(divided):
    """Scaled to length one after a StandardScaler, equal values of two rows are no longer equal numbers."""
    generator = np.random.default_rng(0)
    for rows in (
        generator.integers(0, 2, (300, 10)),
        generator.poisson(0.1, (500, 30)),
        generator.poisson(1, (900, 6)),
    ):
        centered = torch.from_numpy(rows - rows.mean(0)) / (torch.from_numpy(rows.std(0)) if divided else 1)
        features = torch.nn.functional.normalize(centered, dim=1)
        found = copies(features)
        assert (found != np.arange(len(rows))).sum() > 10
        np.testing.assert_array_equal(no_coincidences(features, found), np.arange(len(rows)))


def test_a_copy_is_found_where_columns_are_centered_and_where_most_values_are_zero():
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 17, (600, 64)) + 0.0
    rectified = np.maximum(generator.normal(-1, 1, (400, 640)), 0)
    for rows in (pixels - pixels.mean(0), rectified, rectified - rectified.mean(0)):
        rows[-1] = rows[123]
        found = copies(features := torch.nn.functional.normalize(torch.from_numpy(rows), dim=1))
        expected = np.arange(len(rows))
        expected[-1] = 123
        np.testing.assert_array_equal(no_coincidences(features, found), expected)


def test_comparing_very_many_copies_takes_a_part_of_their_values(monkeypatch):
    rows = torch.from_numpy(embedded(40, 64)).double().repeat(5, 1)
    expected = np.arange(200) % 40
    np.testing.assert_array_equal(no_coincidences(rows, copies(rows)), expected)
    monkeypatch.setattr("pauca.fewshot.answers.copies._PAIRS_ASKED", 10_000)
    np.testing.assert_array_equal(no_coincidences(rows, copies(rows)), expected)


def test_among_many_rows_a_copy_is_still_found():
    generator = np.random.default_rng(0)
    pixels = torch.from_numpy(generator.integers(0, 17, (3000, 64)) + 0.0)  # as of scikit-learn's digits
    pixels[2999] = pixels[1234]
    expected = np.arange(3000)
    expected[2999] = 1234
    np.testing.assert_array_equal(no_coincidences(pixels, copies(pixels)), expected)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (Words(), "1 of 2 examples is the same image as one of another class, .*`pauca fewshot data scan` names"),
        (Words("recordings", "recordings"), "1 of 2 recordings is the same as one of another class, .* is wrong$"),
    ],
)
def test_what_are_no_images_are_not_called_so(words, said):
    """Recordings were called images, and the remedy was a scan that reads none."""
    examples = Examples.of(torch.ones(2, 4), np.array(["a", "b"]), None)
    assert re.match(said, describe_copies(examples, np.array([0, 0]), words))
