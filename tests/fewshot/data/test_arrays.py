"""One way from an image to a model's pixels, whatever the image comes as."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from pauca.errors import InputError
from pauca.fewshot.data import decode_image, image_set_from_arrays, load_images


@pytest.fixture
def photograph(picture) -> Image.Image:
    """40 rows of 60 columns, another color everywhere."""
    return picture(size=(60, 40))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def every_form(image: Image.Image, folder: Path) -> dict[str, object]:
    """The image as everything that a caller may have; each is one batch."""
    path = folder / "photograph.png"
    image.save(path)
    pixels = np.array(image)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    return {
        "path": [path],
        "path as text": [str(path)],
        "paths in an array": np.array([str(path)]),
        "bytes": [path.read_bytes()],
        "opened image": [Image.open(path)],
        "array": [pixels],
        "batch of arrays": pixels[None],
        "16-bit array": [pixels.astype(np.uint16) * 257],
        "floating array": [pixels / 255],
        "batch of floating planes": (pixels.transpose(2, 0, 1) / 255).astype(np.float32)[None],
        "tensor": [planes],
        "batch of tensors": planes[None],
        "batch of floating tensors": planes[None] / 255,
        "tensor with a gradient": (planes[None] / 255).requires_grad_(),
        "a mixture": (pixels,),
    }


@pytest.mark.parametrize("fitting", ["crop", "squash"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_photograph_gives_the_same_pixels_as_whatever_it_comes(photograph, tmp_path: Path, fitting, channels):
    expected = decode_image(encoded(photograph), 16, channels, fitting=fitting)
    assert expected.shape == (channels, 16, 16)
    for form, batch in every_form(photograph, tmp_path).items():
        assert torch.equal(load_images(batch, 16, channels, fitting)[0], expected), form


def test_crop_and_squash_are_what_they_say(photograph):
    """The left third of the image is white: a crop cuts half of it off, a squash keeps a third of the width."""
    photograph.paste("black", (0, 0, 60, 40))
    photograph.paste("white", (0, 0, 20, 40))
    cropped, squashed = (
        load_images([photograph], 30, 1, fitting)[0, 0] for fitting in ("crop", "squash")
    )  # 40 of 60 columns, and all 60, over 30
    assert (cropped[15] > 127).sum() == 8
    assert (squashed[15] > 127).sum() == 10


@pytest.mark.parametrize("mode", ["L", "P", "LA", "PA", "RGBA", "CMYK", "YCbCr", "HSV", "1"])
def test_every_mode_is_the_same_from_a_file_and_from_an_opened_image(mode, photograph, tmp_path: Path):
    image = photograph.convert("RGBA") if mode == "RGBA" else photograph.convert("L" if mode == "LA" else "P")
    if mode in ("CMYK", "YCbCr", "HSV", "1"):
        image = photograph
    image = image.convert(mode)
    if mode == "RGBA":
        image.putalpha(128)
    by_file = image
    if mode != "HSV":  # which no format keeps
        path = tmp_path / "image.tif"
        image.save(path)
        by_file = Image.open(path)
    assert torch.equal(load_images([image], 16, 3), load_images([by_file], 16, 3))
    if mode in ("L", "LA", "RGBA"):
        assert torch.equal(load_images([np.array(image)], 16, 3), load_images([image], 16, 3))


def test_transparency_is_laid_on_white_in_arrays_too():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 3] = 128
    assert load_images([pixels], 8, 3).unique().tolist() == [127]
    assert load_images([pixels[..., 2:]], 8, 1).unique().tolist() == [127]


def test_the_orientation_that_a_camera_noted_is_applied_to_opened_images(photograph, tmp_path: Path):
    exif = photograph.getexif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    photograph.save(path, exif=exif)
    by_path, opened, as_bytes = (load_images([one], 16, 3) for one in (path, Image.open(path), path.read_bytes()))
    assert torch.equal(by_path, opened)
    assert torch.equal(by_path, as_bytes)
    assert not torch.equal(by_path, load_images([np.array(Image.open(path))], 16, 3))  # an array knows no orientation


def test_images_of_several_sizes_are_one_batch(picture):
    sizes = [(60, 40), (16, 16), (30, 50)]
    assert load_images([picture(i, size) for i, size in enumerate(sizes)], 16, 3).shape == (3, 3, 16, 16)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((40, 60, 3), np.uint8), r"shape \(40, 60, 3\) is one color image and not a batch"),
        (np.zeros((40, 60, 4), np.uint8), r"shape \(40, 60, 4\) is one color image and not a batch"),
        (torch.zeros(3, 40, 60), r"shape \(3, 40, 60\) may be one color image or three gray ones"),
        (Image.new("RGB", (8, 8)), "a single image was given for a list"),
        (b"\x89PNG", "a single image was given for a list"),
        ("one.png", r"a single path, 'one\.png', was given for a list"),
        ([np.zeros((4, 5, 5, 3), np.uint8)], r"image 0: an array of shape \(4, 5, 5, 3\) is no image"),
        ([np.zeros((8, 8), np.uint8), np.full((8, 8), np.nan)], "image 1: holds the value nan"),
        ([7], "image 0: a int is no image"),
        ([b"no image"], "image 0: not readable as an image"),
        (np.zeros((2, 8, 8, 5), np.uint8), r"shape \(2, 8, 8, 5\) is no set of images"),
    ],
)
def test_what_is_no_list_of_images_is_refused(images, words):
    with pytest.raises(InputError, match=words):
        load_images(images, 16, 3)


def test_three_gray_images_are_three_for_a_gray_model():
    assert load_images(torch.zeros(3, 40, 60), 16, 1).shape == (3, 1, 16, 16)


def test_a_single_color_image_is_not_taken_for_a_set():
    with pytest.raises(InputError, match=r"shape \(40, 60, 3\) is one color image"):
        image_set_from_arrays(np.zeros((40, 60, 3), np.uint8), range(40))


@pytest.mark.parametrize("channels", [1, 3])
def test_lab_is_read_as_the_colors_that_it_stands_for(channels, photograph, tmp_path: Path):
    path = tmp_path / "lab.tif"
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    ImageCms.applyTransform(photograph, to_lab).save(path)
    difference = decode_image(path, 16, channels).float() - load_images([photograph], 16, channels)[0].float()
    assert difference.abs().mean() < 3  # of 255: LAB has 8 bits too


def test_heic_without_its_package_says_which(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("pauca.fewshot.data.decode._register_heic", lambda: None)
    path = tmp_path / "phone.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(InputError, match=r"phone\.heic: HEIC images need the package pillow-heif"):
        decode_image(path)


@pytest.mark.parametrize("largest", [1, 255, 4095])
@pytest.mark.parametrize("form", ["array", "batch", "16-bit file", "32-bit file"])
def test_bytes_or_12_bits_in_wider_numbers_are_no_black_image(largest, form, tmp_path):
    values = np.linspace(0, largest, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "16-bit file.png")
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "32-bit file.tif")
    given = (
        {"array": [values], "batch": values[None]}.get(form)
        if form in ("array", "batch")
        else [*tmp_path.glob(f"{form}*")]
    )
    with pytest.raises(InputError, match=rf"no pixel of its 16 bits lies above {largest:,} of 65,535.* give 8 bits"):
        load_images(given, 16, 3)


def test_a_black_image_of_16_bits_is_one():
    assert not load_images([np.zeros((64, 64), np.uint16)], 16, 3).any()
    assert load_images([np.full((64, 64), 4096, np.uint16)], 16, 1).eq(16).all()
