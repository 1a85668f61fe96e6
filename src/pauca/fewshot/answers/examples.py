"""What a classifier learns from: features of examples, their labels, and which of them belong together."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from pauca.errors import InputError
from pauca.fewshot.answers.groups import Groups


class ExampleError(InputError, ValueError):
    """Examples that cannot be learned from; a ValueError too, because that is what callers of scikit-learn expect."""


@dataclass(frozen=True)
class Words:
    """What messages call that which is learned from and asked about."""

    examples: str = "examples"
    images: str = "images"
    are_groups: bool = False
    """Each is a group of the images that a classifier sees, as a recording is of its pictures: groups of images are
    then groups to nobody else."""

    def counted(self, grouped: bool) -> str:
        """What is left out at once."""
        return f"groups of {self.examples}" if grouped and not self.are_groups else self.examples

    def further(self, grouped: bool) -> str:
        """The same that nothing was learned from."""
        return f"groups of further {self.images}" if grouped and not self.are_groups else f"further {self.images}"


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples of classes, as features."""

    features: Float[Tensor, "n d"]
    labels: Shaped[np.ndarray, "n"]  # strings or numbers
    groups: Groups

    @classmethod
    def of(cls, features: Float[Tensor, "n d"], labels: Shaped[np.ndarray, "n"], groups: Any) -> "Examples":
        """From features, labels and the names of groups, or None."""
        return cls(features, labels, Groups.none(features.device).with_more(groups, len(labels)))

    @cached_property
    def classes(self) -> Shaped[np.ndarray, "classes"]:
        """The labels, sorted."""
        return np.unique(self.labels)

    @cached_property
    def targets(self) -> Int64[Tensor, "n"]:
        """The position of each example's label in `classes`."""
        return torch.from_numpy(np.searchsorted(self.classes, self.labels)).to(self.features.device)

    @property
    def are_grouped(self) -> bool:
        """Whether it was said which examples belong together."""
        return bool(self.groups.names)

    def with_more(
        self, features: Float[Tensor, "m d"], labels: Shaped[np.ndarray, "m"], groups: Any = None
    ) -> "Examples":
        """Behind these, further examples of these classes or of new ones."""
        if are_numbers(self.labels) != are_numbers(labels):
            raise ExampleError(
                f"labels like {labels[0]!r} beside classes like {self.labels[0]!r}: give all as numbers or all as "
                "strings"
            )
        return Examples(
            torch.cat([self.features, features]),
            np.concatenate([self.labels, labels]),
            self.groups.with_more(groups, len(labels)),
        )

    def without(self, label: Any) -> "Examples":
        """But those of one class."""
        self._check_known(label)
        kept = self.labels != label
        chosen = torch.from_numpy(kept).to(self.features.device)
        return Examples(self.features[chosen], self.labels[kept], self.groups.of(chosen))

    def renamed(self, label: Any, name: Any) -> "Examples":
        """The same with another name for a class."""
        self._check_known(label)
        if isinstance(name, str) == are_numbers(self.labels):
            raise ExampleError(
                f"a class cannot be called {name!r} beside classes like {label!r}: give a name of its kind"
            )
        labels = self.labels.astype(np.result_type(self.labels, np.asarray(name)))
        labels[self.labels == label] = name
        return replace(self, labels=labels)

    def to(self, device: torch.device) -> "Examples":
        """On another device."""
        groups = Groups(self.groups.numbers.to(device), self.groups.names)
        return Examples(self.features.to(device), self.labels, groups)

    def _check_known(self, label: Any) -> None:
        if label not in self.classes.tolist():
            raise ExampleError(f"no class is called {label!r}; there are {', '.join(map(str, self.classes[:10]))}")


def checked_labels(y: Any) -> Shaped[np.ndarray, "n"]:
    """Labels as an array, after scikit-learn's checks."""
    from sklearn.utils import assert_all_finite  # it brings 55 MB along; who only scans images needs none of it
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import column_or_1d

    labels = column_or_1d(np.asarray(y), warn=True)
    assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    return labels


def are_numbers(labels: Shaped[np.ndarray, "n"]) -> bool:
    """Whether labels are numbers and not strings."""
    return labels.dtype.kind in "iufb"
