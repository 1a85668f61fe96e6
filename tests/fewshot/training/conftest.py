"""Images for trainings."""

import dataclasses

import pytest

from pauca.fewshot.types import ImageSet


@pytest.fixture
def images(toy_images) -> ImageSet:
    """The toy images, of which an episode of the validation asks 17 of a class: each one twice."""
    return dataclasses.replace(
        toy_images, images=toy_images.images.repeat(2, 1, 1, 1), labels=toy_images.labels.repeat(2)
    )
