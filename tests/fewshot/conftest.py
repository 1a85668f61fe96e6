"""Small images whose classes are easy to tell, and episodes of them."""

import pytest
import torch

from pauca.fewshot.types import Episodes, ImageSet

CLASSES, PER_CLASS, SIZE = 8, 12, 16


@pytest.fixture(scope="session")
def toy_images() -> ImageSet:
    """8 classes of 12 color images of 16 pixels: a coarse pattern of the class under noise of the image."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 160, (CLASSES, 1, 3, 4, 4), generator=generator)
    patterns = patterns.repeat_interleave(SIZE // 4, 3).repeat_interleave(SIZE // 4, 4)
    noise = torch.randint(0, 96, (CLASSES, PER_CLASS, 3, SIZE, SIZE), generator=generator)
    images = (patterns + noise).to(torch.uint8).flatten(0, 1)
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    return ImageSet(images, labels, tuple(f"class-{i}" for i in range(CLASSES)), name="toy")


@pytest.fixture(scope="session")
def toy_episodes(toy_images) -> Episodes:
    """40 episodes of the toy images: 3-way, 2-shot, 4 queries."""
    return draw(toy_images, count=40, way=3, shot=2, query=4)


def draw(images: ImageSet, count: int, way: int, shot: int, query: int, seed: int = 0) -> Episodes:
    generator = torch.Generator().manual_seed(seed)
    rows: list[list[torch.Tensor]] = [[], [], []]
    for _ in range(count):
        classes = torch.randperm(len(images.class_names), generator=generator)[:way]
        places = torch.stack(
            [
                (images.labels == c).nonzero()[:, 0][torch.randperm(PER_CLASS, generator=generator)[: shot + query]]
                for c in classes
            ]
        )
        for row, value in zip(rows, (classes, places[:, :shot].flatten(), places[:, shot:].flatten()), strict=True):
            row.append(value)
    classes, support, queries = map(torch.stack, rows)
    labels = torch.arange(way)
    return Episodes(
        classes,
        support,
        labels.repeat_interleave(shot).repeat(count, 1),
        queries,
        labels.repeat_interleave(query).repeat(count, 1),
    )
