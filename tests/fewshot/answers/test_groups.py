"""Examples that belong together: left out together, counted once, and known by name ever after."""

import numpy as np
import pytest
import torch

from pauca.errors import InputError
from pauca.fewshot import FewShotClassifier
from pauca.fewshot.answers.groups import Groups
from pauca.fewshot.answers.held_out import hold_out
from pauca.fewshot.answers.threshold import FewExamplesWarning, conformal_threshold
from pauca.fewshot.pretrained import Features

DIMENSIONS = 40


def videos(generator, classes, each, frames):
    """Features [classes, each, frames, d]: the frames of a video have more in common than their class."""
    means = generator.normal(0, 0.6, (classes, 1, 1, DIMENSIONS))
    things = generator.normal(0, 1, (classes, each, 1, DIMENSIONS))
    return means + things + 0.3 * generator.normal(0, 1, (classes, each, frames, DIMENSIONS))


def fitted(features, grouped, **options):
    """A classifier of all these frames, told or not told which belong together."""
    classes, each, frames, _ = features.shape
    labels = np.arange(classes).repeat(each * frames)
    names = np.arange(classes * each).repeat(frames) if grouped else None
    classifier = FewShotClassifier(backbone="features", device="cpu", **options)
    return classifier.fit(features.reshape(-1, DIMENSIONS), labels, groups=names)


def flat(features):
    return features.reshape(-1, DIMENSIONS)


def test_a_name_means_the_same_group_ever_after():
    groups = Groups.none(torch.device("cpu")).with_more(["a", "b", "a"], 3).with_more(None, 2)
    assert groups.numbers.tolist() == [0, 1, 0, 2, 3]
    assert groups.with_more(["b", "c"], 2).numbers.tolist() == [0, 1, 0, 2, 3, 1, 4]
    assert groups.of(torch.tensor([3, 4])).with_more(["b", "d"], 2).numbers.tolist() == [2, 3, 1, 4]


@pytest.mark.parametrize("new", [["c"], None])
def test_the_group_of_examples_that_were_removed_is_not_taken_by_others(new):
    left = Groups.none(torch.device("cpu")).with_more(["a", "b"], 2).of(torch.tensor([0]))
    assert left.with_more(new, 1).with_more(["b", "a"], 2).numbers.tolist() == [0, 2, 1, 0]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a"], "groups of shape .1,. for 2 examples"),
        ([[1, 2]], "groups of shape .1, 2. for 2"),
        ([0.5, 1.5], "give whole numbers or strings"),
        ([float("nan"), 1], "give whole numbers or strings"),
        ([None, "a"], "give whole numbers or strings"),
        ([b"a", b"b"], "give whole numbers or strings"),
    ],
)
def test_groups_that_are_none_are_refused(names, words):
    with pytest.raises(InputError, match=words):
        Groups.none(torch.device("cpu")).with_more(names, 2)


def test_a_group_is_left_out_whole_in_all_of_its_classes():
    seen = []

    class Spy(Features):
        def classify(self, support, support_labels, query, way):
            seen.append(support_labels)
            return super().classify(support, support_labels, query, way)

    targets = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    groups = torch.tensor([5, 5, 6, 6, 7, 8, 8])
    found = hold_out(Spy(), torch.randn(7, 4, dtype=torch.float64), targets, 3, groups)
    left_out = torch.cat(seen) == -1
    assert found is not None
    for group in groups.unique():
        alone = targets == 2  # its class has no other group and stays
        together = left_out[:, (groups == group) & ~alone]
        assert (together.all(1) == together.any(1)).all()
    assert left_out.sum(0).tolist() == [1, 1, 1, 1, 1, 1, 0]
    assert sorted(found.weights.tolist()) == [0.5, 0.5, 1, 1, 1, 1]
    assert found.shots == pytest.approx(2 / (1 / 2 + 1 / 3))


def test_each_example_in_a_group_of_its_own_is_no_group_at_all():
    generator = np.random.default_rng(0)
    features, further = videos(generator, 3, 7, 1), flat(videos(generator, 3, 7, 1))
    one, other = (fitted(features, grouped, reject=0.1) for grouped in (False, True))
    np.testing.assert_array_equal(one.predict_proba(further), other.predict_proba(further))
    assert one.threshold_ == pytest.approx(other.threshold_, rel=1e-12)
    assert one.expected_accuracy() == other.expected_accuracy()
    assert one.unknown_auroc() == pytest.approx(other.unknown_auroc(), rel=1e-12)


