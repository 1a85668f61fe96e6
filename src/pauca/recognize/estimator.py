"""`EventClassifier`: a scikit-learn estimator that recognizes things in recordings of an event camera."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from pauca import events, fewshot
from pauca.errors import InputError
from pauca.recognize import turned
from pauca.recognize.pictures import Picture, pictures_of
from pauca.recognize.settings import Framing, Moving, PictureConfig

_log = logging.getLogger(__name__)

UNTRAINED = ("edges", "pixels", turned.NAME)
_SIDE = 32  # pixels of the pictures of what is not trained

RecordingLike = events.Recording | events.Events | str | Path


# Arguments named X and y take what scikit-learn's users have, so they are checked and not annotated.
class EventClassifier(ClassifierMixin, BaseEstimator):
    """Recognize things in recordings of an event camera from a few recordings of each.

    The pictures of a recording (`PictureConfig`) are the examples of a `FewShotClassifier`, and vote when it is asked.

    >>> classifier = EventClassifier().fit(["cup1.raw", "cup2.raw", "pen1.raw"], ["cup", "cup", "pen"])
    >>> classifier.predict(["what.raw"])
    array(['cup'], dtype='<U3')

    Args:
        model: what makes features of pictures: `edges` (directions of edges, needs no training), `pixels`, `turned`
            (pixels, each example also as if the thing had been turned on its table by any angle; for things recorded
            from a few sides and asked about from any), the file of a model that `pauca recognize train` or `pauca
            fewshot train` wrote, or any other backbone that `fewshot.open_backbone` opens, such as
            `efficientnet-lite0`.
        align: align the events of each picture.
        motion: what moves, see `PictureConfig`.
        views: most pictures of a recording.
        view_s: longest time in one picture, in seconds.
        framing: what pictures show, see `PictureConfig`.
        camera: calibration of all recordings, in place of what they bring.
        reject: share of recordings of known things that may be called unknown, as for `FewShotClassifier`.
        unknown_label: what unknown things are called.
        device: `auto`, `cpu` or `cuda`.

    Attributes:
        classifier_: the `FewShotClassifier` of the pictures.
        classes_: the labels, sorted.
    """

    def __init__(
        self,
        model: fewshot.FewShotModel | nn.Module | str | Path = "edges",
        align: bool = True,
        motion: Moving = "auto",
        views: int = 5,
        view_s: float = 0.35,
        framing: Framing = "fit",
        camera: events.Camera | None = None,
        reject: float | None = None,
        unknown_label: Any = None,
        device: str = "auto",
    ) -> None:
        self.model = model
        self.align = align
        self.motion: Moving = motion
        self.views = views
        self.view_s = view_s
        self.framing: Framing = framing
        self.camera = camera
        self.reject = reject
        self.unknown_label = unknown_label
        self.device = device

    @property
    def picture_config(self) -> PictureConfig:
        """How recordings become pictures."""
        return PictureConfig(self.align, self.motion, self.views, self.view_s, self.framing)

    def fit(self, X: Any, y: Any) -> "EventClassifier":
        """Learn from recordings, as few as one of each thing.

        Args:
            X: recordings, events, or paths of any format that `events.read` reads; an iterable, taken one by one.
            y: a label for each: strings or numbers.

        Raises:
            InputError: a recording without events, labels of another number, or of one thing only.
        """
        self.classifier_ = fewshot.FewShotClassifier(self._opened_model(), self.reject, self.unknown_label, self.device)
        return self._learn(X, y, self.classifier_.fit)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> "EventClassifier":
        """Add recordings of known things or of new ones, as `fit` takes them; `classes` changes nothing."""
        if not hasattr(self, "classifier_"):
            return self.fit(X, y)
        return self._learn(X, y, self.classifier_.partial_fit)

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n classes"]:
        """Probability of each known label for each recording; its pictures vote by what they hold."""
        check_is_fitted(self)
        return self.answer([self.pictures(recording) for recording in X]).probabilities

    def predict(self, X: Any) -> Shaped[np.ndarray, "n"]:
        """The most probable label of each recording, or `unknown_label` where it is rejected."""
        check_is_fitted(self)
        return self.answer([self.pictures(recording) for recording in X]).labels

    def answer(self, pictures: Sequence[Sequence[Picture]]) -> fewshot.Answers:
        """What `predict` and `predict_proba` say of recordings with these pictures."""
        check_is_fitted(self)
        shown = np.stack([picture.pixels for few in pictures for picture in few])
        weights = np.array([picture.weight for few in pictures for picture in few])
        owners = np.repeat(np.arange(len(pictures)), [len(few) for few in pictures])
        each = self.classifier_.answer(shown)
        probabilities = vote(each.probabilities, weights, owners)
        distances = np.bincount(owners, weights * each.distances) / np.bincount(owners, weights)
        return fewshot.Answers(self.classifier_.labels_for(probabilities, distances), probabilities, distances)

    def pictures(self, recording: RecordingLike) -> list[Picture]:
        """The pictures of one recording, as the model sees them."""
        recording = _opened(recording)
        self._compare_sensor(recording)
        return pictures_of(recording, self.image_size, self.picture_config, self.camera)

    def save(self, path: Path | str, force: bool = True) -> None:
        """Write what was learned, and how recordings become pictures, to one safetensors file."""
        check_is_fitted(self)
        camera = None if self.camera is None else asdict(self.camera)
        note = {"pictures": asdict(self.picture_config), "camera": camera, "size": getattr(self, "_size", None)}
        self.classifier_.save(path, force, json.dumps(note))

    @classmethod
    def load(cls, path: Path | str, device: str = "auto") -> "EventClassifier":
        """What `save` wrote, which can learn further recordings.

        Raises:
            InputError: another file, or one that is damaged.
        """
        inner = fewshot.FewShotClassifier.load(path, device)
        try:
            note = json.loads(inner.note_)
            pictures, camera, size = note["pictures"], note["camera"], note["size"]
            calibration = None if camera is None else events.Camera(**camera | {"size": tuple(camera["size"])})
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path}: classifies images and not events; give what EventClassifier.save wrote"
            ) from error
        told = {"reject": inner.reject, "unknown_label": inner.unknown_label, "device": device}
        loaded = cls(inner.model_, **pictures, camera=calibration, **told)
        loaded.classifier_, loaded._size = inner, None if size is None else tuple(size)
        return loaded

    @property
    def image_size(self) -> int:
        """Side of the pictures that the model takes, in pixels."""
        return self._opened_model().config.image_size

    @property
    def classes_(self) -> Shaped[np.ndarray, "classes"]:
        return self.classifier_.classes_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(getattr(self, "classifier_", None), "features_")

    def _opened_model(self) -> fewshot.FewShotModel:
        """The model, opened once for as long as it is the same."""
        if getattr(self, "_opened", (None,))[0] is not self.model:
            self._opened = self.model, open_model(self.model)
        return self._opened[1]

    def _learn(self, X: Any, y: Any, learn: Any) -> "EventClassifier":
        labels, shown, owners = np.asarray(y), [], []
        count = 0
        for count, recording in enumerate(X, 1):
            pictures = self.pictures(recording)
            shown += [picture.pixels for picture in pictures]
            owners += [count - 1] * len(pictures)
        if count != len(labels):
            raise InputError(f"{count} recordings but {len(labels)} labels; give one label for each recording")
        if not count:
            raise InputError("no recordings; give at least one of each of two things")
        several = (np.unique(labels, return_counts=True)[1] >= 2).sum()
        if self.reject is not None and not self.__sklearn_is_fitted__() and several < 2:
            raise InputError(
                "reject needs two recordings of at least two things to set its threshold; give more, or leave it out"
            )
        # Pictures of one recording are no independent examples. There are no more recordings than pictures, so that
        # none has the number of one before.
        first = len(getattr(self.classifier_, "features_", ()))
        learn(np.stack(shown), labels[owners], groups=[first + owner for owner in owners])
        return self

    def _compare_sensor(self, recording: events.Recording) -> None:
        """Say that a recording is from another sensor than the first one was."""
        size = recording.events.size
        first = getattr(self, "_size", None) or size
        self._size = first
        if size != first:
            _log.warning(
                "%s: its sensor has %d x %d pixels, that of the first recording %d x %d; pictures are scaled, but show "
                "other details", recording.name or "recording", *size, *first
            )  # fmt: skip


def open_model(model: fewshot.FewShotModel | nn.Module | str | Path) -> fewshot.FewShotModel:
    """A model, from what `EventClassifier` takes as one.

    Raises:
        ConfigError: no such model.
        InputError: a file that holds none.
    """
    if str(model) not in UNTRAINED:
        return fewshot.open_backbone(model)
    plain = fewshot.LatentConfig(mode="none")
    learner = turned.NAME if model == turned.NAME else "ridge"
    return fewshot.MCRNet(fewshot.ModelConfig(str(model), learner, _SIDE, channels=1, latent=plain)).eval()


def vote(
    probabilities: Float[np.ndarray, "m classes"], weights: Float[np.ndarray, "m"], owners: Int64[np.ndarray, "m"]
) -> Float[np.ndarray, "n classes"]:
    """The weighted geometric mean of the probabilities of each owner's pictures.

    The mean and not the product: pictures of one recording err together.
    """
    logs = np.log(np.maximum(probabilities, 1e-12)) * weights[:, None]
    sums = np.zeros((int(owners.max()) + 1, probabilities.shape[1]))
    np.add.at(sums, owners, logs)
    means = sums / np.bincount(owners, weights)[:, None]
    shares = np.exp(means - means.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def _opened(recording: RecordingLike) -> events.Recording:
    if isinstance(recording, events.Events):
        return events.Recording(recording)
    return recording if isinstance(recording, events.Recording) else events.read(recording)
