"""Contrast of an image's views with one another, against a bank that remembers every training image."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F


class ContrastBank(nn.Module):
    """One unit vector for each training image: where its whole, upright view was last seen.

    Args:
        images: number of training images.
        dimensions: of the vectors.
        move: how far a vector moves to where its image is seen now; the rest is memory.
    """

    rows: Tensor

    def __init__(self, images: int, dimensions: int, move: float = 0.5) -> None:
        super().__init__()
        self.move = move
        self.register_buffer("rows", F.normalize(torch.randn(images, dimensions), dim=1))

    def draw(self, count: int) -> Float[Tensor, "m d"]:
        """`count` vectors of any images, with repetition."""
        return self.rows[torch.randint(0, len(self.rows), (count,), device=self.rows.device)]

    @torch.no_grad()
    def remember(self, images: Int64[Tensor, "b"], seen: Float[Tensor, "b d"]) -> None:
        """Move the vectors of some images to where these are seen now."""
        moved = torch.lerp(self.rows[images], seen.detach().to(self.rows), self.move)
        self.rows[images] = F.normalize(moved, dim=1)


def contrast(
    views: Float[Tensor, "b v d"], others: Float[Tensor, "m d"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """Cross-entropy, in nats, of finding an image's first view among vectors of other images, for its other views.

    Args:
        views: unit vectors of the views of each image.
        others: unit vectors of other images.
        temperature: of the softmax over cosines.
    """
    views = views.float()
    first, rest = views[:, :1], views[:, 1:]
    same = (first * rest).sum(-1).flatten() / temperature
    different = rest.flatten(0, 1) @ others.float().mT / temperature
    return (torch.logaddexp(same, different.logsumexp(1)) - same).mean()
