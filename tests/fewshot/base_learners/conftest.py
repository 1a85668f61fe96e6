"""Random episodes for the base learners."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Episodes = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def make_episodes() -> Callable[..., Episodes]:
    """A function that draws support features, labels and query features around random class centers, in float64."""

    def make(
        way: int = 5, shot: int = 5, features: int = 32, size: float = 1.0, apart: float = 0.5, count: int = 3
    ) -> Episodes:
        generator = torch.Generator().manual_seed(way * 1000 + shot)
        centers = apart * torch.randn(count, way, 1, features, generator=generator, dtype=torch.float64)
        noise = torch.randn(count, way, shot + 3, features, generator=generator, dtype=torch.float64)
        images = size * torch.nn.functional.leaky_relu(centers + noise, 0.1)
        labels = torch.arange(way).repeat_interleave(shot).expand(count, -1).contiguous()
        return images[:, :, :shot].flatten(1, 2), labels, images[:, :, shot:].flatten(1, 2)

    return make
