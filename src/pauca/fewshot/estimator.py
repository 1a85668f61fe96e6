"""`FewShotClassifier`: a trained model as a scikit-learn estimator for a user's own images and classes."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from pauca.errors import ConfigError, level_outside
from pauca.fewshot.answers.copies import CopiedExamplesWarning
from pauca.fewshot.answers.examples import ExampleError, Examples, Words, are_numbers, checked_labels
from pauca.fewshot.answers.groups import Groups, voted
from pauca.fewshot.answers.learned import Further, Learned
from pauca.fewshot.answers.outlook import Outlook
from pauca.fewshot.answers.threshold import FewExamplesWarning, Promise
from pauca.fewshot.classifier_file import FittedClassifier
from pauca.fewshot.data import load_images
from pauca.fewshot.data.features import load_features
from pauca.fewshot.embedding import check_steady, embed_rows
from pauca.fewshot.onnx_export import ClassifierGraph, export_graph
from pauca.fewshot.pretrained import Features, open_backbone
from pauca.fewshot.pretrained.opening import FORMS
from pauca.fewshot.views_at_test import AS_IT_IS, ViewsAtTest
from pauca.runs import resolve_device

UNKNOWN = "unknown"
# What a fitted classifier was told, and its file remembers; the model stands by itself.
_TOLD = ("reject", "unknown_label", "mirror", "views", "temperature", "confidence", "votes")


@dataclass(frozen=True, eq=False)
class Answers:
    """What a classifier says of images."""

    labels: Shaped[np.ndarray, "n"]  # the unknown label where an image is rejected
    probabilities: Float[np.ndarray, "n classes"]  # of the known classes; rows sum to 1 also for unknown images
    distances: Float[np.ndarray, "n"]  # to the nearest class


# Arguments named X and y take what scikit-learn's users have, lists included, and those of the constructor whatever
# `set_params` is given: they are checked by `fit` and not annotated.
class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """Recognize classes from a few examples each; nothing is trained but the base learner.

    >>> classifier = FewShotClassifier("best.safetensors").fit(["a1.jpg", "a2.jpg", "b1.jpg"], ["cat", "cat", "dog"])
    >>> classifier.predict(["what.jpg"])
    array(['cat'], dtype='<U3')

    Args:
        model: a meta-trained model, or the file that holds it; in its place, a `backbone` may be given.
        reject: share of images of known classes that may be called unknown, so that images of other classes can be;
            None never rejects. `fit` sets the threshold by leaving out each example once, for which at least two
            classes need two examples; `calibrate` sets it from further images. With fewer than 1 / reject - 1 of them
            nothing is rejected, and a `FewExamplesWarning` says how many it takes.
        unknown_label: what `predict` gives for a rejected image; no class may have this name. None is "unknown" where
            labels are strings and -1 where they are numbers.
        device: `auto`, `cpu` or `cuda`.
        mirror: average the features of each image and of its mirror image, where left and right mean nothing: a little
            more accurate, in twice the time.
        backbone: any network in place of a meta-trained model: `timm:NAME`, `hf:NAME_OR_FOLDER`, `onnx:FILE`,
            `efficientnet-lite0`, a module with `mean`, `std` and `size`, or `features`; `open_backbone` says more. With
            `features`, what is given for images are features: an array [n, d], or the path of a .npy file with one.
        base_learner: the classifier, a name or a module, in place of the model's own.
        temperature: what the logits are divided by: `auto` finds it by leaving out examples (`answers.temperature`), 1
            leaves the model's own confidence.
        confidence: None keeps `reject` on average over tasks; a probability, such as 0.9, keeps it for this very fit,
            so often, for which more examples are needed.
        verbose: show how far the embedding of images is.
        votes: images of one group answer together, as `answer` with `groups` lets them: temperature, threshold and
            expected accuracy are then those of groups.
        views: further views, besides `mirror`, in which an image is seen: a `ViewsAtTest`. Its turns serve models that
            the recipe `strong` has trained.

    Attributes:
        classes_: the labels, sorted; columns of `predict_proba`.
        features_: features of the examples.
        targets_: position of each example's label in `classes_`.
        temperature_: what the logits are divided by.
        threshold_: images whose distance to the nearest class is above it are rejected; there is none while `reject` is
            None.
    """

    note_: str  # of the file that it was loaded from
    words = Words()  # in which it speaks of examples; who makes them of something else has a subclass say so

    def __init__(
        self,
        model: Any = None,
        reject: Any = None,
        unknown_label: Any = None,
        device: Any = "auto",
        mirror: Any = False,
        backbone: Any = None,
        base_learner: Any = None,
        temperature: Any = "auto",
        confidence: Any = None,
        verbose: Any = False,
        votes: Any = False,
        views: Any = None,
    ) -> None:
        self.model = model
        self.reject = reject
        self.unknown_label = unknown_label
        self.device = device
        self.mirror = mirror
        self.backbone = backbone
        self.base_learner = base_learner
        self.temperature = temperature
        self.confidence = confidence
        self.verbose = verbose
        self.votes = votes
        self.views = views

    def fit(self, X: Any, y: Any, groups: Any = None) -> "FewShotClassifier":
        """Learn the classes from examples, as few as one of each.

        Args:
            X: a list of paths, encoded bytes, Pillow images, arrays or tensors, of any sizes; or one array or tensor
                [n, h, w], [n, h, w, 3] or [n, 3, h, w] of bytes or numbers from 0 to 1. The same image gives the same
                features as whatever it comes; `model.config.fitting` says how it becomes square.
            y: a label for each: strings or numbers.
            groups: a name for each, a string or whole number, the same for examples that belong together: frames of one
                video, photographs of one thing, windows of one recording. What is fitted stays the same, but
                temperature, threshold and expected accuracy are found by leaving out whole groups, and hold for images
                of further groups; left out one by one, near copies of one another promise too much. It takes two
                groups in at least two classes. None makes a group of each example.
        """
        with self._as_before_if_refused():
            self._load_model()
            labels = checked_labels(y)
            features = self._embed(X, len(labels), first=True)
            self._further = None
            return self._learn(Examples.of(features, labels, groups))

    def partial_fit(self, X: Any, y: Any, classes: Any = None, groups: Any = None) -> "FewShotClassifier":
        """Add examples, of known classes or of new ones.

        Args:
            X: as for `fit`.
            y: as for `fit`.
            classes: accepted because scikit-learn passes it; a class may come at any time, so it changes nothing.
            groups: as for `fit`; a name that was given before means the same group, so that frames may be added.
        """
        if not hasattr(self, "features_"):
            return self.fit(X, y, groups)
        labels = checked_labels(y)
        return self._learn(self._examples.with_more(self._embed(X, len(labels)), labels, groups))

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n classes"]:
        """Probability of each known class, in the order of `classes_`; rows sum to 1 also for unknown images."""
        return self.answer(X).probabilities

    def predict(self, X: Any) -> Shaped[np.ndarray, "n"]:
        """The most probable label of each image, or `unknown_label` where it is rejected."""
        return self.answer(X).labels

    def answer(self, X: Any, groups: Any = None, weights: Any = None) -> Answers:
        """Labels, probabilities and distances at once, for one look at the images.

        Args:
            X: as for `fit`.
            groups: a name for each image: those of one name answer together, by their mean logits and distances, in the
                order in which the names first come. None asks each image alone.
            weights: what each image counts in its group, positive; None counts all alike.
        """
        check_is_fitted(self)
        features = self._embed(X)
        logits, distances = self._learned.logits(features), self._learned.distances(features)
        if groups is not None:
            members = Groups.none(logits.device).with_more(groups, len(features)).numbers
            counts = None if weights is None else _checked_weights(weights, len(features)).to(logits.device)
            logits, far = (voted(v, members, counts) for v in (logits, torch.from_numpy(distances).to(logits.device)))
            distances = far.cpu().numpy()
        probabilities = (logits / self.temperature_).softmax(-1).cpu().numpy()
        return Answers(self._labels_for(probabilities, distances), probabilities, distances)

    def _labels_for(
        self, probabilities: Float[np.ndarray, "n classes"], distances: Float[np.ndarray, "n"]
    ) -> Shaped[np.ndarray, "n"]:
        labels = self.classes_[probabilities.argmax(1)]
        if self.reject is None:
            return labels
        if self._promised != (self.reject, self.confidence):  # set after fitting
            self._warn_of_few()
        unknown, threshold = self._unknown(), self.threshold_
        of_one_kind = isinstance(unknown, str) != are_numbers(labels)
        return np.where(distances <= threshold, labels if of_one_kind else labels.astype(object), unknown)

    def distances(self, X: Any) -> Float[np.ndarray, "n"]:
        """How far each image is from the nearest class: 1 minus the cosine of its features and the class's mean."""
        check_is_fitted(self)
        return self._learned.distances(self._embed(X))

    def expected_accuracy(self) -> Outlook:
        """What accuracy to expect on further images of these classes, with an interval that holds it in 90 % of tasks.

        Raises:
            ExampleError: fewer than two classes have two examples, so that none can be left out.
        """
        check_is_fitted(self)
        return self._learned.expected_accuracy()

    def unknown_auroc(self) -> float | None:
        """The chance that an image of a class like these, but not among them, is farther than one of a known class.

        From the examples: each class is a stranger to the others once. None where they do not suffice for it: three
        classes with two examples.
        """
        check_is_fitted(self)
        return self._learned.unknown_auroc()

    def remove_class(self, label: Any) -> "FewShotClassifier":
        """Forget a class and its examples; at least two classes must be left."""
        check_is_fitted(self)
        return self._learn(self._examples.without(label))

    def rename_class(self, label: Any, name: Any) -> "FewShotClassifier":
        """Call a class by another name; if another class has it, the two become one."""
        check_is_fitted(self)
        return self._learn(self._examples.renamed(label, name))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Share of the images whose label `predict` gives; one that is rejected counts as wrong."""
        return float(np.average(self.predict(X) == checked_labels(y), weights=sample_weight))

    def calibrate(self, X: Any, groups: Any = None) -> "FewShotClassifier":
        """Set the threshold from further images of known classes, of which `reject` may be called unknown.

        It is set from the same images again when examples are added, or when `reject` changes.

        Args:
            X: as for `fit`.
            groups: as for `fit`, of groups that have no examples.
        """
        check_is_fitted(self)
        if self.reject is None:
            raise ConfigError("calibrate needs reject, the share of known images that may be called unknown")
        features = self._embed(X)
        told = Groups.none(features.device).with_more(groups, len(features))
        self._further = Further(features, told.numbers)
        self._warn_of_few()
        return self

    def save(self, path: Path | str, force: bool = True, note: str = "") -> None:
        """Write the fitted classifier, network and examples' features included, to one safetensors file.

        Args:
            path: where to.
            force: replace a file that is there.
            note: any text, which `load` gives back as `note_`: what whoever asks the classifier has to know.

        Raises:
            InputError: `path` exists and `force` is not set.
            PaucaError: the disk refuses.
        """
        check_is_fitted(self)
        told = {name: getattr(self, name) for name in _TOLD}
        FittedClassifier(self.model_, self._examples, told, self._further, note).save(path, force)

    @classmethod
    def load(
        cls,
        path: Path | str,
        device: str = "auto",
        network: nn.Module | None = None,
        base_learner: nn.Module | None = None,
    ) -> "FewShotClassifier":
        """A fitted classifier that `save` wrote, which can learn further examples and classes.

        Args:
            path: its file.
            device: `auto`, `cpu` or `cuda`.
            network: the backbone, where it is a module of one's own, whose code no file holds.
            base_learner: likewise.

        Raises:
            InputError: the file is no fitted classifier, damaged or of a newer version.
        """
        fitted = FittedClassifier.load(path, network, base_learner)
        classifier = cls(fitted.model, device=device, **fitted.settings)
        classifier._load_model()
        classifier.note_ = fitted.note
        place = classifier.model_.mean.device
        classifier._further = None if fitted.further is None else fitted.further.to(place)
        if isinstance(fitted.model, Features):
            width = fitted.examples.features.shape[1]
            classifier.n_features_in_ = width  # pyright: ignore[reportAttributeAccessIssue]
        return classifier._learn(fitted.examples.to(place))

    def export(self, path: Path | str, force: bool = True) -> None:
        """Write images -> probabilities and distances as one ONNX graph; `onnx_export` says what it takes.

        Raises:
            ConfigError: the model draws samples, or is an ONNX graph already.
            DeviceError: the packages of `pauca[onnx]` are missing.
        """
        check_is_fitted(self)
        graph = ClassifierGraph(self._learned, self.temperature_, self._views())
        export_graph(graph, self.classes_, None if self.reject is None else self.threshold_, path, force)

    @property
    def threshold_(self) -> float:
        """Follows `reject` and `confidence`, also when they are set after fitting; infinite if nothing is rejected."""
        check_is_fitted(self)
        if self.reject is None:
            raise AttributeError("there is no threshold while reject is None")
        self._unknown()
        return Promise(self.reject, self.confidence).threshold(*self._learned.unseen_distances(self._further))

    @property
    def temperature_(self) -> float:
        """Follows `temperature`, also when that is set after fitting."""
        check_is_fitted(self)
        if self.temperature != "auto":
            if isinstance(self.temperature, str) or not 0 < self.temperature < np.inf:
                raise ConfigError(f"temperature {self.temperature!r}: give a positive number, or auto")
            return float(self.temperature)
        return self._learned.temperature

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "features_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        features = isinstance(self.backbone, str) and self.backbone == "features"
        tags.input_tags.two_d_array = features
        tags.input_tags.string = tags.input_tags.three_d_array = not features
        return tags

    def _load_model(self) -> None:
        given = [part for part in (self.model, self.backbone) if part is not None]
        if len(given) != 1:
            raise ConfigError("give a model or a backbone, and not both" if given else "give a model or a backbone")
        if not isinstance(given[0], str | Path | nn.Module):
            raise ConfigError(
                f"a backbone of type {type(given[0]).__name__}: give a module (an object, not its class), or {FORMS}"
            )
        self.model_ = open_backbone(given[0], self.base_learner).to(resolve_device(self.device)).eval()

    def _learn(self, examples: Examples) -> "FewShotClassifier":
        """Fit the base learner, once; predictions only ask it."""
        with self._as_before_if_refused():
            self._examples, self._learned = examples, Learned(self.model_, examples, bool(self.votes), self.words)
            self.classes_, self.features_, self.targets_ = examples.classes, examples.features, examples.targets
            self._promised = None
            if self._learned.copies:
                warnings.warn(self._learned.copies, CopiedExamplesWarning, stacklevel=level_outside())
            if self.reject is not None:
                self._unknown()
                self._warn_of_few()
        return self

    @contextmanager
    def _as_before_if_refused(self) -> Iterator[None]:
        """What is refused within leaves all that was learned before as it was: a service goes on answering."""
        before = dict(vars(self))
        try:
            yield
        except Exception:
            vars(self).clear()
            vars(self).update(before)
            raise

    def _views(self) -> ViewsAtTest:
        if not isinstance(self.views, ViewsAtTest | None):
            raise ConfigError(f"views {self.views!r}: give a ViewsAtTest, such as ViewsAtTest(turns=True)")
        return (self.views or AS_IT_IS).with_mirror(bool(self.mirror))

    def _unknown(self) -> Any:
        """What rejected images are called, after checking that it can be told from the classes."""
        usual = -1 if are_numbers(self.classes_) else UNKNOWN
        unknown = usual if self.unknown_label is None else self.unknown_label
        if unknown in self.classes_.tolist():
            raise ExampleError(
                f"a class is called {unknown!r}, which is also what rejected images are called; rename the class "
                "or, in Python, give another unknown_label"
            )
        return unknown

    def _warn_of_few(self) -> None:
        """Say how many examples the threshold takes, where it has too few to reject anything."""
        promise = Promise(self.reject, self.confidence)
        self._promised = self.reject, self.confidence
        grouped = (self._further or self._examples).are_grouped
        _, weights = self._learned.unseen_distances(self._further)
        if lacking := promise.lacks(round(float(weights.sum())), self.words, grouped):
            warnings.warn(lacking, FewExamplesWarning, stacklevel=level_outside())

    def _embed(self, X: Any, expected: int | None = None, first: bool = False) -> Float[Tensor, "n d"]:
        images = self._rows(X, first) if isinstance(self.model_, Features) else self._images(X)
        if expected is not None and len(images) != expected:
            raise ExampleError(f"{len(images)} images but {expected} labels; give one label for each image")
        features = embed_rows(self.model_, images, self._views(), quiet=not self.verbose)
        if first:
            check_steady(self.model_, images[:1], features, self._views())
        return features

    def _images(self, X: Any) -> Shaped[Tensor, "n c s s"]:
        """Images of the model's size and channels."""
        config = self.model_.config
        return load_images(X, config.image_size, config.channels, config.fitting)

    def _rows(self, X: Any, first: bool) -> Float[Tensor, "n d"]:
        """Features that were given in place of images; the first ones say how many there are of each."""
        if isinstance(X, str | Path):
            X = load_features(X)
        elif isinstance(X, Tensor):
            X = X.detach().cpu().double().numpy()  # numpy has no bfloat16
        return torch.tensor(validate_data(self, X, reset=first, dtype=np.float64))


def _checked_weights(weights: Any, count: int) -> Float[Tensor, "n"]:
    found = torch.as_tensor(np.asarray(weights, np.float64))
    if found.shape != (count,) or not bool((found.isfinite() & (found > 0)).all()):
        raise ExampleError(f"weights of {count} images: give a positive number for each")
    return found
