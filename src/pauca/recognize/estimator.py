"""`EventClassifier`: a scikit-learn estimator that recognizes things in recordings of an event camera."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Shaped, UInt8
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from pauca import events, fewshot
from pauca.errors import InputError
from pauca.recognize import turned
from pauca.recognize.pictures import Picture, pictures_of
from pauca.recognize.settings import Framing, Moving, PictureConfig

_log = logging.getLogger(__name__)

# What needs no training, and what its logits are multiplied by, so that probabilities are about true before anything
# can be left out to find a temperature. The best factor is 6 to 7 for edges on simulated characters (2 to 6 recordings
# each) and 11 to 13 on N-MNIST (1 to 10); 5 to 7, and 7, for pixels; for turned (whose cosines start at 10) 23 on
# DVS128's objects and 4 to 10 on N-MNIST. With 1, edges said 0.17 of what is right in 87 % of N-MNIST (5 each).
_SCALES = {"edges": 8.0, "pixels": 7.0, turned.NAME: 100.0}
UNTRAINED = tuple(_SCALES)
_SIDE = 32  # pixels of the pictures of what is not trained

RecordingLike = events.Recording | events.Events | str | Path


class _OfRecordings(fewshot.FewShotClassifier):
    """Learns from pictures and speaks of the recordings that they are of, each a group."""

    words = fewshot.Words("recordings", "recordings", are_groups=True)


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
        told = {"reject": self.reject, "unknown_label": self.unknown_label, "device": self.device}
        before = dict(vars(self))
        try:
            self.classifier_ = _OfRecordings(self._opened_model(), **told, votes=True)
            self._size, self._recordings = None, 0
            return self._learn(X, y, self.classifier_.fit)
        except Exception:  # what is refused leaves all that was learned before as it was
            vars(self).clear()
            vars(self).update(before)
            raise

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> "EventClassifier":
        """Add recordings of known things or of new ones, as `fit` takes them; `classes` changes nothing."""
        if not hasattr(self, "classifier_"):
            return self.fit(X, y)
        return self._learn(X, y, self.classifier_.partial_fit)

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n classes"]:
        """Probability of each known label for each recording; its pictures vote by what they hold."""
        check_is_fitted(self)
        return self.answer(self._seen(X)).probabilities

    def predict(self, X: Any) -> Shaped[np.ndarray, "n"]:
        """The most probable label of each recording, or `unknown_label` where it is rejected."""
        check_is_fitted(self)
        return self.answer(self._seen(X)).labels

    def answer(self, pictures: Sequence[Sequence[Picture]]) -> fewshot.Answers:
        """What `predict` and `predict_proba` say of recordings with these pictures."""
        check_is_fitted(self)
        self._tell()
        return self.classifier_.answer(*_together(pictures))

    def calibrate(self, X: Any) -> "EventClassifier":
        """Set the distance of unknown things from further recordings of known ones, of which `reject` may be lost."""
        check_is_fitted(self)
        self._tell()
        shown, owners, _ = _together(self._seen(X))
        self.classifier_.calibrate(shown, owners)
        return self

    def expected_accuracy(self) -> fewshot.Outlook:
        """What accuracy to expect on further recordings of these things, by leaving out those that were learned.

        Raises:
            InputError: fewer than two things have two recordings.
        """
        check_is_fitted(self)
        return self.classifier_.expected_accuracy()

    def remove_class(self, label: Any) -> "EventClassifier":
        """Forget a thing and its recordings; at least two must be left."""
        check_is_fitted(self)
        self.classifier_.remove_class(label)
        return self

    def rename_class(self, label: Any, name: Any) -> "EventClassifier":
        """Call a thing by another name; if another has it, the two become one."""
        check_is_fitted(self)
        self.classifier_.rename_class(label, name)
        return self

    def pictures(self, recording: RecordingLike) -> list[Picture]:
        """The pictures of one recording, as the model sees them."""
        recording = _opened(recording)
        self._compare_sensor(recording)
        return pictures_of(recording, self.image_size, self.picture_config, self.camera)

    def save(self, path: Path | str, force: bool = True) -> None:
        """Write what was learned, and how recordings become pictures, to one safetensors file."""
        check_is_fitted(self)
        self._tell()
        camera = None if self.camera is None else asdict(self.camera)
        note = {"pictures": asdict(self.picture_config), "camera": camera}
        note |= {"size": self._size, "recordings": self._recordings}
        self.classifier_.save(path, force, json.dumps(note))

    @classmethod
    def load(cls, path: Path | str, device: str = "auto") -> "EventClassifier":
        """What `save` wrote, which can learn further recordings.

        Raises:
            InputError: another file, or one that is damaged.
        """
        inner = _OfRecordings.load(path, device)
        try:
            note = json.loads(inner.note_)
            pictures, camera, size, count = (note[name] for name in ("pictures", "camera", "size", "recordings"))
            calibration = None if camera is None else events.Camera(**camera | {"size": tuple(camera["size"])})
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path}: classifies images and not events; give what EventClassifier.save wrote"
            ) from error
        told = {"reject": inner.reject, "unknown_label": inner.unknown_label, "device": device}
        loaded = cls(inner.model_, **pictures, camera=calibration, **told)
        loaded.classifier_, loaded._size, loaded._recordings = inner, None if size is None else tuple(size), count
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

    def _tell(self) -> None:
        """What may be set after fitting, as with `FewShotClassifier`."""
        self.classifier_.set_params(reject=self.reject, unknown_label=self.unknown_label)

    def _learn(self, X: Any, y: Any, learn: Any) -> "EventClassifier":
        labels = np.asarray(y)
        if labels.ndim != 1:
            raise InputError(f"labels of shape {labels.shape}; give a list with one label for each recording")
        pictures = self._seen(X)
        if len(pictures) != len(labels):
            raise InputError(f"{len(pictures)} recordings but {len(labels)} labels; give one label for each recording")
        # Pictures of one recording are no independent examples, and answer together. Its number is never given again,
        # also not when its thing is forgotten.
        shown, owners, _ = _together(pictures)
        learn(shown, labels[owners], groups=owners + self._recordings)
        self._recordings += len(pictures)
        return self

    def _seen(self, recordings: Any) -> list[list[Picture]]:
        """The pictures of each recording.

        Raises:
            InputError: there is none, or one is given in place of a list.
        """
        if isinstance(recordings, str | Path | events.Events | events.Recording):
            raise InputError("one recording was given where several are expected; put it into a list: [recording]")
        if not (seen := [self.pictures(recording) for recording in recordings]):
            raise InputError("no recordings were given; give a list of one or more")
        return seen

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
    made = fewshot.MCRNet(fewshot.ModelConfig(str(model), learner, _SIDE, channels=1, latent=plain)).eval()
    made.base_learner.scale.data.fill_(_SCALES[str(model)])  # pyright: ignore[reportCallIssue]
    return made


def _together(
    pictures: Sequence[Sequence[Picture]],
) -> tuple[UInt8[np.ndarray, "m size size"], Int64[np.ndarray, "m"], list[float]]:
    """The pixels of all pictures, the recording that each is of, and its weight."""
    flat = [picture for few in pictures for picture in few]
    owners = np.repeat(np.arange(len(pictures)), [len(few) for few in pictures])
    return np.stack([picture.pixels for picture in flat]), owners, [picture.weight for picture in flat]


def _opened(recording: RecordingLike) -> events.Recording:
    if isinstance(recording, events.Events):
        return events.Recording(recording)
    return recording if isinstance(recording, events.Recording) else events.read(recording)
