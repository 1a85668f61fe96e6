"""FewShotClassifier: scikit-learn's contract, labels of any kind, unbalanced shots, new classes, rejection."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import validate_data
from torch import nn

from pauca.errors import ConfigError, InputError
from pauca.fewshot.answers.threshold import FewExamplesWarning, conformal_threshold
from pauca.fewshot.data import load_images
from pauca.fewshot.estimator import FewShotClassifier
from pauca.fewshot.latent import LatentConfig
from pauca.fewshot.model import MCRNet, ModelConfig
from pauca.fewshot.views_at_test import ViewsAtTest


def flat_model(base_learner="prototypes", channels=3, size=16) -> MCRNet:
    """Raw pixels as features: nothing to train."""
    config = ModelConfig(
        base_learner=base_learner, image_size=size, channels=channels, latent=LatentConfig(mode="none")
    )
    model = MCRNet(config, backbone=nn.Flatten())
    with torch.no_grad():
        model.base_learner.scale.fill_(20.0)
    return model.eval()


@pytest.fixture
def task(toy_images):
    """Five examples each of four classes, five queries of each, and five images of two classes never shown."""
    by_class = toy_images.images.unflatten(0, (8, 12)).permute(0, 1, 3, 4, 2).numpy()
    names = np.array(["ant", "bee", "cow", "doe"]).repeat(5)
    return by_class[:4, :5].reshape(-1, 16, 16, 3), names, by_class[:4, 5:10].reshape(-1, 16, 16, 3), by_class[4:6, :5]


class RowsAsImages(FewShotClassifier):
    """Rows of numbers painted as gray images, so that scikit-learn's checks, which know no images, can run."""

    backbone = base_learner = confidence = views = None  # no parameters here
    temperature, verbose, votes = "auto", False, False

    def __init__(self, reject=None, unknown_label="unknown", device="cpu", mirror=False):
        self.reject, self.unknown_label, self.device, self.mirror = reject, unknown_label, device, mirror

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = False
        tags.input_tags.string = False
        return tags

    def _load_model(self):
        self.model_ = flat_model(channels=1)

    def _images(self, X):
        X = validate_data(self, X, reset=not hasattr(self, "features_"), dtype=np.float64, ensure_min_samples=1)
        images = np.zeros((len(X), 256), np.float32)
        images[:, : X.shape[1]] = X
        return torch.from_numpy(images.reshape(-1, 1, 16, 16))

    def fit(self, X, y, groups=None):
        vars(self).pop("features_", None)
        return super().fit(X, y, groups)


@pytest.mark.filterwarnings("ignore::pauca.fewshot.CopiedExamplesWarning")  # of integers from 0 to 2
@parametrize_with_checks([RowsAsImages()])
def test_scikit_learns_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("base_learner", ["ridge", "svm", "prototypes", "logistic", "cosine"])
def test_string_labels_are_learned_from_five_examples(task, base_learner):
    examples, names, queries, _ = task
    classifier = FewShotClassifier(flat_model(base_learner)).fit(examples, names)
    assert list(classifier.classes_) == ["ant", "bee", "cow", "doe"]
    assert list(classifier.predict(queries)) == list(names)
    probabilities = classifier.predict_proba(queries)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert classifier.score(queries, names) == 1.0


def test_numbers_as_labels_keep_their_values(task):
    examples, names, queries, _ = task
    labels = np.where(names == "ant", 3, 7)
    assert set(FewShotClassifier(flat_model("ridge")).fit(examples, labels).predict(queries)) == {3, 7}


def test_one_example_of_one_class_and_five_of_another(task):
    examples, names, queries, _ = task
    classifier = FewShotClassifier(flat_model()).fit(examples[4:10], names[4:10])  # one ant, five bees
    assert classifier.score(queries[:10], names[:10]) == 1.0


