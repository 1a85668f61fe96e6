"""Decoding: every mode to 8 bits without surprises, damage with a name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pauca.errors import ConfigError, InputError
from pauca.fewshot.data import decode_image


def test_a_truncated_jpeg_is_refused_by_name(tmp_path: Path, picture):
    path = tmp_path / "half.jpg"
    picture(size=(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"half\.jpg: not readable as an image .*truncated"):
        decode_image(path)


def test_what_is_no_image_or_no_file_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "notes.jpg"
    path.write_text("not an image")
    with pytest.raises(InputError, match=r"notes\.jpg: not readable as an image"):
        decode_image(path)
    with pytest.raises(InputError, match=r"absent\.jpg: no such file"):
        decode_image(tmp_path / "absent.jpg")


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path: Path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 256, 257, 32896, 65535]], np.uint16)).save(path)
    assert decode_image(path, channels=1).flatten().tolist() == [0, 1, 1, 128, 255]
    assert decode_image(path).shape == (3, 1, 5)


def test_floating_and_thirty_two_bit_pixels_are_refused(tmp_path: Path):
    for values, message in ((np.float32(0.5), "floating-point"), (np.int32(70000), "32-bit pixels up to 70000")):
        path = tmp_path / "odd.tif"
        Image.fromarray(np.full((2, 2), values)).save(path)
        with pytest.raises(InputError, match=message):
            decode_image(path)


def test_transparency_is_laid_on_white(tmp_path: Path):
    path = tmp_path / "clear.png"
    Image.fromarray(np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]], np.uint8)).save(path)
    assert decode_image(path).permute(1, 2, 0).tolist() == [[[255, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "PA"])
def test_every_mode_becomes_eight_bits_in_color_or_gray(mode, tmp_path: Path, picture):
    path = tmp_path / "image.tif"
    picture(mode="RGB").convert("L" if mode in ("LA", "PA") else mode).convert(mode).convert(
        "LA" if mode == "PA" else mode
    ).save(path)
    assert decode_image(path).shape == (3, 16, 20)
    assert decode_image(path, channels=1).shape == (1, 16, 20)


def test_the_orientation_that_a_camera_noted_is_applied(tmp_path: Path, picture):
    path = tmp_path / "turned.png"
    image = picture()
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned, so the file's top is the scene's right
    image.save(path, exif=exif)
    assert decode_image(path).shape == (3, 20, 16)


def test_fitting_keeps_the_center_and_the_proportions(tmp_path: Path):
    """A gray square in the middle of a wide black image fills the result's height, black remains outside it."""
    path = tmp_path / "wide.png"
    pixels = np.zeros((32, 96), np.uint8)
    pixels[8:24, 40:56] = 200
    Image.fromarray(pixels).save(path)
    fitted = decode_image(path, size=16, channels=1)[0]
    assert fitted.shape == (16, 16)
    bright = fitted > 100
    assert (
        bright.any(0).nonzero().flatten().tolist() == bright.any(1).nonzero().flatten().tolist() == list(range(4, 12))
    )


def test_bytes_are_read_as_files_are(tmp_path: Path, picture):
    path = tmp_path / "image.png"
    picture().save(path)
    assert torch.equal(decode_image(path), decode_image(path.read_bytes()))


def test_other_numbers_of_channels_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="2 image channels"):
        decode_image(tmp_path / "any.png", channels=2)
