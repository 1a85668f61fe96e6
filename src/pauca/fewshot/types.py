"""What travels between the rooms of `pauca.fewshot`: images, episodes, and the shape of a base learner."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from pauca.choices import check_choices
from pauca.errors import ConfigError, InputError

PADDING = -1  # the label of a support or query slot that an episode does not use


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labeled images of one split, decoded, all of one size."""

    images: UInt8[Tensor, "n c h w"]  # may be memory-mapped; RGB or gray
    labels: Int64[Tensor, "n"]  # positions in class_names
    class_names: tuple[str, ...]
    split: str = "all"
    name: str = "images"
    sources: tuple[str, ...] = ()  # the file of each image, for messages and tables; may be empty
    fitting: Literal["crop", "squash"] | None = None  # how they became square; None for images that were, or unknown
    content: Literal["photographs", "characters"] = "photographs"  # what augmentation may do to them

    def __post_init__(self):
        if len(self.labels) != len(self.images):
            raise InputError(f"{self.name}: {len(self.images)} images but {len(self.labels)} labels; give one each")
        if self.sources and len(self.sources) != len(self.images):
            raise InputError(f"{self.name}: {len(self.images)} images but {len(self.sources)} sources")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.class_names):
            raise InputError(
                f"{self.name}: labels run from {int(self.labels.min())} to {int(self.labels.max())}, but "
                f"there are {len(self.class_names)} class names; labels are positions in class_names "
                "(image_set_from_arrays maps any others)"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        n, c, h, w = self.images.shape
        return f"ImageSet({self.name}/{self.split}: {n} images {c}x{h}x{w}, {len(self.class_names)} classes)"

    @property
    def counts(self) -> Int64[Tensor, "classes"]:
        """Number of images of each class."""
        return torch.bincount(self.labels, minlength=len(self.class_names))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of pixels, labels and class names: two sets with one fingerprint hold the same tasks."""
        digest = hashlib.sha256(repr((tuple(self.images.shape), self.class_names)).encode())
        digest.update(self.labels.cpu().numpy().tobytes())
        digest.update(np.ascontiguousarray(self.images.cpu().numpy()).data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set with pixels and labels on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def only(self, class_names: Sequence[str], split: str | None = None) -> "ImageSet":
        """The images of some classes, relabeled by their place in `class_names`."""
        missing = [name for name in class_names if name not in set(self.class_names)]
        if missing:
            raise InputError(
                f"{self.name}: {len(missing)} of {len(class_names)} classes asked for are absent, first "
                f"{missing[:3]}; it holds {len(self.class_names)}, first {list(self.class_names[:3])}"
            )
        position = {name: i for i, name in enumerate(class_names)}
        new_label = torch.tensor([position.get(name, PADDING) for name in self.class_names])
        labels = new_label.to(self.labels.device)[self.labels]
        kept = self.at((labels != PADDING).nonzero().squeeze(1).tolist())
        labels = labels[labels != PADDING]
        return replace(kept, labels=labels, class_names=tuple(class_names), split=split or self.split)

    def at(self, places: Sequence[int]) -> "ImageSet":
        """The images at some places, in that order, with the same classes."""
        sources = tuple(self.sources[i] for i in places) if self.sources else ()
        chosen = torch.as_tensor(places, dtype=torch.int64, device=self.labels.device)
        return replace(
            self, images=self.images[chosen.to(self.images.device)], labels=self.labels[chosen], sources=sources
        )


@dataclass(frozen=True)
class TrainingData:
    """What a model remembers of its training images."""

    name: str
    split: str
    images: int
    class_names: tuple[str, ...]
    fingerprint: str

    @classmethod
    def of(cls, images: ImageSet) -> "TrainingData":
        return cls(images.name, images.split, len(images), images.class_names, images.fingerprint)

    def classes_in(self, images: ImageSet) -> tuple[str, ...]:
        """The classes of a set that are among these: all of the very same images, else those of the same name."""
        if images.fingerprint == self.fingerprint:
            return images.class_names
        return shared_classes(self.class_names, images.class_names)


def shared_classes(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    """Names that are in both lists; mere numbers, which every data set counts from 0, say nothing."""
    known = set(first)
    return tuple(name for name in second if name in known and not name.isdecimal())


@dataclass(frozen=True)
class EpisodeConfig:
    """The shape of the tasks that a sampler draws. A pair (low, high) is drawn uniformly, ends included."""

    way: int | tuple[int, int] = 5
    """Classes in an episode; a pair varies it from episode to episode."""
    shot: int | tuple[int, int] = 1
    """Support images of a class; a pair varies it from episode to episode."""
    query: int = 15
    """Query images of a class."""
    unbalanced: bool = False
    """Draw the shot for each class of an episode by itself."""
    small_classes: Literal["refuse", "skip"] = "refuse"
    """Classes with fewer than shot + query images: stop and name them, or leave them out."""

    def __post_init__(self):
        check_choices(self)
        for name, (low, high) in {"way": self.way_range, "shot": self.shot_range}.items():
            if not 1 <= low <= high:
                raise ConfigError(f"{name} {getattr(self, name)}: give a number of at least 1 or a pair low <= high")
        if self.way_range[0] < 2:
            raise ConfigError(f"way {self.way}: an episode needs at least 2 classes")
        if self.query < 1:
            raise ConfigError(f"query {self.query}: an episode needs at least 1 query image of each class")
        if self.unbalanced and self.shot_range[0] == self.shot_range[1]:
            raise ConfigError(f"unbalanced support needs shot as a pair (low, high), not {self.shot}")

    @property
    def way_range(self) -> tuple[int, int]:
        return (self.way, self.way) if isinstance(self.way, int) else self.way

    @property
    def shot_range(self) -> tuple[int, int]:
        return (self.shot, self.shot) if isinstance(self.shot, int) else self.shot


@dataclass(frozen=True, eq=False)
class Episodes:
    """A batch of few-shot tasks, as positions in an ImageSet.

    Labels count from 0 within each episode. Episodes of different size share one batch: slots that an episode
    does not use have label `PADDING` (-1) and point at image 0.
    """

    classes: Int64[Tensor, "e way"]  # labels in the ImageSet; PADDING where an episode has fewer classes
    support: Int64[Tensor, "e n"]
    support_labels: Int64[Tensor, "e n"]
    query: Int64[Tensor, "e q"]
    query_labels: Int64[Tensor, "e q"]

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, rows: slice) -> "Episodes":
        """A run of episodes, still as a batch."""
        return Episodes(*(getattr(self, field)[rows] for field in self.__dataclass_fields__))

    @property
    def way(self) -> int:
        """The largest number of classes in an episode: the width of the logits."""
        return self.classes.shape[1]

    def to(self, device: torch.device | str) -> "Episodes":
        """The same episodes with their indices on a device."""
        return Episodes(*(getattr(self, field).to(device) for field in self.__dataclass_fields__))


class BaseLearner(Protocol):
    """Fits a classifier to each episode's support and scores its queries; any `nn.Module` of this call fits.

    Support slots with label `PADDING` count for nothing. A class without support gets -inf logits.
    """

    def __call__(
        self,
        support: Float[Tensor, "e n d"],
        support_labels: Int64[Tensor, "e n"],
        query: Float[Tensor, "e q d"],
        way: int,
    ) -> Float[Tensor, "e q way"]: ...


def present_classes(support_labels: Int64[Tensor, "e n"], way: int) -> Bool[Tensor, "e way"]:
    """Which of the `way` classes have support in each episode."""
    return (support_labels.unsqueeze(-1) == torch.arange(way, device=support_labels.device)).any(1)