def test_partial_fit_adds_examples_and_classes(task):
    examples, names, queries, _ = task
    grown = FewShotClassifier(flat_model("ridge")).partial_fit(examples[5:], names[5:])
    assert list(grown.classes_) == ["bee", "cow", "doe"]
    grown.partial_fit(examples[:5], names[:5])
    at_once = FewShotClassifier(flat_model("ridge")).fit(examples, names)
    np.testing.assert_allclose(grown.predict_proba(queries), at_once.predict_proba(queries), atol=1e-6)


def test_paths_arrays_and_tensors_are_the_same_images(task, tmp_path):
    examples, names, queries, _ = task
    paths = []
    for i, image in enumerate(queries):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[-1])
    classifier = FewShotClassifier(flat_model()).fit(examples, names)
    expected = classifier.predict_proba(queries)
    for same in (paths, list(map(str, paths)), torch.from_numpy(queries).permute(0, 3, 1, 2), queries / 255.0):
        np.testing.assert_allclose(classifier.predict_proba(same), expected, atol=1e-6)


def test_a_saved_model_is_given_by_its_path(task, tmp_path):
    examples, names, queries, _ = task
    torch.manual_seed(0)
    model = MCRNet(ModelConfig(backbone="conv4-32", image_size=16, base_learner="cosine"))
    model.save(tmp_path / "model.safetensors")
    by_path = FewShotClassifier(tmp_path / "model.safetensors").fit(examples, names).predict_proba(queries)
    np.testing.assert_array_equal(by_path, FewShotClassifier(model).fit(examples, names).predict_proba(queries))


def test_images_are_fitted_to_the_models_size_and_channels():
    gray = np.full((2, 40, 60), 128, np.uint8)
    assert load_images(gray, 16, 3).shape == (2, 3, 16, 16)
    color = np.tile(np.array([255, 0, 0], np.uint8), (1, 16, 16, 1))
    assert load_images(color, 16, 1).unique().tolist() == [76]  # 0.299 of red


def test_images_of_unknown_classes_are_rejected_and_few_known_ones(task):
    examples, names, queries, strangers = task
    classifier = FewShotClassifier(flat_model(), reject=0.1).fit(examples, names)
    answers = classifier.predict(strangers.reshape(-1, 16, 16, 3))
    assert np.mean(answers == "unknown") > 0.5
    assert np.mean(classifier.predict(queries) == "unknown") <= 0.25


def test_too_few_examples_for_a_threshold_reject_nothing_and_say_how_many_it_takes(task):
    examples, names, _, strangers = task
    with pytest.warns(
        FewExamplesWarning, match="takes 49 examples .* and there are 20; give more, or set reject to 0.048"
    ):
        classifier = FewShotClassifier(flat_model(), reject=0.02, device="cpu").fit(examples, names)
    assert classifier.threshold_ == math.inf
    assert "unknown" not in classifier.predict(strangers.reshape(-1, 16, 16, 3))


def test_warnings_name_the_line_that_asked(task):
    examples, names, queries, _ = task
    classifier = FewShotClassifier(flat_model(), reject=0.01, device="cpu")
    for asked in (lambda: classifier.partial_fit(examples, names), lambda: classifier.calibrate(queries)):
        with pytest.warns(FewExamplesWarning) as said:
            asked()
        assert [warning.filename for warning in said] == [__file__]


def test_calibrate_takes_further_images(task):
    examples, names, queries, _ = task
    classifier = FewShotClassifier(flat_model(), reject=0.1).fit(examples, names)
    classifier.calibrate(queries)
    assert classifier.threshold_ == pytest.approx(conformal_threshold(classifier.distances(queries), 0.1))