def test_copies_of_the_examples_add_nothing_to_what_is_promised():
    features = videos(np.random.default_rng(1), 3, 5, 1)
    once, twice = fitted(features, True, reject=0.1), fitted(features.repeat(2, 2), True, reject=0.1)
    assert twice.threshold_ == pytest.approx(once.threshold_, abs=0.05)  # between the same two distances
    assert twice.unknown_auroc() == pytest.approx(once.unknown_auroc())
    one, two = once.expected_accuracy(), twice.expected_accuracy()
    assert (two.accuracy, two.low) == pytest.approx((one.accuracy, one.low), abs=0.02)
    assert str(two).endswith("(30 examples in 15 groups left out)")


def test_what_is_promised_holds_for_further_videos():
    """Four videos of each of four classes, five frames each. Left out one by one, frames promise far too much."""
    generator = np.random.default_rng(0)
    rejected, held, nats = ({True: [], False: []} for _ in range(3))
    for _ in range(40):
        seen = videos(generator, 4, 24, 5)
        truth = np.arange(4).repeat(20 * 5)
        for grouped in (True, False):
            classifier = fitted(seen[:, :4], grouped, reject=0.1)
            answers = classifier.answer(flat(seen[:, 4:]))
            rejected[grouped].append(np.mean(answers.labels == -1))
            right = float(np.mean(answers.probabilities.argmax(1) == truth))
            outlook = classifier.expected_accuracy()
            held[grouped].append(outlook.low <= right <= outlook.high)
            nats[grouped].append(-np.log(answers.probabilities[np.arange(len(truth)), truth]).mean())
    assert np.mean(rejected[True]) == pytest.approx(0.1, abs=0.04)
    assert np.mean(rejected[False]) > 0.3
    assert np.mean(held[True]) > 0.85
    assert np.mean(held[False]) < 0.5
    assert np.mean(nats[True]) < np.mean(nats[False])


def test_with_confidence_the_share_is_kept_by_groups():
    """Alike groups of four distances: 90 % of fits are to lose no more than 20 %; taken one by one, far fewer do."""
    generator = np.random.default_rng(0)
    kept = {True: [], False: []}
    for _ in range(400):
        known = generator.normal(size=(40, 1)) + 0.3 * generator.normal(size=(40, 4))
        further = generator.normal(size=(2000, 1)) + 0.3 * generator.normal(size=(2000, 4))
        for grouped in kept:
            weights = np.full(160, 0.25 if grouped else 1.0)
            kept[grouped].append(np.mean(further > conformal_threshold(known.ravel(), 0.2, 0.9, weights)) <= 0.2)
    assert np.mean(kept[True]) > 0.87
    assert np.mean(kept[False]) < 0.85


def test_too_few_groups_say_so():
    generator = np.random.default_rng(0)
    with pytest.warns(
        FewExamplesWarning, match="takes 9 groups of examples .* groups of further images .* there are 6"
    ):
        fitted(videos(generator, 3, 2, 5), True, reject=0.1)
    with pytest.raises(InputError, match="needs two groups of examples in at least two classes"):
        fitted(videos(generator, 3, 1, 5), True, reject=0.1)
    with pytest.raises(InputError, match="by leaving out groups of examples, which takes two"):
        fitted(videos(generator, 3, 1, 5), True).expected_accuracy()
    further = flat(videos(generator, 3, 2, 5))
    classifier = fitted(videos(generator, 3, 4, 5), True, reject=0.1)
    with pytest.warns(FewExamplesWarning, match="there are 6"):
        classifier.calibrate(further, groups=np.arange(6).repeat(5))
    assert classifier.threshold_ == np.inf
    assert classifier.calibrate(further).threshold_ < np.inf


