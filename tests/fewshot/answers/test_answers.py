"""Answers one can trust: temperature, distance and threshold, expected accuracy, on simulated tasks."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from pauca.errors import ConfigError, InputError
from pauca.fewshot import FewShotClassifier
from pauca.fewshot.answers.held_out import HeldOut, hold_out
from pauca.fewshot.answers.outlook import expected_accuracy
from pauca.fewshot.answers.temperature import class_spread, fit_temperature, usual_temperature
from pauca.fewshot.answers.threshold import conformal_threshold, examples_needed
from pauca.fewshot.answers.unknown import ClassMeans
from pauca.fewshot.pretrained import Features, Preprocessing, Pretrained

DIMENSIONS = 40


def draw(generator, classes, each, spread=1.0):
    """Features [classes, each, d] around random means: how far apart classes are varies from task to task."""
    means = generator.normal(0, generator.uniform(0.3, 0.8), (classes, 1, DIMENSIONS))
    return means + spread * generator.normal(0, 1, (classes, each, DIMENSIONS))


def flat(features):
    return features.reshape(-1, DIMENSIONS)


def fitted(features, **options):
    """A classifier of the first examples of each class."""
    classifier = FewShotClassifier(backbone="features", device="cpu", **options)
    return classifier.fit(flat(features), np.arange(len(features)).repeat(features.shape[1]))


def test_each_example_is_left_out_once_beside_one_of_every_class():
    seen = []

    class Spy(Features):
        def classify(self, support, support_labels, query, way):
            seen.append(support_labels)
            return super().classify(support, support_labels, query, way)

    targets = torch.tensor([0, 1, 0, 1, 1, 2])
    held_out = hold_out(Spy(), torch.randn(6, 4, dtype=torch.float64), targets, 3)
    left_out = (torch.cat(seen) == -1).int()
    assert left_out.tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0]]  # the only one of 2 stays
    assert held_out is not None
    assert held_out.labels.tolist() == [0, 1, 0, 1, 1]
    assert held_out.shots == pytest.approx(2 / (1 / 2 + 1 / 3))
    assert hold_out(Features(), torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2]), 3) is None


def test_left_out_logits_are_those_of_a_classifier_that_has_not_seen_the_example():
    features = torch.from_numpy(flat(draw(np.random.default_rng(0), 3, 2)))
    targets = torch.arange(3).repeat_interleave(2)
    model = Features()
    held_out = hold_out(model, features, targets, 3)
    assert held_out is not None
    first = model.classify(features[None, 1::2], targets[None, 1::2], features[None, ::2], 3)[0]
    torch.testing.assert_close(held_out.logits[:3], first)


@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
def test_a_temperature_makes_up_for_a_scale_that_is_far_off(scale):
    """Of 5 examples in 10 classes; without it the cross-entropy of the worst is 5 nats."""
    generator = np.random.default_rng(0)
    features = draw(generator, 10, 55)
    model = Features()
    with torch.no_grad():
        model.base_learner.scale.fill_(scale)
    queries, labels = flat(features[:, 5:]), np.arange(10).repeat(50)
    losses = {}
    for temperature in ("auto", 1.0):
        classifier = FewShotClassifier(model, temperature=temperature, device="cpu")
        classifier.fit(flat(features[:, :5]), np.arange(10).repeat(5))
        probabilities = classifier.predict_proba(queries)
        losses[temperature] = -np.log(probabilities[np.arange(500), labels]).mean()
        assert classifier.temperature_ == 1 or temperature == "auto"
    best = min(
        -torch.nn.functional.log_softmax(torch.from_numpy(np.log(probabilities)) * 1.1**k, 1)[range(500), labels].mean()
        for k in range(-60, 60)
    )
    assert losses["auto"] < best + 0.1
    assert losses["auto"] < losses[1.0] + 0.02


def test_few_examples_do_not_move_a_temperature_far():
    """Three examples that are all recognized would have it be nothing."""
    held_out = HeldOut(torch.eye(3), torch.arange(3), 5.0, torch.ones(3))
    assert 0.1 < fit_temperature(Features(), held_out, 5.0) < 1
    assert fit_temperature(Features(), None, 5.0) == 1


LEARNERS = ("cosine", "prototypes", "ridge", "logistic", "svm")  # recognition brings another one


@pytest.mark.parametrize("learner", LEARNERS)
def test_one_example_of_weak_features_is_believed_less(learner):
    """Eight numbers that say little of the class: cosine was 6 nats off where 2.3 say nothing."""
    generator = np.random.default_rng(0)
    nats, without = [], []
    for _ in range(20):
        centers = generator.normal(size=(10, 1, 8))
        rows = centers + 1.5 * generator.normal(size=(10, 21, 8))
        classifier = FewShotClassifier(backbone="features", base_learner=learner, device="cpu")
        classifier.fit(rows[:, 0], np.arange(10))
        asked, labels = rows[:, 1:].reshape(-1, 8), np.arange(10).repeat(20)
        nats.append(log_loss(labels, classifier.predict_proba(asked)))
        spread = classifier.temperature_
        classifier.set_params(temperature=usual_temperature(classifier.model_, 1.0, 0.0))
        assert spread > classifier.temperature_ * 0.999
        without.append(log_loss(labels, classifier.predict_proba(asked)))
    assert np.mean(nats) < np.mean(without) - 0.05


def test_the_spread_is_that_of_the_means_of_classes_that_are_there():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 9, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[0, 0, 1, 2, 3, 3, 3, 4, 4], [0, 0, 2, 2, 2, 3, 3, 3, 3]])
    found = class_spread(rows, torch.nn.functional.one_hot(labels, 5))
    for some, own, spread in zip(rows, labels, found, strict=True):
        unit = torch.nn.functional.normalize(some, dim=1)
        means = [unit[own == label].mean(0) for label in own.unique()]
        cosines = [float(a @ b / a.norm() / b.norm()) for a, b in itertools.combinations(means, 2)]
        assert float(spread) == pytest.approx(np.var(cosines) * len(cosines) / (len(cosines) + 2))
    assert class_spread(rows[:, :2], torch.eye(2, dtype=torch.int64).expand(2, -1, -1)).tolist() == [0, 0]


def test_one_example_of_features_that_nobody_knows_is_not_believed_more():
    known, unknown = Features(), Features()
    known.is_known = True
    assert fit_temperature(known, None, 1.0) < 0.7
    assert fit_temperature(unknown, None, 1.0) == 1
    assert fit_temperature(Features("cosine"), None, 1.0) > 1
    for learner in LEARNERS:
        weak, strong = (fit_temperature(Features(learner), None, 1.0, spread) for spread in (0.15, 0.001))
        assert weak > strong >= 1
        known.config = Features(learner).config
        assert fit_temperature(known, None, 1.0, 0.15) == fit_temperature(known, None, 1.0)
    assert Pretrained(torch.nn.Flatten(), Preprocessing(8, (0.5,), (0.5,))).is_known is False  # a module of one's own


@pytest.mark.parametrize("base_learner", ["ridge", "logistic", "cosine", "prototypes", "svm"])
@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0])  # a strong backbone, a middling and a weak one
def test_fewer_than_five_examples_do_not_make_probabilities_worse(base_learner, spread):
    """Over tasks, against no temperature. With 1 example of pixels it was 3.2 nats for 2.2."""
    generator = np.random.default_rng(0)
    for shots in (1, 3):
        losses = {"auto": [], 1.0: []}
        for _ in range(5):
            features = draw(generator, 5, shots + 10, spread)
            for temperature, found in losses.items():
                classifier = fitted(features[:, :shots], base_learner=base_learner, temperature=temperature)
                probabilities = classifier.predict_proba(flat(features[:, shots:]))
                found.append(-np.log(probabilities[np.arange(50), np.arange(5).repeat(10)] + 1e-9).mean())
        assert np.mean(losses["auto"]) < np.mean(losses[1.0]) + 0.02


@pytest.mark.parametrize("temperature", [0.0, -1.0, "warm"])
def test_a_temperature_is_a_positive_number(temperature):
    features = draw(np.random.default_rng(0), 2, 2)
    with pytest.raises(ConfigError, match="give a positive number, or auto"):
        fitted(features, temperature=temperature).predict_proba(flat(features))


def test_distances_are_cosines_to_class_means():
    features, targets = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 1.0]]), torch.tensor([0, 1, 1])
    means = ClassMeans.of(features.double(), targets, 2)
    asked = torch.tensor([[5.0, 0.0], [1.0, 1.0], [-1.0, 0.0]]).double()
    assert means.distances(asked).tolist() == pytest.approx([0, 1 - 0.5**0.5, 1])


@pytest.mark.parametrize(("shots", "off"), [(2, 0.03), (5, 0.02)])
def test_the_share_of_known_images_that_is_rejected_is_the_chosen_one(shots, off):
    """On average over tasks; without the correction for the example that is left out it is half with 2 examples."""
    generator = np.random.default_rng(0)
    rejected = []
    for _ in range(60):
        features = draw(generator, 10, shots + 40)
        classifier = fitted(features[:, :shots], reject=0.1)
        rejected.append(np.mean(classifier.predict(flat(features[:, shots:])) == -1))
    assert np.mean(rejected) == pytest.approx(0.1, abs=off)


def test_a_promise_for_this_fit_is_kept_as_often_as_stated():
    """With further images, which are exchangeable, in at least 90 % of tasks; on average in 60 %."""
    generator = np.random.default_rng(0)
    kept = {None: 0, 0.9: 0}
    for _ in range(400):
        known, further = generator.normal(size=60), generator.normal(size=2000)
        for confidence in kept:
            kept[confidence] += np.mean(further > conformal_threshold(known, 0.1, confidence)) <= 0.1
    assert kept[0.9] > 0.87 * 400
    assert kept[None] < 0.7 * 400


@pytest.mark.parametrize(("share", "confidence"), [(0.05, None), (0.1, None), (0.05, 0.9), (0.1, 0.95)])
def test_how_many_examples_a_threshold_takes(share, confidence):
    needed = examples_needed(share, confidence)
    assert conformal_threshold(np.arange(needed) / 7, share, confidence) < np.inf
    assert conformal_threshold(np.arange(needed - 1) / 7, share, confidence) == np.inf


def test_the_distance_tells_strangers_apart_better_than_the_largest_probability():
    generator = np.random.default_rng(0)
    by_distance, by_probability = [], []
    for _ in range(20):
        features = draw(generator, 10, 25)
        classifier = fitted(features[:5, :5])
        answers = classifier.answer(flat(features[:, 5:]))
        stranger = np.arange(10).repeat(20) >= 5
        by_distance.append(roc_auc_score(stranger, answers.distances))
        by_probability.append(roc_auc_score(stranger, -answers.probabilities.max(1)))
    assert np.mean(by_distance) > np.mean(by_probability) + 0.02


def test_the_accuracy_to_expect_holds_in_nine_of_ten_tasks():
    generator = np.random.default_rng(0)
    held, estimates, truths = [], [], []
    for _ in range(200):
        way, shots = int(generator.integers(2, 8)), int(generator.integers(2, 8))
        features = draw(generator, way, shots + 60)
        classifier = fitted(features[:, :shots])
        found = classifier.expected_accuracy()
        truth = classifier.score(flat(features[:, shots:]), np.arange(way).repeat(60))
        held.append(found.low <= truth <= found.high)
        estimates.append(found.accuracy)
        truths.append(truth)
    assert np.mean(held) == pytest.approx(0.9, abs=0.07)  # two standard errors are 0.042
    assert np.mean(estimates) == pytest.approx(np.mean(truths), abs=0.03)


def test_more_examples_narrow_the_interval_and_it_reads_as_a_sentence():
    few, many = (
        expected_accuracy(HeldOut(torch.eye(2).repeat(n, 1), torch.arange(2).repeat(n), 5.0, torch.ones(2 * n)))
        for n in (2, 50)
    )
    assert few.low < many.low < many.high
    assert str(many).startswith("99 % of further images right, between 97 and 100 % in nine of ten such tasks (100 ")


def test_one_example_of_each_class_says_nothing_of_the_accuracy():
    with pytest.raises(InputError, match="takes two in at least two classes"):
        fitted(draw(np.random.default_rng(0), 3, 1)).expected_accuracy()


def test_classes_are_removed_and_renamed():
    features = draw(np.random.default_rng(0), 3, 4)
    classifier = fitted(features).rename_class(2, 7).remove_class(0)
    assert classifier.classes_.tolist() == [1, 7]
    expected = FewShotClassifier(backbone="features", device="cpu").fit(flat(features[1:]), [1] * 4 + [7] * 4)
    np.testing.assert_array_equal(classifier.predict_proba(flat(features)), expected.predict_proba(flat(features)))
    assert classifier.partial_fit(flat(features[:1]), [3] * 4).classes_.tolist() == [1, 3, 7]
    with pytest.raises(InputError, match="no class is called 5; there are 1, 3, 7"):
        classifier.remove_class(5)
    with pytest.raises(InputError, match="give a name of its kind"):
        classifier.rename_class(3, "ant")
    with pytest.raises(InputError, match="one class is not enough"):
        classifier.remove_class(1).remove_class(3)


def test_a_longer_name_is_not_cut_off():
    features = draw(np.random.default_rng(0), 2, 2)
    classifier = FewShotClassifier(backbone="features", device="cpu").fit(flat(features), ["a", "a", "b", "b"])
    assert classifier.rename_class("a", "antelope").classes_.tolist() == ["antelope", "b"]


REJECTING = FewShotClassifier(backbone="features", device="cpu", reject=0.05, unknown_label=-99)


@pytest.mark.filterwarnings("ignore::pauca.fewshot.FewExamplesWarning")  # the checks fit few
@parametrize_with_checks(
    [REJECTING],
    expected_failed_checks=lambda _: {"check_classifiers_train": "a rejected image has not the most probable label"},
)
def test_scikit_learns_contract_with_rejection(estimator, check):
    check(estimator)