def test_one_example_a_class_cannot_set_a_threshold(task):
    examples, names, _, _ = task
    with pytest.raises(InputError, match="two examples in at least two classes"):
        FewShotClassifier(flat_model(), reject=0.1).fit(examples[::5], names[::5])


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (np.zeros((2, 16, 16, 5), np.uint8), ["a", "b"], r"shape \(2, 16, 16, 5\)"),
        (np.full((2, 16, 16), np.nan), ["a", "b"], "image 0 holds the value nan"),
        (np.full((2, 16, 16), 7.0), ["a", "b"], "must be finite, from 0 to 1"),
        (np.zeros((2, 16, 16), np.uint8), ["a"], "2 images but 1 labels"),
        (np.zeros((2, 16, 16), np.uint8), ["a", "a"], "all examples have one label, 'a'"),
        (["absent.jpg", "b.jpg"], ["a", "b"], r"absent\.jpg: no such file"),
        ("absent.jpg", ["a", "b"], "put it in a list"),
        ([], [], "no images were given"),
    ],
)
def test_bad_input_is_named(images, labels, words):
    with pytest.raises(InputError, match=words):
        FewShotClassifier(flat_model()).fit(images, labels)


def test_reject_is_a_share():
    two = np.eye(16, dtype=np.uint8)[[0, 1], None].repeat(16, 1)
    with pytest.raises(ConfigError, match=r"reject 1\.5"):
        FewShotClassifier(flat_model(), reject=1.5).fit(two, ["a", "b"])


def test_a_clone_is_unfitted_and_an_unfitted_one_says_so(task):
    examples, names, queries, _ = task
    copy = clone(FewShotClassifier(flat_model(), reject=0.2).fit(examples, names))
    assert copy.reject == 0.2
    with pytest.raises(NotFittedError):
        copy.predict(queries)


def test_a_diverged_model_does_not_answer(task, monkeypatch):
    """Base learners check their features on the CPU only; on a GPU this is the check that keeps NaN from class 0."""
    support, names, query, _ = task
    classifier = FewShotClassifier(flat_model()).fit(support, names)
    classifier.model_.deviation.fill_(0)
    monkeypatch.setattr("pauca.fewshot.base_learners.head.check_episodes", lambda *_: None)
    with pytest.raises(InputError, match="features of image 0 are not finite"):
        classifier.predict(query)


def test_an_image_and_its_mirror_image_are_the_same_where_that_is_asked(task):
    examples, names, queries, _ = task
    differences = []
    for mirror in (False, True):
        classifier = FewShotClassifier(flat_model(), device="cpu", mirror=mirror).fit(examples, names)
        one, other = (
            classifier.predict_proba(np.ascontiguousarray(images)) for images in (queries, queries[:, :, ::-1])
        )
        differences.append(np.abs(one - other).max())
    assert differences[0] > 0.1
    assert differences[1] < 1e-6


def test_turns_are_seen_where_that_is_asked(task):
    examples, names, _, _ = task
    plain = FewShotClassifier(flat_model(), device="cpu").fit(examples, names)
    turned = FewShotClassifier(flat_model(), device="cpu", views=ViewsAtTest(turns=True)).fit(examples, names)
    assert turned.features_.shape[1] == 4 * plain.features_.shape[1]
    with pytest.raises(ConfigError, match="views 'turns': give a ViewsAtTest"):
        FewShotClassifier(flat_model(), device="cpu", views="turns").fit(examples, names)


def test_a_photograph_has_the_same_features_by_path_and_as_pixels(task, tmp_path):
    """40 x 60 pixels, neither square nor of one color: paths were cropped and arrays squashed."""
    examples, names, _, _ = task
    classifier = FewShotClassifier(flat_model(), device="cpu").fit(examples, names)
    photograph = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    path = tmp_path / "photograph.png"
    Image.fromarray(photograph).save(path)
    expected = classifier.predict_proba([path])
    for same in ([str(path)], [path.read_bytes()], [Image.open(path)], [photograph], photograph[None] / 255):
        np.testing.assert_array_equal(classifier.predict_proba(same), expected)
    with pytest.raises(InputError, match="is one color image and not a batch"):
        classifier.predict(photograph)


