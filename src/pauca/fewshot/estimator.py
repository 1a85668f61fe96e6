"""`FewShotClassifier`: a trained model as a scikit-learn estimator for a user's own images and classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor

from pauca.errors import ConfigError, InputError
from pauca.fewshot.data import load_images
from pauca.fewshot.data.features import load_features
from pauca.fewshot.evaluation import images_per_pass
from pauca.fewshot.pretrained import Features, open_backbone
from pauca.runs import resolve_device

UNKNOWN = "unknown"


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
            classes need two examples; `calibrate` sets it from further images.
        unknown_label: what `predict` gives for a rejected image; no class may have this name. None is "unknown" where
            labels are strings and -1 where they are numbers.
        device: `auto`, `cpu` or `cuda`.
        mirror: average the features of each image and of its mirror image, where left and right mean nothing: a little
            more accurate, in twice the time.
        backbone: any network in place of a meta-trained model: `timm:NAME`, `hf:NAME_OR_FOLDER`, `onnx:FILE`,
            `efficientnet-lite0`, a module with `mean`, `std` and `size`, or `features`; `open_backbone` says more. With
            `features`, what is given for images are features: an array [n, d], or the path of a .npy file with one.
        base_learner: the classifier, a name or a module, in place of the model's own.

    Attributes:
        classes_: the labels, sorted; columns of `predict_proba`.
        features_: features of the examples.
        targets_: position of each example's label in `classes_`.
        threshold_: images whose largest probability is below it are rejected; there is none while `reject` is None.
    """

    def __init__(
        self,
        model: Any = None,
        reject: Any = None,
        unknown_label: Any = None,
        device: Any = "auto",
        mirror: Any = False,
        backbone: Any = None,
        base_learner: Any = None,
    ) -> None:
        self.model = model
        self.reject = reject
        self.unknown_label = unknown_label
        self.device = device
        self.mirror = mirror
        self.backbone = backbone
        self.base_learner = base_learner

    def fit(self, X: Any, y: Any) -> "FewShotClassifier":
        """Learn the classes from examples, as few as one of each.

        Args:
            X: a list of paths, encoded bytes, Pillow images, arrays or tensors, of any sizes; or one array or tensor
                [n, h, w], [n, h, w, 3] or [n, 3, h, w] of bytes or numbers from 0 to 1. The same image gives the same
                features as whatever it comes; `model.config.fitting` says how it becomes square.
            y: a label for each: strings or numbers.
        """
        self._load_model()
        labels = _labels(y)
        features = self._embed(X, expected=len(labels), first=True)
        self._calibration_features = None
        return self._learn(features, labels)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> "FewShotClassifier":
        """Add examples, of known classes or of new ones.

        Args:
            X: as for `fit`.
            y: as for `fit`.
            classes: accepted because scikit-learn passes it; a class may come at any time, so it changes nothing.
        """
        if not hasattr(self, "features_"):
            return self.fit(X, y)
        labels = _labels(y)
        features = self._embed(X, expected=len(labels))
        before = self.classes_[self.targets_.cpu().numpy()]
        if _are_numbers(before) != _are_numbers(labels):
            raise ExampleError(
                f"labels like {labels[0]!r} beside classes like {before[0]!r}: give all as numbers or all as strings"
            )
        return self._learn(torch.cat([self.features_, features]), np.concatenate([before, labels]))

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n classes"]:
        """Probability of each known class, in the order of `classes_`; rows sum to 1 also for unknown images."""
        check_is_fitted(self)
        return self._probabilities(self._embed(X))

    def predict(self, X: Any) -> Shaped[np.ndarray, "n"]:
        """The most probable label of each image, or `unknown_label` where it is rejected."""
        return self.labels_of(self.predict_proba(X))

    def labels_of(self, probabilities: Float[np.ndarray, "n classes"]) -> Shaped[np.ndarray, "n"]:
        """What `predict` answers where `predict_proba` has given these, without looking at the images again."""
        check_is_fitted(self)
        labels = self.classes_[probabilities.argmax(1)]
        if self.reject is None:
            return labels
        unknown = self._unknown()
        known = probabilities.max(1) >= self.threshold_
        of_one_kind = isinstance(unknown, str) != _are_numbers(labels)
        return np.where(known, labels if of_one_kind else labels.astype(object), unknown)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Share of the images whose label `predict` gives; one that is rejected counts as wrong."""
        return float(np.average(self.predict(X) == _labels(y), weights=sample_weight))

    def calibrate(self, X: Any) -> "FewShotClassifier":
        """Set the threshold from further images of known classes, of which `reject` may be called unknown.

        It is set from the same images again when examples are added, or when `reject` changes.
        """
        check_is_fitted(self)
        if self.reject is None:
            raise ConfigError("calibrate needs reject, the share of known images that may be called unknown")
        self._calibration_features = self._embed(X)
        self._known_confidences = self._confidences()
        return self

    @property
    def threshold_(self) -> float:
        """Follows `reject`, also when that is set after fitting."""
        check_is_fitted(self)
        if self.reject is None:
            raise AttributeError("there is no threshold while reject is None")
        self._unknown()
        if self._known_confidences is None:
            self._known_confidences = self._confidences()
        return rejection_threshold(self._known_confidences, self.reject)

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

    def _learn(self, features: Float[Tensor, "n d"], labels: Shaped[np.ndarray, "n"]) -> "FewShotClassifier":
        """Fit the base learner, once; predictions only ask it."""
        classes, targets = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ExampleError(
                f"all examples have one label, {classes.tolist()[0]!r}: one class is not enough; add examples of "
                "another class"
            )
        self.classes_, self.features_ = classes, features
        self.targets_ = torch.from_numpy(targets.astype(np.int64)).to(features.device)
        self._fitted = self._fit_head()
        self._known_confidences = None
        if self.reject is not None:
            self._unknown()
            self._known_confidences = self._confidences()
        return self

    @torch.no_grad()
    def _fit_head(self) -> Callable[[Tensor], Tensor]:
        return self.model_.fitted(self.features_[None], self.targets_[None], len(self.classes_))

    def _unknown(self) -> Any:
        """What rejected images are called, after checking that it can be told from the classes."""
        if self.reject is not None and not 0 < self.reject < 1:
            raise ConfigError(f"reject {self.reject}: give a share between 0 and 1, or None")
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
        features = torch.cat(
            [self.model_.embed(batch.to(device), generator, self.mirror) for batch in images.split(at_once)]
        )
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
        return self._fitted(features[None])[0].softmax(-1).cpu().numpy()

    def _confidences(self) -> Float[np.ndarray, "n"]:
        """The largest probabilities of images of known classes that the classifier has not seen."""
        if self._calibration_features is not None:
            return self._probabilities(self._calibration_features).max(1)
        return self._left_out_confidences()

    @torch.no_grad()
    def _left_out_confidences(self) -> Float[np.ndarray, "n"]:
        """The largest probability of each example when the others alone are the support.

        An example that is its class's only one is left in: without it its class would be unknown.
        """
        counts = torch.bincount(self.targets_)
        if int((counts >= 2).sum()) < 2:
            raise ExampleError(
                "reject needs two examples in at least two classes to set its threshold; add examples, or fit with "
                "reject=None, set reject and call calibrate with further images"
            )
        confidences = []
        for left_out in (counts[self.targets_] >= 2).nonzero().squeeze(1).tolist():
            kept = torch.arange(len(self.targets_), device=self.targets_.device) != left_out
            logits = self.model_.classify(
                self.features_[None, kept],
                self.targets_[None, kept],
                self.features_[None, left_out : left_out + 1],
                len(self.classes_),
            )
            confidences.append(logits[0, 0].softmax(-1).max())
        return torch.stack(confidences).cpu().numpy()


def rejection_threshold(confidences: Float[np.ndarray, "n"], share: float) -> float:
    """The confidence below which at most `share` of images like these fall (split conformal prediction).

    With too few images to promise that, fewer than 1 / share - 1, the threshold is 0 and nothing is rejected.
    """
    rank = int(np.floor(share * (len(confidences) + 1)))
    return float(np.sort(confidences)[rank - 1]) if rank else 0.0


def _are_numbers(labels: Shaped[np.ndarray, "n"]) -> bool:
    return labels.dtype.kind in "iufb"


def _labels(y: Any) -> Shaped[np.ndarray, "n"]:
    labels = column_or_1d(np.asarray(y), warn=True)
    assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    return labels
