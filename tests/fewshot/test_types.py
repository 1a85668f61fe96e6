"""Image sets and episodes as values."""

import torch

from pauca.fewshot.types import PADDING, EpisodeConfig, Episodes, ImageSet, present_classes


def image_set(**changes) -> ImageSet:
    values = {
        "images": torch.arange(24, dtype=torch.uint8).reshape(6, 1, 2, 2),
        "labels": torch.tensor([0, 1, 1, 2, 2, 2]),
        "class_names": ("ant", "bee", "cow"),
    }
    return ImageSet(**{**values, **changes})


def test_an_image_set_counts_and_describes_itself():
    images = image_set(split="train", name="zoo")
    assert len(images) == 6
    assert images.counts.tolist() == [1, 2, 3]
    assert repr(images) == "ImageSet(zoo/train: 6 images 1x2x2, 3 classes)"


def test_the_fingerprint_follows_pixels_labels_and_class_names_and_nothing_else():
    first = image_set().fingerprint
    assert first == image_set(split="test", name="other", sources=tuple("abcdef")).fingerprint
    changed = image_set().images.clone()
    changed[3, 0, 1, 1] += 1
    for other in (
        image_set(images=changed),
        image_set(images=image_set().images.reshape(6, 1, 1, 4)),
        image_set(labels=torch.tensor([0, 1, 1, 2, 2, 1])),
        image_set(class_names=("ant", "bee", "dog")),
    ):
        assert other.fingerprint != first


def test_the_fingerprint_does_not_depend_on_the_layout_in_memory():
    images = image_set().images.expand(6, 3, 2, 2)
    strided = images.contiguous(memory_format=torch.channels_last)
    assert image_set(images=strided).fingerprint == image_set(images=images.contiguous()).fingerprint


def test_a_run_of_episodes_is_still_a_batch():
    index = torch.arange(12).reshape(4, 3)
    episodes = Episodes(index, index, index, index, index)
    assert len(episodes[1:3]) == 2
    assert episodes[1:3].query.tolist() == [[3, 4, 5], [6, 7, 8]]
    assert episodes.way == 3


def test_ranges_of_a_configuration():
    assert EpisodeConfig(way=5, shot=(1, 10)).way_range == (5, 5)
    assert EpisodeConfig(way=5, shot=(1, 10)).shot_range == (1, 10)


def test_classes_with_support_are_present():
    labels = torch.tensor([[0, 2, PADDING], [1, 1, 1]])
    assert present_classes(labels, 4).tolist() == [[True, False, True, False], [False, True, False, False]]
