"""Examples that belong together, such as the frames of a video or several photographs of one thing.

They are alike in more than their class, so that the others of its group say nothing of how a further image will be
recognized: what is left out to be asked is left out with its whole group, and a group counts as much as one example.
Members of a group may also answer together (`voted`).
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pauca.errors import InputError


@dataclass(eq=False)
class Groups:
    """The group of each example as a number, and the names that numbers have been given for."""

    numbers: Int64[Tensor, "n"]
    names: dict[Hashable, int] = field(default_factory=dict)

    @classmethod
    def none(cls, device: torch.device) -> "Groups":
        """Of no examples."""
        return cls(torch.zeros(0, dtype=torch.int64, device=device))

    def with_more(self, names: Any, count: int) -> "Groups":
        """Behind these, the groups of further examples; a name that was given before means the group of then.

        Args:
            names: one for each example, strings or numbers; None makes a group of each.
            count: of the examples.

        Raises:
            InputError: names of another number, or of another kind.
        """
        known = dict(self.names)
        # Also after those whose examples have been removed: their names still mean their numbers.
        first = max([-1, *self.numbers.tolist(), *known.values()]) + 1
        if names is None:
            numbers = list(range(first, first + count))
        else:
            given = np.asarray(names)
            if given.shape != (count,):
                raise InputError(f"groups of shape {given.shape} for {count} examples; give one for each example")
            for name in given.tolist():
                if not isinstance(name, str | int):
                    raise InputError(f"a group called {name!r}: give whole numbers or strings")
            numbers = []
            for name in given.tolist():
                numbers.append(known.setdefault(name, first))
                first += numbers[-1] == first
        more = torch.tensor(numbers, dtype=torch.int64, device=self.numbers.device)
        return Groups(torch.cat([self.numbers, more]), known)

    def of(self, kept: Tensor) -> "Groups":
        """Of some of the examples."""
        return Groups(self.numbers[kept], self.names)


def pairs(
    targets: Int64[Tensor, "n"], groups: Int64[Tensor, "n"] | None
) -> tuple[Int64[Tensor, "n"], Int64[Tensor, "p"]]:
    """The members of one group and class as one: the place of each example among these pairs, and each pair's class."""
    if groups is None:
        return torch.arange(len(targets), device=targets.device), targets
    found, places = torch.stack([targets, groups]).unique(dim=1, return_inverse=True)
    return places, found[0]


def voted(
    values: Float[Tensor, "n *k"], places: Int64[Tensor, "n"], weights: Float[Tensor, "n"] | None = None
) -> Float[Tensor, "p *k"]:
    """The mean of the values that have the same place, for each place from 0 on.

    Of logits it is what the geometric mean of probabilities is of these. A mean and not a sum, which would take members
    for independent, while they err together.
    """
    counted = torch.ones_like(places, dtype=values.dtype) if weights is None else weights.to(values.dtype)
    sums = values.new_zeros(int(places.max()) + 1, *values.shape[1:])
    of_all = torch.bincount(places, counted).to(values.dtype)
    rows = (-1, *[1] * (values.ndim - 1))
    return sums.index_add(0, places, values * counted.view(rows)) / of_all.view(rows)


def shares(places: Int64[Tensor, "n"]) -> Float[Tensor, "n"]:
    """What each example counts, so that those with the same place count 1 together."""
    return 1 / torch.bincount(places)[places].double()