@pytest.mark.parametrize("names", [np.arange(6), np.array([f"video {n}" for n in range(6)])])
def test_groups_are_kept_in_the_file_and_with_classes_that_change(tmp_path, names):
    generator = np.random.default_rng(0)
    features, more = videos(generator, 3, 4, 5), flat(videos(generator, 3, 2, 5))
    first = FewShotClassifier(backbone="features", device="cpu", reject=0.2)
    first.fit(flat(features[:, :2]), np.arange(3).repeat(10), groups=names.repeat(5))
    first.calibrate(more, groups=np.arange(6).repeat(5))
    first.save(tmp_path / "fitted.safetensors")
    again = FewShotClassifier.load(tmp_path / "fitted.safetensors", "cpu")
    assert again.threshold_ == first.threshold_
    for classifier in (first, again):
        classifier.partial_fit(flat(features[:, 2:]), np.arange(3).repeat(10), groups=names.repeat(5))  # further frames
        classifier.rename_class(2, 7).remove_class(0)
    assert str(first.expected_accuracy()).endswith("(40 examples in 4 groups left out)")
    assert again.expected_accuracy() == first.expected_accuracy()


def test_images_of_a_group_answer_together():
    features = videos(np.random.default_rng(0), 3, 3, 4)
    classifier = fitted(features[:, :2], True, temperature=1.0)
    asked = flat(features[:, 2])  # three videos
    alone = np.log(classifier.predict_proba(asked)).reshape(3, 4, 3)
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    for given, counted in ((None, np.ones(4)), (np.tile(weights, 3), weights)):
        mean = np.exp((alone * counted[:, None]).sum(1) / counted.sum())
        answers = classifier.answer(asked, groups=np.arange(3).repeat(4), weights=given)
        np.testing.assert_allclose(answers.probabilities, mean / mean.sum(1, keepdims=True), rtol=1e-6)
        far = (classifier.distances(asked).reshape(3, 4) * counted).sum(1) / counted.sum()
        np.testing.assert_allclose(answers.distances, far, rtol=1e-6)
    mixed = classifier.answer(asked[[8, 0, 9]], groups=["last", "first", "last"])
    assert mixed.labels.shape == (2,)
    np.testing.assert_allclose(mixed.probabilities[1], np.exp(alone[0, 0]), rtol=1e-6)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [1.0, np.nan], [[1.0, 1.0]]])
def test_weights_that_are_none_are_refused(weights):
    features = videos(np.random.default_rng(0), 2, 1, 2)
    with pytest.raises(InputError, match="a positive number for each"):
        fitted(features, True).answer(flat(features)[:2], groups=[0, 0], weights=weights)


def test_copies_that_vote_are_calibrated_like_the_examples_themselves():
    features, more = (videos(np.random.default_rng(seed), 3, 5, 1) for seed in (1, 2))
    told = {"reject": 0.1, "base_learner": "prototypes"}  # which a copy changes nothing of
    once, thrice = fitted(features, False, **told), fitted(features.repeat(3, 2), True, **told, votes=True)
    assert thrice.threshold_ == pytest.approx(once.threshold_, abs=1e-6)
    assert thrice.temperature_ == pytest.approx(once.temperature_, rel=1e-6)
    assert thrice.expected_accuracy() == once.expected_accuracy()
    for classifier, frames in ((once, 1), (thrice, 3)):
        classifier.calibrate(flat(more.repeat(frames, 2)), groups=np.arange(15).repeat(frames))
    assert thrice.threshold_ == pytest.approx(once.threshold_, abs=1e-6)


def test_what_votes_say_of_themselves_is_true(tmp_path):
    """Frames that differ much: what single frames are right about says too little of what five of them are."""
    generator = np.random.default_rng(0)
    lost, gap = ({True: [], False: []} for _ in range(2))
    for _ in range(40):
        seen = videos(generator, 4, 24, 5) + 0.9 * generator.normal(size=(4, 24, 5, DIMENSIONS))
        truth, of_video = np.arange(4).repeat(20), np.arange(80).repeat(5)
        for votes in lost:
            classifier = fitted(seen[:, :4], True, reject=0.1, votes=votes)
            answers = classifier.answer(flat(seen[:, 4:]), groups=of_video)
            lost[votes].append(np.mean(answers.labels == -1))
            right = answers.probabilities.argmax(1) == truth
            gap[votes].append(answers.probabilities.max(1).mean() - right.mean())
    assert np.mean(lost[True]) == pytest.approx(0.1, abs=0.03)
    assert np.mean(lost[False]) < 0.05
    assert abs(np.mean(gap[True])) < 0.03 < abs(np.mean(gap[False]))
    fitted(seen[:, :4], True, votes=True).save(tmp_path / "votes.safetensors")
    assert FewShotClassifier.load(tmp_path / "votes.safetensors", "cpu").expected_accuracy().examples == 16