def test_the_model_says_how_images_are_fitted(task):
    examples, names, _, _ = task
    photograph = np.zeros((1, 32, 64, 3), np.uint8)
    photograph[:, :, :16] = 255  # cut off by a crop
    cropping, squashing = flat_model(), flat_model()
    squashing.config = replace(squashing.config, fitting="squash")
    first, second = (FewShotClassifier(m, device="cpu").fit(examples, names) for m in (cropping, squashing))
    assert np.abs(first.predict_proba(photograph) - second.predict_proba(photograph)).max() > 0.01


def test_predicting_does_not_fit_again(task, monkeypatch):
    examples, names, queries, _ = task
    classifier = FewShotClassifier(flat_model("svm"), device="cpu").fit(examples, names)
    expected = classifier.predict_proba(queries)
    monkeypatch.setattr("pauca.fewshot.base_learners.svm.solve_dual", None)
    np.testing.assert_array_equal(classifier.predict_proba(queries), expected)
    monkeypatch.undo()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(classifier)).predict_proba(queries), expected)


def test_a_base_learner_of_ones_own_needs_no_fit(task):
    class NearestMean(nn.Module):
        def forward(self, support, support_labels, query, way):
            means = torch.stack([support[:, support_labels[0] == k].mean(1) for k in range(way)], 1)
            return -torch.cdist(query, means)

    examples, names, queries, _ = task
    config = ModelConfig(image_size=16, latent=LatentConfig(mode="none"))
    model = MCRNet(config, backbone=nn.Flatten(), base_learner=NearestMean()).eval()
    assert FewShotClassifier(model, device="cpu").fit(examples, names).score(queries, names) == 1.0


class Small(nn.Module):
    """Pixels as features, so small that the penalties of base learners matter, as with a trained network."""

    def forward(self, images):
        return 0.1 * images.flatten(1)


@pytest.mark.parametrize("base_learner", ["ridge", "svm", "prototypes", "logistic", "cosine"])
def test_a_class_that_is_added_by_one_image_is_recognized(base_learner):
    """Beside four classes of ten images. Without weights ridge found 25 % of its images, prototypes none."""
    generator = np.random.default_rng(0)
    found, right = [], []
    for _ in range(10):
        classes = generator.integers(100, 156, (5, 1, 4, 4, 3)).repeat(4, 2).repeat(4, 3)
        images = (classes + generator.integers(-100, 100, (5, 20, 16, 16, 3))).astype(np.uint8)
        names = np.array(["ant", "bee", "cow", "doe", "elk"])
        model = MCRNet(flat_model(base_learner).config, backbone=Small()).eval()
        classifier = FewShotClassifier(model, device="cpu")
        classifier.fit(images[:4, :10].reshape(-1, 16, 16, 3), names[:4].repeat(10))
        classifier.partial_fit(images[4, :1], ["elk"])
        answers = classifier.predict(images[:, 10:].reshape(-1, 16, 16, 3)).reshape(5, 10)
        found.append(np.mean(answers[4] == "elk"))
        right.append(np.mean(answers == names[:, None]))
    assert np.mean(found) > 0.38
    assert np.mean(right) > 0.875


def test_rejection_works_with_numbers_as_labels(task):
    examples, names, queries, strangers = task
    labels, answers = (np.unique(values, return_inverse=True)[1] for values in (names, names))
    classifier = FewShotClassifier(flat_model(), reject=0.1, device="cpu").fit(examples, labels)
    predicted = classifier.predict(queries)
    assert predicted.dtype.kind == "i"
    assert classifier.score(queries, answers) == pytest.approx(np.mean(predicted == answers))
    assert accuracy_score(answers, predicted) == pytest.approx(np.mean(predicted == answers))
    assert -1 in classifier.predict(strangers.reshape(-1, 16, 16, 3))
    assert len(cross_val_score(classifier, examples, labels, cv=2)) == 2
    named = classifier.set_params(unknown_label="none of them").fit(examples, labels)
    assert named.score(queries, answers) == pytest.approx(np.mean(predicted == answers))
    assert "none of them" in named.predict(strangers.reshape(-1, 16, 16, 3))


