"""Test-time augmentation: the views of an image that its features are taken of, and how they make one row.

Views of one turn are averaged, turns stand side by side: `ViewsAtTest.by_turn` says which.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from pauca.fewshot.windows import CROPS, TURNS, show, windows_at_test


@dataclass(frozen=True)
class Kind:
    """Views of an image that are alike: their features are averaged as they are, and have one mean over classes."""

    turn: int
    """By quarters, before a part is cut."""
    part: Literal["whole", "crops"] = "whole"

    @property
    def count(self) -> int:
        """How many views it has, mirror images aside."""
        return CROPS if self.part == "crops" else 1

    def images(self, images: Shaped[Tensor, "b c h w"]) -> Iterator[Shaped[Tensor, "b c h w"]]:
        """One view of all images after the other."""
        turned = torch.rot90(images, self.turn, (2, 3))
        if self.part == "whole":
            yield turned
            return
        pixels = from_bytes(turned)
        # One window for all images, whose number is then free in an exported graph.
        for window in windows_at_test(images.shape[-1], 1, images.device):
            yield show(pixels, window)


# Whose mean over the training classes a model with `center_features` knows: the rows of its `feature_mean`.
KINDS = (*(Kind(turn) for turn in range(TURNS)), *(Kind(turn, "crops") for turn in range(TURNS)))


@dataclass(frozen=True)
class ViewsAtTest:
    """Test-time augmentation: in which views an image is seen when its features are taken."""

    mirror: bool = False
    """Average the features of each image and of its mirror image, where left and right mean nothing: a little more
    accurate, in twice the time."""
    crops: bool = False
    """Average the features of each image and the mean of seven parts of it; takes eight times the time. For models
    that were shown such parts, as by --recipe strong with --views 8 or 16."""
    turns: bool = False
    """Put the features of each image and of its turns by 90, 180 and 270 degrees side by side; takes four times the
    time. For models of --recipe strong, which were taught to know the turns apart."""

    def by_turn(self) -> list[list[Kind]]:
        """The kinds of views of each turn: those of a list are averaged, lists stand side by side."""
        parts: tuple[Literal["whole", "crops"], ...] = ("whole", "crops") if self.crops else ("whole",)
        return [[Kind(turn, part) for part in parts] for turn in range(TURNS if self.turns else 1)]

    def with_mirror(self, mirror: bool) -> "ViewsAtTest":
        """The same views, mirrored too where `mirror` is set, which is what 0.1 had in their place."""
        return replace(self, mirror=self.mirror or mirror)


AS_IT_IS = ViewsAtTest()


def from_bytes(images: UInt8[Tensor, "b c h w"] | Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Values from 0 to 1, where they are not so already."""
    return images / 255 if images.dtype == torch.uint8 else images
