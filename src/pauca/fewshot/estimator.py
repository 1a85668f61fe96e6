"""`FewShotClassifier`: a trained model as a scikit-learn estimator for a user's own images and classes."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor, nn

from pauca.errors import ConfigError, InputError
from pauca.fewshot.answers.groups import Groups, shares
from pauca.fewshot.answers.held_out import hold_out
from pauca.fewshot.answers.outlook import Outlook, expected_accuracy
from pauca.fewshot.answers.temperature import fit_temperature
from pauca.fewshot.answers.unknown import (
    ClassMeans,
    FewExamplesWarning,
    conformal_threshold,
    examples_needed,
    least_share,
    stranger_auroc,
)
from pauca.fewshot.classifier_file import FittedClassifier
from pauca.fewshot.data import load_images
from pauca.fewshot.data.features import load_features
from pauca.fewshot.evaluation import images_per_pass
from pauca.fewshot.onnx_export import ClassifierGraph, export_graph
from pauca.fewshot.pretrained import Features, open_backbone
from pauca.runs import Progress, resolve_device

UNKNOWN = "unknown"
# What a fitted classifier was told, and its file remembers; the model stands by itself.
_TOLD = ("reject", "unknown_label", "mirror", "temperature", "confidence")


@dataclass(frozen=True, eq=False)
class Answers:
    """What a classifier says of images."""

    labels: Shaped[np.ndarray, "n"]  # the unknown label where an image is rejected
    probabilities: Float[np.ndarray, "n classes"]  # of the known classes; rows sum to 1 also for unknown images
    distances: Float[np.ndarray, "n"]  # to the nearest class


class ExampleError(InputError, ValueError):
    """Examples that cannot be learned from; a ValueError too, because that is what callers of scikit-learn expect."""


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

    Attributes:
        classes_: the labels, sorted; columns of `predict_proba`.
        features_: features of the examples.
        targets_: position of each example's label in `classes_`.
        temperature_: what the logits are divided by.
        threshold_: images whose distance to the nearest class is above it are rejected; there is none while `reject` is
            None.
    """

    note_: str  # of the file that it was loaded from

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
        self._load_model()
        labels = _labels(y)
        features = self._embed(X, expected=len(labels), first=True)
        self._calibration_features, self._calibration_groups = None, None
        return self._learn(features, labels, Groups.none(features.device).with_more(groups, len(labels)))

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
        labels = _labels(y)
        features = self._embed(X, expected=len(labels))
        before = self.classes_[self.targets_.cpu().numpy()]
        if _are_numbers(before) != _are_numbers(labels):
            raise ExampleError(
                f"labels like {labels[0]!r} beside classes like {before[0]!r}: give all as numbers or all as strings"
            )
        more = self._groups.with_more(groups, len(labels))
        return self._learn(torch.cat([self.features_, features]), np.concatenate([before, labels]), more)

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n classes"]:
        """Probability of each known class, in the order of `classes_`; rows sum to 1 also for unknown images."""
        check_is_fitted(self)
        return self._probabilities(self._embed(X))

    def predict(self, X: Any) -> Shaped[np.ndarray, "n"]:
        """The most probable label of each image, or `unknown_label` where it is rejected."""
        return self.answer(X).labels

    def answer(self, X: Any) -> Answers:
        """Labels, probabilities and distances at once, for one look at the images."""
        check_is_fitted(self)
        features = self._embed(X)
        probabilities, distances = self._probabilities(features), self._distances(features)
        return Answers(self.labels_for(probabilities, distances), probabilities, distances)

    def labels_for(
        self, probabilities: Float[np.ndarray, "n classes"], distances: Float[np.ndarray, "n"]
    ) -> Shaped[np.ndarray, "n"]:
        """The labels of what has these probabilities and distances, such as several images of one thing together."""
        labels = self.classes_[probabilities.argmax(1)]
        if self.reject is None:
            return labels
        unknown = self._unknown()
        of_one_kind = isinstance(unknown, str) != _are_numbers(labels)
        return np.where(distances <= self.threshold_, labels if of_one_kind else labels.astype(object), unknown)

    def distances(self, X: Any) -> Float[np.ndarray, "n"]:
        """How far each image is from the nearest class: 1 minus the cosine of its features and the class's mean."""
        check_is_fitted(self)
        return self._distances(self._embed(X))

    def expected_accuracy(self) -> Outlook:
        """What accuracy to expect on further images of these classes, with an interval that holds it in 90 % of tasks.

        Raises:
            ExampleError: fewer than two classes have two examples, so that none can be left out.
        """
        check_is_fitted(self)
        if self._held_out is None:
            raise ExampleError(
                f"the accuracy to expect is found by leaving out {self._counted}, which takes two in at least two "
                "classes; add examples"
            )
        return expected_accuracy(self._held_out)

    def unknown_auroc(self) -> float | None:
        """The chance that an image of a class like these, but not among them, is farther than one of a known class.

        From the examples: each class is a stranger to the others once. None where they do not suffice for it: three
        classes with two examples.
        """
        check_is_fitted(self)
        return stranger_auroc(self.features_, self.targets_, len(self.classes_), self._groups.numbers)

    def remove_class(self, label: Any) -> "FewShotClassifier":
        """Forget a class and its examples; at least two classes must be left."""
        kept = self.targets_ != self._place_of(label)
        labels = self.classes_[self.targets_.cpu().numpy()]
        return self._learn(self.features_[kept], labels[kept.cpu().numpy()], self._groups.of(kept))

    def rename_class(self, label: Any, name: Any) -> "FewShotClassifier":
        """Call a class by another name; if another class has it, the two become one."""
        place = self._place_of(label)
        labels = self.classes_[self.targets_.cpu().numpy()]
        if isinstance(name, str) == _are_numbers(labels):
            raise ExampleError(
                f"a class cannot be called {name!r} beside classes like {label!r}: give a name of its kind"
            )
        renamed = labels.astype(np.result_type(labels, np.asarray(name)))
        renamed[self.targets_.cpu().numpy() == place] = name
        return self._learn(self.features_, renamed, self._groups)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Share of the images whose label `predict` gives; one that is rejected counts as wrong."""
        return float(np.average(self.predict(X) == _labels(y), weights=sample_weight))

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
        further = self._embed(X)
        self._calibration_groups = Groups.none(further.device).with_more(groups, len(further)).numbers
        self._calibration_features = further
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
        labels = self.classes_[self.targets_.cpu().numpy()]
        fitted = FittedClassifier(self.model_, labels, self.features_, told, self._groups, note=note)
        fitted.calibration_features, fitted.calibration_groups = self._calibration_features, self._calibration_groups
        fitted.save(path, force)

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
        further = fitted.calibration_features
        classifier._calibration_features = None if further is None else further.to(place)
        classifier._calibration_groups = fitted.calibration_groups
        if isinstance(fitted.model, Features):
            classifier.n_features_in_ = fitted.features.shape[1]  # pyright: ignore[reportAttributeAccessIssue]
        groups = Groups(fitted.groups.numbers.to(place), fitted.groups.names)
        return classifier._learn(fitted.features.to(place), fitted.labels, groups)

    def export(self, path: Path | str, force: bool = True) -> None:
        """Write images -> probabilities and distances as one ONNX graph; `onnx_export` says what it takes.

        Raises:
            ConfigError: the model draws samples, or is an ONNX graph already.
            DeviceError: the packages of `pauca[onnx]` are missing.
        """
        check_is_fitted(self)
        n = len(self.classes_)
        graph = ClassifierGraph(
            self.model_, self.features_, self.targets_, n, self._means.sums, self.temperature_, self.mirror
        )
        export_graph(graph, self.classes_, None if self.reject is None else self.threshold_, path, force)

    @property
    def threshold_(self) -> float:
        """Follows `reject` and `confidence`, also when they are set after fitting; infinite if nothing is rejected."""
        check_is_fitted(self)
        if self.reject is None:
            raise AttributeError("there is no threshold while reject is None")
        self._unknown()
        distances, weights = self._distances_of_known()
        return conformal_threshold(distances, self.reject, self.confidence, weights)

    @property
    def temperature_(self) -> float:
        """Follows `temperature`, also when that is set after fitting."""
        check_is_fitted(self)
        if self.temperature != "auto":
            if isinstance(self.temperature, str) or not 0 < self.temperature < np.inf:
                raise ConfigError(f"temperature {self.temperature!r}: give a positive number, or auto")
            return float(self.temperature)
        return self._found_temperature

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        # The fitted head is a function, which cannot be pickled and is soon made again.
        return {name: value for name, value in state.items() if name != "_fitted"}

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
        self.model_ = open_backbone(given[0], self.base_learner).to(resolve_device(self.device)).eval()

    def _learn(
        self, features: Float[Tensor, "n d"], labels: Shaped[np.ndarray, "n"], groups: Groups
    ) -> "FewShotClassifier":
        """Fit the base learner, once; predictions only ask it."""
        classes, targets = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ExampleError(
                f"all examples have one label, {classes.tolist()[0]!r}: one class is not enough; add examples of "
                "another class"
            )
        self.classes_, self.features_, self._groups = classes, features, groups
        self.targets_ = torch.from_numpy(targets.astype(np.int64)).to(features.device)
        self._fitted = self._fit_head()
        self._means = ClassMeans.of(features, self.targets_, len(classes))
        self._held_out = hold_out(self.model_, features, self.targets_, len(classes), groups.numbers)
        self._found_temperature = fit_temperature(self.model_, self._held_out, len(features) / len(classes))
        if self.reject is not None:
            self._unknown()
            self._warn_of_few()
        return self

    @torch.no_grad()
    def _fit_head(self) -> Callable[[Tensor], Tensor]:
        return self.model_.fitted(self.features_[None], self.targets_[None], len(self.classes_))

    def _unknown(self) -> Any:
        """What rejected images are called, after checking that it can be told from the classes."""
        for name in ("reject", "confidence"):
            if (value := getattr(self, name)) is not None and not 0 < value < 1:
                raise ConfigError(f"{name} {value}: give a share between 0 and 1, or None")
        usual = -1 if _are_numbers(self.classes_) else UNKNOWN
        unknown = usual if self.unknown_label is None else self.unknown_label
        if unknown in self.classes_.tolist():
            raise ExampleError(
                f"a class is called {unknown!r}, which is also what rejected images are called; give another "
                "unknown_label, or rename the class"
            )
        return unknown

    @torch.no_grad()
    def _embed(self, X: Any, expected: int | None = None, first: bool = False) -> Float[Tensor, "n d"]:
        images = self._rows(X, first) if isinstance(self.model_, Features) else self._images(X)
        if expected is not None and len(images) != expected:
            raise ExampleError(f"{len(images)} images but {expected} labels; give one label for each image")
        device = self.model_.mean.device
        generator = torch.Generator(device).manual_seed(0)
        at_once = len(images) if images.ndim == 2 else images_per_pass(device, images)
        rows = []
        with Progress("embed", len(images), "images", quiet=not self.verbose) as progress:
            for batch in images.split(at_once):
                rows.append(self.model_.embed(batch.to(device), generator, self.mirror))
                progress.advance(len(batch))
        features = torch.cat(rows)
        broken = (~features.isfinite()).any(1).nonzero()
        if len(broken):  # base learners check this too, but not on a GPU
            raise InputError(
                f"the features of image {int(broken[0])} are not finite; the model has diverged, load an earlier one"
            )
        # In double precision the answer for an image does not depend on what it is asked together with.
        return features.double()

    def _images(self, X: Any) -> Shaped[Tensor, "n c s s"]:
        """Images of the model's size and channels."""
        config = self.model_.config
        return load_images(X, config.image_size, config.channels, config.fitting)

    def _rows(self, X: Any, first: bool) -> Float[Tensor, "n d"]:
        """Features that were given in place of images; the first ones say how many there are of each."""
        if isinstance(X, str | Path):
            X = load_features(X)
        elif isinstance(X, Tensor):
            X = X.detach().cpu().numpy()
        return torch.tensor(validate_data(self, X, reset=first, dtype=np.float64))

    @torch.no_grad()
    def _probabilities(self, features: Float[Tensor, "n d"]) -> Float[np.ndarray, "n classes"]:
        if not hasattr(self, "_fitted"):  # after unpickling
            self._fitted = self._fit_head()
        return (self._fitted(features[None])[0] / self.temperature_).softmax(-1).cpu().numpy()

    def _distances(self, features: Float[Tensor, "n d"]) -> Float[np.ndarray, "n"]:
        return self._means.distances(features).cpu().numpy()

    def _distances_of_known(self) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """The distances of images of known classes that the classifier has not seen, and what each counts."""
        if self._calibration_features is not None and self._calibration_groups is not None:
            return self._distances(self._calibration_features), shares(self._calibration_groups).cpu().numpy()
        if self._held_out is None:
            raise ExampleError(
                f"reject needs two {self._counted} in at least two classes to set its threshold; add examples, or fit "
                "with reject=None, set reject and call calibrate with further images"
            )
        distances, weights = self._means.left_out(self.features_, self.targets_, self._groups.numbers)
        return distances.cpu().numpy(), weights.cpu().numpy()

    def _warn_of_few(self) -> None:
        """Say how many examples the threshold takes, where it has too few to reject anything."""
        _, weights = self._distances_of_known()
        found, needed = round(float(weights.sum())), examples_needed(self.reject, self.confidence)
        if found < needed:
            so_often = "" if self.confidence is None else f" with confidence {self.confidence:g}"
            further = "further images" if self._counted == "examples" else "groups of further images"
            warnings.warn(
                f"nothing is rejected: to call no more than {self.reject:g} of known images unknown{so_often} takes "
                f"{needed} {self._counted} in classes of two or more, or {needed} {further} for calibrate, and there "
                f"are {found}; give more, or set reject to {least_share(found, self.confidence):.2g} or more",
                FewExamplesWarning,
                stacklevel=4,
            )

    @property
    def _counted(self) -> str:
        """What the promises are made from."""
        return "groups of examples" if self._groups.names else "examples"

    def _place_of(self, label: Any) -> int:
        check_is_fitted(self)
        places = np.flatnonzero(self.classes_ == label)
        if not len(places):
            raise ExampleError(f"no class is called {label!r}; there are {', '.join(map(str, self.classes_[:10]))}")
        return int(places[0])


def _are_numbers(labels: Shaped[np.ndarray, "n"]) -> bool:
    return labels.dtype.kind in "iufb"


def _labels(y: Any) -> Shaped[np.ndarray, "n"]:
    labels = column_or_1d(np.asarray(y), warn=True)
    assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    return labels