def test_a_threshold_from_further_images_outlives_new_examples(task):
    examples, names, queries, _ = task
    classifier = FewShotClassifier(flat_model(), reject=0.1, device="cpu").fit(examples[:15], names[:15])
    classifier.calibrate(queries[:15])
    classifier.partial_fit(examples[15:], names[15:])
    assert classifier.threshold_ == pytest.approx(conformal_threshold(classifier.distances(queries[:15]), 0.1))


def test_the_threshold_follows_reject(task):
    examples, names, queries, _ = task
    late = FewShotClassifier(flat_model(), device="cpu").fit(examples, names)
    assert not hasattr(late, "threshold_")
    late.set_params(reject=0.2)
    at_once = FewShotClassifier(flat_model(), reject=0.2, device="cpu").fit(examples, names)
    assert late.threshold_ == at_once.threshold_
    np.testing.assert_array_equal(late.predict(queries), at_once.predict(queries))
    assert at_once.set_params(reject=0.5).threshold_ < late.threshold_


def test_a_share_that_is_set_after_fitting_and_rejects_nothing_is_told_once(task):
    examples, names, queries, _ = task
    classifier = FewShotClassifier(flat_model(), reject=0.2, device="cpu").fit(examples, names)
    for change in ({"reject": 0.02}, {"confidence": 0.9}):
        classifier.set_params(**change)
        with pytest.warns(FewExamplesWarning, match="nothing is rejected") as said:
            [classifier.predict(queries) for _ in range(2)]
        assert [warning.filename for warning in said] == [__file__]


def test_a_class_named_as_rejected_images_are_is_refused(task):
    examples, names, _, _ = task
    names = np.where(names == "ant", "unknown", names)
    FewShotClassifier(flat_model(), device="cpu").fit(examples, names)  # nothing is rejected
    with pytest.raises(InputError, match="a class is called 'unknown', which is also what rejected images are called"):
        FewShotClassifier(flat_model(), reject=0.1, device="cpu").fit(examples, names)
    FewShotClassifier(flat_model(), reject=0.1, unknown_label="?", device="cpu").fit(examples, names)


def test_labels_of_another_kind_are_not_turned_into_strings(task):
    examples, names, _, _ = task
    classifier = FewShotClassifier(flat_model(), device="cpu").fit(examples, names)
    with pytest.raises(InputError, match="give all as numbers or all as strings"):
        classifier.partial_fit(examples[:1], [3])


@pytest.mark.parametrize(
    "refused",
    [
        lambda c, images: c.partial_fit(images[:1], ["unknown"]),
        lambda c, images: c.rename_class("ant", "unknown"),
        lambda c, images: c.remove_class("ant").remove_class("bee").remove_class("cow"),
        lambda c, images: c.fit(images[:2], ["ant", "unknown"]),
        lambda c, images: c.fit(images[:2], ["ant", "bee"]),  # of which none can be left out
        lambda c, images: c.set_params(model=flat_model(size=8)).fit(images[:2], ["ant", "ant"]),
    ],
    ids=["partial_fit", "rename_class", "remove_class", "fit", "too few", "another model"],
)
def test_what_is_refused_is_not_learned(refused, task):
    examples, names, queries, strangers = task
    strangers = strangers.reshape(-1, 16, 16, 3)
    classifier = FewShotClassifier(flat_model(), reject=0.1, device="cpu").fit(examples, names)
    before = classifier.answer(queries)
    with pytest.raises(InputError):
        refused(classifier, strangers)
    if len(classifier.classes_) == 4:
        np.testing.assert_array_equal(classifier.answer(queries).probabilities, before.probabilities)
    else:
        assert classifier.classes_.tolist() == ["cow", "doe"]  # what two could be removed from
    classifier.partial_fit(strangers[2:3], ["elk"])
    assert "elk" in classifier.classes_
