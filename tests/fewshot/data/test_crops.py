"""Crops of one another are found at any scale, and named by the scan; what only looks alike is not."""

import tracemalloc
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from pauca.fewshot import draw_glyphs, scan_images
from pauca.fewshot.data.crops import PointIndex, _matches, find_crops, windows
from pauca.fewshot.data.points import MOST_POINTS, Points, find_points


def scene(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """Patches of light and dark at all scales, as in a photograph."""
    generator = np.random.default_rng(seed)
    layers = [sigma * gaussian_filter(generator.normal(size=(height, width)), sigma) for sigma in (1, 2, 4, 8, 16)]
    pixels = np.sum(layers, 0)
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    return Image.fromarray((255 * pixels).astype(np.uint8))


def saved(image: Image.Image, quality: int = 60) -> Image.Image:
    """As a JPEG keeps it."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("L")


def cut(image: Image.Image, share: float, seed: int) -> Image.Image:
    width, height = round(share * image.width), round(share * image.height)
    generator = np.random.default_rng(seed)
    left, top = int(generator.integers(image.width - width + 1)), int(generator.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


@pytest.mark.parametrize(
    ("share", "change", "most_missed"),
    [
        (0.9, lambda image: image, 0),
        (0.7, lambda image: image, 1),
        (0.7, lambda image: image.resize((160, 120)), 1),
        (0.7, lambda image: saved(image.resize((300, 225))), 1),
        (0.7, lambda image: image.point(lambda value: 40 + value // 2), 0),  # less contrast
        (0.5, lambda image: image, 2),
    ],
)
def test_crops_are_found_and_nothing_else(share, change, most_missed):
    scenes = [scene(seed) for seed in range(12)]
    images = scenes + [change(cut(image, share, seed)) for seed, image in enumerate(scenes[:8])]
    truth = {(place, 12 + place) for place in range(8)}
    pairs = find_crops(images)
    assert pairs <= truth
    assert len(truth - pairs) <= most_missed


def test_neither_copies_nor_turned_nor_plain_images_are_crops():
    image = scene(0)
    plain = Image.new("L", (160, 120), 90)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160), np.uint8))
    assert not find_crops([image, saved(image), image.resize((320, 240)), cut(image, 0.97, 0), plain, plain, noise])
    assert not find_crops([image, cut(image, 0.7, 0).transpose(Image.Transpose.ROTATE_90)])


def test_characters_are_not_crops_of_other_characters():
    glyphs = draw_glyphs("train", per_class=2, size=32, classes=40)
    pairs = find_crops([Image.fromarray(pixels[0].numpy()) for pixels in glyphs.images])
    assert all(glyphs.labels[whole] == glyphs.labels[crop] for whole, crop in pairs)  # drawn larger: cut off


def test_few_points_of_an_image_are_kept_and_tiny_ones_have_none():
    assert len(find_points(scene(0, 640, 480)).hashes) == MOST_POINTS
    for size in ((1, 1), (8, 8), (300, 1), (23, 23)):
        assert not len(find_points(Image.new("L", size)).hashes)
    assert not find_crops([Image.new("L", (1, 400)), Image.new("L", (30, 30))])


def test_the_scan_names_crops(tmp_path: Path):
    """As Caltech's Faces and Faces_easy: the same photographs, cut to the face."""
    for name in ("faces", "easy"):
        (tmp_path / name).mkdir()
    for seed in range(6):
        image = scene(seed).convert("RGB")
        image.save(tmp_path / "faces" / f"{seed}.png")
        if seed < 2:
            image.crop((30, 10, 130, 110)).save(tmp_path / "easy" / f"{seed}.jpg")
    image.crop((0, 0, 110, 120)).save(tmp_path / "faces" / "half.png")
    report = scan_images(tmp_path, min_images=1)
    whole, part = tmp_path / "faces" / "0.png", tmp_path / "easy" / "0.jpg"
    assert [(Path(p.first).name, Path(p.second).name, p.across) for p in report.crops] == [
        ("0.png", "0.jpg", "classes"),
        ("1.png", "1.jpg", "classes"),
        ("5.png", "half.png", ""),
    ]
    assert report.harmful
    assert ("crop across classes", str(part), f"of {whole}") in report.findings()
    without = scan_images(tmp_path, min_images=1, crops=False)
    assert not without.crops
    assert not without.harmful


def _random_index(images: int, alike: int) -> PointIndex:
    """Images of 0 to 24 points, the first few of which all images have but for some bits."""
    rng = np.random.default_rng(0)
    common = rng.integers(0, 2**64, alike, np.uint64)
    index = PointIndex(images, MOST_POINTS)
    for image in range(images):
        hashes = rng.integers(0, 2**64, rng.integers(0, MOST_POINTS + 1), np.uint64)
        few = min(alike, len(hashes))
        hashes[:few] = common[:few] ^ (np.uint64(1) << rng.integers(0, 64, few, np.uint64))
        index.put(image, Points(hashes, rng.uniform(8, 90, (len(hashes), 3)).astype(np.float16)))
    return index


def test_all_points_of_two_images_that_differ_in_few_bits_are_matched():
    index = _random_index(30, 2)
    hashes, count = index.hashes, index.counts
    numbers = [(image, place) for image in range(30) for place in range(count[image])]
    expected = {
        (i * MOST_POINTS + a, j * MOST_POINTS + b)
        for i, a in numbers
        for j, b in numbers
        if i < j and int(hashes[i, a] ^ hashes[j, b]).bit_count() <= 2
    }
    assert len(expected) > 300
    assert set(zip(*(points.tolist() for points in _matches(index)), strict=True)) == expected


def test_images_that_share_one_point_have_no_matches_where_two_are_asked():
    index = _random_index(30, 2)
    everything = np.stack(_matches(index))
    pair = everything[0] // MOST_POINTS * 30 + everything[1] // MOST_POINTS
    several = np.isin(pair, [n for n, times in zip(*np.unique(pair, return_counts=True), strict=True) if times >= 2])
    assert 0 < several.sum() < len(several)
    np.testing.assert_array_equal(_matches(index, 2), everything[:, several])


def test_matching_takes_little_beside_the_points_themselves():
    """100,000 photographs with all of their points took 155 MB more than what was kept of them."""
    index = _random_index(10_000, 0)
    tracemalloc.start()
    found = list(windows(index, lambda place: (128, 128)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not found
    assert peak < 0.8 * index.hashes.nbytes
