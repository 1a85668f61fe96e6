"""Things that turn on a table: pictures are compared as if each example had been turned there by any angle.

Both are named for `ModelConfig`, so that a model of them is saved and opened like any other.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pauca import fewshot
from pauca.fewshot.base_learners import BASE_LEARNERS, Head, Scorer

NAME = "turned"
TURNS = 24  # around; on half as many things fall between two
_COPIES = 2 * TURNS  # with mirror images
_BRIGHTEST = 0.7  # of the brightest pixel. Left-out views of DVS128's session a: 97.1 %; 0.5, 97.0; 1, 96.8; 0.35, 96.3
_HEIGHT = 0.7  # of a circle on the table beside its width: it is seen from 45 degrees above. 0.6 and 0.8 are as good


class TurnedPixels(nn.Module):
    """Blurred pixels of a picture and of what it would be if the thing were turned by every 15 degrees, and mirrored.

    What is flat looks so when it is turned; what stands up, about so for small turns. The mirror image of a thing
    turned one way is that of many things turned the other way. The picture itself comes first.
    """

    turns: Tensor

    def __init__(self, channels_in: int, image_size: int) -> None:
        super().__init__()
        self.pixels = fewshot.BACKBONES["pixels"](channels_in, image_size)
        self.register_buffer("turns", _turns(), persistent=False)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        bright = flat(images)
        return torch.cat([self.pixels(turned(bright, turn)) for turn in self.turns], 1)


class NearestTurned(Head):
    """Cosine between a query and the nearest example of each class, turned by any angle.

    The nearest and not a mean, because the sides of a thing look different, and their mean like none of them.

    Args:
        scale: starting value of the learnable scale; cosines are at most 1, so it sets how sure the softmax can be.
    """

    def __init__(self, scale: float = 10.0):
        super().__init__(scale)

    def fit(self, support: Float[Tensor, "e n d"], targets: Float[Tensor, "e n way"]) -> Scorer:
        examples = functional.normalize(support.unflatten(-1, (_COPIES, -1)), dim=-1)
        episodes, _, way = targets.shape
        # Padding goes to a class of its own, which is cut off.
        labels = torch.where(targets.any(-1), targets.argmax(-1), way).unsqueeze(1)

        def score(query: Float[Tensor, "e q d"]) -> Float[Tensor, "e q way"]:
            asked = functional.normalize(query.unflatten(-1, (_COPIES, -1))[..., 0, :], dim=-1)
            cosines = (asked @ examples.flatten(1, 2).mT).unflatten(-1, (-1, _COPIES)).amax(-1)
            nearest = cosines.new_full((episodes, cosines.shape[1], way + 1), -1.0)
            return nearest.scatter_reduce(2, labels.expand_as(cosines), cosines, "amax")[..., :way]

        return score


def flat(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Images whose black is 0, with bright parts cut off: an edge counts by its length, not by how often it fired."""
    bright = images - images.amin((1, 2, 3), keepdim=True)
    return bright.minimum(_BRIGHTEST * bright.amax((1, 2, 3), keepdim=True))


def turned(images: Float[Tensor, "b c h w"], turn: Float[Tensor, "2 2"]) -> Float[Tensor, "b c h w"]:
    """Images of which each point comes from where a matrix sends it, in units of half a side, from the middle."""
    matrix = torch.cat([turn, turn.new_zeros(2, 1)], 1).to(images.dtype).expand(len(images), 2, 3)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def _turns() -> Float[Tensor, "copies 2 2"]:
    """From where a point (x, y) is after a turn on the table, and a mirror, to where it was before."""
    angles = torch.arange(TURNS) * (2 * math.pi / TURNS)
    cosine, sine = angles.cos(), angles.sin()
    rows = torch.stack([torch.stack([cosine, -sine / _HEIGHT], 1), torch.stack([sine * _HEIGHT, cosine], 1)], 1)
    return torch.cat([rows, rows * torch.tensor([-1.0, 1.0])])


fewshot.BACKBONES.setdefault(NAME, TurnedPixels)
BASE_LEARNERS.setdefault(NAME, NearestTurned)
