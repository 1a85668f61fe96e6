"""Augmentation: each draw checked against what slicing and Pillow would give."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from pauca.errors import ConfigError
from pauca.fewshot.training.augment import AugmentConfig, augment, turn_classes
from pauca.fewshot.types import ImageSet

PLAIN = AugmentConfig(crop_padding=0, jitter=0.0, flip=False)


def random_images(count=6, channels=3, size=8, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


def test_no_augmentation_only_scales():
    images = random_images()
    torch.testing.assert_close(augment(images, PLAIN), images / 255)


def test_each_image_is_a_crop_of_its_padded_self_and_crops_differ():
    images = random_images(count=40)
    out = augment(images, AugmentConfig(crop_padding=2, jitter=0.0, flip=False))
    padded = torch.nn.functional.pad(images / 255, (2, 2, 2, 2))
    offsets = set()
    for cropped, whole in zip(out, padded, strict=True):
        found = [
            (dy, dx) for dy in range(5) for dx in range(5) if torch.equal(cropped, whole[:, dy : dy + 8, dx : dx + 8])
        ]
        assert len(found) == 1
        offsets.update(found)
    assert len(offsets) > 10  # of 25


def test_about_half_the_images_are_mirrored():
    images = random_images(count=200)
    out = augment(images, AugmentConfig(crop_padding=0, jitter=0.0, flip=True))
    mirrored = (out == images.flip(3) / 255).flatten(1).all(1)
    assert torch.equal(out[~mirrored], images[~mirrored] / 255)
    assert 70 < int(mirrored.sum()) < 130


def test_jitter_is_pillows_for_the_factors_that_were_drawn():
    images = random_images(count=4, size=16)
    torch.manual_seed(5)
    out = augment(images, AugmentConfig(crop_padding=0, jitter=0.4, flip=False))
    torch.manual_seed(5)
    torch.randint(0, 1, (2, 4, 1))  # the draw of the crop
    brightness, contrast, saturation = (1 + 0.4 * (2 * torch.rand(3, 4, 1, 1, 1) - 1)).flatten(1).tolist()
    for i, image in enumerate(images):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture = ImageEnhance.Brightness(picture).enhance(brightness[i])
        picture = ImageEnhance.Contrast(picture).enhance(contrast[i])
        picture = ImageEnhance.Color(picture).enhance(saturation[i])
        expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
        torch.testing.assert_close(out[i], expected, atol=3.5 / 255, rtol=0)  # Pillow rounds three times


def test_gray_images_are_jittered_in_brightness_and_contrast_alone():
    """As a color image with three times the same channel, of which a change of saturation leaves gray."""
    images = random_images(channels=1)
    config = AugmentConfig(crop_padding=2, flip=True)
    torch.manual_seed(5)
    gray = augment(images, config)
    torch.manual_seed(5)
    color = augment(images.expand(-1, 3, -1, -1), config)
    assert gray.shape == (6, 1, 8, 8)
    torch.testing.assert_close(gray.expand(-1, 3, -1, -1), color)
    assert not torch.equal(gray, augment(images, config))  # another draw


def test_channels_lie_last_in_memory_as_convolutions_want_them():
    assert augment(random_images(), PLAIN).is_contiguous(memory_format=torch.channels_last)


def test_turned_classes_turn_as_a_whole():
    images = random_images(count=30).unflatten(0, (3, 10))
    labels = torch.arange(5).repeat(3, 2)
    torch.manual_seed(0)
    out = turn_classes(images, labels, way=5, share=0.5)
    turns = torch.full((3, 10), -1)
    for quarter in range(4):
        same = (out == torch.rot90(images, quarter, (3, 4))).flatten(2).all(2)
        turns[same] = quarter
    assert (turns >= 0).all()
    assert torch.equal(turns[:, :5], turns[:, 5:])  # both images of a class
    assert len(turns.unique()) == 4


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_share_of_turned_classes(share):
    images = random_images(count=10).unflatten(0, (1, 10))
    out = turn_classes(images, torch.arange(10)[None], way=10, share=share)
    assert (out != images).flatten(2).any(2).float().mean() == share


def test_settings_out_of_range_are_refused():
    for wrong in ({"crop_padding": -1}, {"jitter": 1.0}, {"turned_classes": 2.0}):
        with pytest.raises(ConfigError):
            AugmentConfig(**wrong)


@pytest.mark.parametrize(
    ("content", "size", "padding", "flip"),
    [
        ("photographs", 16, 2, True),
        ("photographs", 32, 4, True),  # the paper's
        ("photographs", 84, 8, True),  # the paper's
        ("photographs", 224, 21, True),
        ("characters", 16, 1, False),
        ("characters", 28, 1, False),
        ("characters", 32, 2, False),
    ],
)
def test_augmentation_fits_the_data_unless_it_is_given(content, size, padding, flip):
    pixels = torch.zeros(1, 1, size, size, dtype=torch.uint8)
    images = ImageSet(pixels, torch.zeros(1, dtype=torch.int64), ("a",), content=content)
    fitted = AugmentConfig(jitter=0.3).fitted_to(images)
    assert (fitted.crop_padding, fitted.flip, fitted.jitter) == (padding, flip, 0.3)
    given = AugmentConfig(crop_padding=5, flip=not flip)
    assert given.fitted_to(images) == given
    assert ("none mirrored" in fitted.describe()) != flip
    assert f"up to {padding} px" in fitted.describe()


def test_augmentation_that_is_left_to_the_data_needs_the_data():
    with pytest.raises(ConfigError, match=r"needs fitted_to\(images\) first"):
        augment(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), AugmentConfig())
