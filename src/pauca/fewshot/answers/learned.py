"""A base learner fitted to examples, and what leaving them out says of its answers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from pauca.fewshot.answers.copies import copies, describe_copies, groups_with_copies, no_coincidences
from pauca.fewshot.answers.examples import ExampleError, Examples, Words
from pauca.fewshot.answers.groups import shares, voted
from pauca.fewshot.answers.held_out import hold_out
from pauca.fewshot.answers.outlook import Outlook, expected_accuracy
from pauca.fewshot.answers.temperature import class_spread, fit_temperature
from pauca.fewshot.answers.unknown import ClassMeans, stranger_auroc
from pauca.fewshot.network import FewShotModel
from pauca.fewshot.pretrained import Features


@dataclass(frozen=True, eq=False)
class Further:
    """Images of known classes that were not learned from."""

    features: Float[Tensor, "k d"]
    groups: Int64[Tensor, "k"]

    @property
    def are_grouped(self) -> bool:
        """Whether some of them belong together."""
        return len(self.groups.unique()) < len(self.groups)

    def to(self, device: torch.device) -> "Further":
        """On another device."""
        return Further(self.features.to(device), self.groups.to(device))


class Learned:
    """Everything that examples of at least two classes teach, found once.

    Args:
        model: whose base learner is fitted.
        examples: to fit it to.
        votes: the members of a group answer together.
        words: in which messages speak of the examples.
    """

    def __init__(
        self, model: FewShotModel, examples: Examples, votes: bool = False, words: Words | None = None
    ) -> None:
        self.words = words or Words()
        self.counted = self.words.counted(examples.are_grouped)
        classes = examples.classes
        if len(classes) < 2:
            raise ExampleError(
                f"all {self.words.examples} have one label, {classes.tolist()[0]!r}: one class is not enough; add "
                f"{self.words.examples} of another class"
            )
        self.model, self.examples, self.way, self.votes = model, examples, len(classes), votes
        known = examples.features, examples.targets, self.way
        self.means = ClassMeans.of(*known)
        first, of_images = copies(examples.features), not isinstance(model, Features)
        if not of_images:
            first = no_coincidences(examples.features, first)
        self.copies = describe_copies(examples, first, self.words, of_images)
        self.groups = groups_with_copies(examples, first)
        self.held_out = hold_out(model, *known, self.groups, votes)
        spread = 0.0
        if self.held_out is None:
            spread = float(class_spread(examples.features[None], one_hot(examples.targets, self.way)[None]))
        self.temperature = fit_temperature(model, self.held_out, len(examples.labels) / self.way, spread)
        self.head(examples.features[None, :1])  # fitted now, so that what is wrong is said by `fit`

    @cached_property
    @torch.no_grad()
    def head(self) -> Callable[[Tensor], Tensor]:
        """From features [1, q, d] to logits [1, q, way]."""
        return self.model.fitted(self.examples.features[None], self.examples.targets[None], self.way)

    def __getstate__(self) -> dict[str, Any]:
        # The fitted head is a function, which cannot be pickled and is soon made again.
        return {name: value for name, value in vars(self).items() if name != "head"}

    @torch.no_grad()
    def logits(self, features: Float[Tensor, "q d"]) -> Float[Tensor, "q way"]:
        """Of each class, before they are divided by a temperature."""
        return self.head(features[None])[0]

    def distances(self, features: Float[Tensor, "q d"]) -> Float[np.ndarray, "q"]:
        """To the nearest class."""
        return self.means.distances(features).cpu().numpy()

    def unseen_distances(self, further: Further | None) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
        """Of images of known classes that were not learned from, and what each counts: examples left out, if no other.

        Raises:
            ExampleError: none can be left out.
        """
        if further is not None:
            found = self.distances(further.features)
            members = further.groups.unique(return_inverse=True)[1].cpu()
            if self.votes:
                together = voted(torch.from_numpy(found), members).numpy()
                return together, np.ones(len(together))
            return found, shares(members).numpy()
        if self.held_out is None:
            different = "different " if self.copies else ""
            raise ExampleError(
                f"reject needs two {different}{self.counted} in at least two classes to set its threshold; add "
                f"{self.words.examples}, leave reject out or, in Python, fit with reject=None, set reject and call "
                f"calibrate with further {self.words.images}"
            )
        examples = self.examples
        distances, weights = self.means.left_out(examples.features, examples.targets, self.groups, self.votes)
        return distances.cpu().numpy(), weights.cpu().numpy()

    def expected_accuracy(self) -> Outlook:
        """On further images of these classes.

        Raises:
            ExampleError: none can be left out.
        """
        if self.held_out is None:
            raise ExampleError(
                f"the accuracy to expect is found by leaving out {self.counted}, which takes two in at least two "
                f"classes; add {self.words.examples}"
            )
        return expected_accuracy(self.held_out, self.words)

    def unknown_auroc(self) -> float | None:
        """`stranger_auroc` of the examples."""
        return stranger_auroc(self.examples.features, self.examples.targets, self.way, self.groups)
