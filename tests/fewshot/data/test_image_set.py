"""Image sets: labels of any kind, the cache, and images that two sets share."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from pauca.errors import InputError
from pauca.fewshot import EmptyFoldersWarning, UnlabeledImagesWarning
from pauca.fewshot.data import (
    check_disjoint,
    image_set_from_arrays,
    load_image_set,
    read_images,
    save_image_set,
)
from pauca.fewshot.types import ImageSet


def pixels(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *shape), np.uint8)


def test_a_folder_becomes_a_set(folder: Path):
    images = read_images(folder, size=12)
    assert images.images.shape == (12, 3, 12, 12)
    assert images.class_names == ("cat", "dog", "emu")
    assert images.counts.tolist() == [4, 4, 4]
    for source, label in zip(images.sources, images.labels.tolist(), strict=True):
        assert Path(source).parent.name == images.class_names[label]


def test_one_split_of_several_is_read(folder: Path, tmp_path: Path):
    (tmp_path / "both" / "train").mkdir(parents=True)
    (tmp_path / "both" / "test").mkdir()
    (folder / "cat").rename(tmp_path / "both" / "train" / "cat")
    (folder / "emu").rename(tmp_path / "both" / "test" / "emu")
    assert read_images(tmp_path / "both", split="test").class_names == ("emu",)
    with pytest.raises(InputError, match="no images of split val"):
        read_images(tmp_path / "both", split="val")


def test_images_outside_class_folders_are_refused_by_name(folder: Path):
    (folder / "flat").mkdir()
    for path in sorted(folder.glob("*/*.png")):
        path.rename(folder / "flat" / path.name)
    with pytest.raises(InputError, match=r"without a class folder, such as .*cat_0\.png; put the images of each class"):
        read_images(folder / "flat")


def test_images_that_are_left_out_for_want_of_a_class_folder_are_told(folder: Path, picture):
    picture(1).save(folder / "loose.png")
    with pytest.warns(UnlabeledImagesWarning, match=r"left out .*loose\.png, which lies in no class folder; put"):
        assert len(read_images(folder)) == 12
    picture(2).save(folder / "also.png")
    with pytest.warns(UnlabeledImagesWarning, match=r"left out 2 images, first .*also\.png, which lie in no class"):
        read_images(folder)


def test_folders_without_images_beside_those_of_classes_are_told(folder: Path):
    (folder / "fox").mkdir()
    with pytest.warns(EmptyFoldersWarning, match=r"pets/fox: holds no images and is no class; put some there, or"):
        assert read_images(folder).class_names == ("cat", "dog", "emu")
    (folder / "gnu" / "raw").mkdir(parents=True)
    with pytest.warns(EmptyFoldersWarning, match=r"pets/fox and 1 more: hold no images and are no classes"):
        read_images(folder)


def test_a_split_speaks_of_its_own_folders_without_images(folder: Path, tmp_path: Path):
    for split in ("train", "test"):
        shutil.copytree(folder, tmp_path / "both" / split)
    (tmp_path / "both" / "test" / "fox").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_images(tmp_path / "both", split="train")
    with pytest.warns(EmptyFoldersWarning, match=r"both/test/fox: holds no images"):
        read_images(tmp_path / "both", split="test")


def test_the_cache_is_used_until_a_file_changes(folder: Path, tmp_path: Path, picture, monkeypatch):
    first = read_images(folder, size=8, cache=tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr("pauca.fewshot.data.image_set.read_files", None)  # decoding again would fail
        second = read_images(folder, size=8, cache=tmp_path / "cache")
    assert first.fingerprint == second.fingerprint
    assert first.sources == second.sources
    picture(99).save(folder / "cat" / "cat_0.png")
    assert read_images(folder, size=8, cache=tmp_path / "cache").fingerprint != first.fingerprint


def test_labels_of_any_kind_keep_their_names():
    images = image_set_from_arrays(pixels(4, 5, 6), np.array([7, 3, 7, 3]))
    assert images.class_names == ("3", "7")
    assert images.labels.tolist() == [1, 0, 1, 0]
    assert image_set_from_arrays(pixels(3, 5, 6), [10, 9, 10]).class_names == ("9", "10")
    assert image_set_from_arrays(pixels(3, 5, 6), ["owl", "ant", "owl"]).class_names == ("ant", "owl")


def test_labels_that_are_no_positions_are_refused():
    with pytest.raises(InputError, match="labels run from 3 to 7, but there are 2 class names"):
        ImageSet(torch.from_numpy(pixels(2, 1, 4, 4)), torch.tensor([3, 7]), ("a", "b"))
    with pytest.raises(InputError, match="2 images but 1 sources"):
        ImageSet(torch.from_numpy(pixels(2, 1, 4, 4)), torch.tensor([0, 1]), ("a", "b"), sources=("a.png",))


@pytest.mark.parametrize(("shape", "expected"), [((6, 5), (1, 6, 5)), ((6, 5, 3), (3, 6, 5)), ((3, 6, 5), (3, 6, 5))])
def test_arrays_of_each_layout_are_taken(shape, expected):
    assert image_set_from_arrays(pixels(2, *shape), [0, 1]).images.shape == (2, *expected)


def test_arrays_of_each_depth_are_taken():
    values = np.array([[[0.0, 0.5, 1.0]]])
    assert image_set_from_arrays(values, [0]).images.flatten().tolist() == [0, 128, 255]
    deep = np.array([[[0, 257, 65535]]], np.uint16)
    assert image_set_from_arrays(deep, [0]).images.flatten().tolist() == [0, 1, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 3.0])
def test_values_that_are_no_pixels_name_the_image(value):
    images = np.full((5, 4, 4), 0.5)
    images[3, 1, 2] = value
    with pytest.raises(InputError, match=f"image 3 holds the value {value}"):
        image_set_from_arrays(images, range(5))


def test_shapes_and_types_that_are_no_images_are_refused():
    with pytest.raises(InputError, match=r"shape \(2, 5, 5, 7\) is no set of images"):
        image_set_from_arrays(pixels(2, 5, 5, 7), [0, 1])
    with pytest.raises(InputError, match="pixels of type int64"):
        image_set_from_arrays(np.zeros((2, 4, 4), np.int64), [0, 1])


def test_a_saved_set_returns_and_tells_damage(tmp_path: Path, folder: Path):
    images = read_images(folder)
    save_image_set(tmp_path / "set", images)
    again = load_image_set(tmp_path / "set")
    assert (again.fingerprint, again.class_names, again.sources) == (
        images.fingerprint,
        images.class_names,
        images.sources,
    )
    with pytest.raises(InputError, match="exists already"):
        save_image_set(tmp_path / "set", images)
    damaged = bytearray((tmp_path / "set" / "images.npy").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "set" / "images.npy").write_bytes(damaged)
    with pytest.raises(InputError, match=r"images\.npy: damaged \(its sha256 changed\)"):
        load_image_set(tmp_path / "set")
    (tmp_path / "set" / "images.npy").unlink()
    with pytest.raises(InputError, match="no complete image set"):
        load_image_set(tmp_path / "set")


def test_how_images_became_square_is_kept(tmp_path: Path, folder: Path):
    """And the two ways differ: the pictures are 20 x 16."""
    cropped, squashed = (read_images(folder, 8, fitting=fitting) for fitting in ("crop", "squash"))
    assert not torch.equal(cropped.images, squashed.images)
    save_image_set(tmp_path / "set", squashed)
    assert load_image_set(tmp_path / "set").fitting == squashed.only(["cat"]).fitting == "squash"
    assert image_set_from_arrays(pixels(2, 8, 8), [0, 1]).fitting is None


def test_sets_that_share_an_image_are_refused_for_evaluation(folder: Path):
    images = read_images(folder)
    train, test = images.only(["cat", "dog"], "train"), images.only(["emu"], "test")
    check_disjoint(train, test)
    with pytest.raises(InputError, match=r"pets/train and pets/other share 1 classes, first 'dog'; few-shot splits"):
        check_disjoint(train, images.only(["dog", "emu"], "other"))
    pixels, sources = torch.cat([test.images, train.images[5:6]]), (*test.sources, "copy.png")
    leaking = ImageSet(pixels, torch.zeros(5, dtype=torch.int64), ("emu",), "test", "pets", sources)
    with pytest.raises(InputError, match=r"pets/train and pets/test share 1 images, first .*dog_1\.png = copy\.png"):
        check_disjoint(train, leaking)


def test_classes_can_be_chosen_and_absent_ones_are_named(folder: Path):
    images = read_images(folder)
    chosen = images.only(["emu", "cat"])
    assert chosen.class_names == ("emu", "cat")
    assert chosen.labels.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    with pytest.raises(InputError, match=r"1 of 2 classes asked for are absent, first \['yak'\]; it holds 3"):
        images.only(["cat", "yak"])
