"""Preparing benchmarks from small copies of their original layouts."""

import json
import pickle
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pauca.errors import ConfigError, InputError
from pauca.fewshot import UnreadableImagesWarning
from pauca.fewshot.data import BENCHMARKS, check_disjoint, load_splits, prepare_benchmark, read_images, scan_images
from pauca.fewshot.data.folder import _walk
from pauca.fewshot.episodes import load_episodes, sample_episodes, save_episodes
from pauca.fewshot.types import EpisodeConfig
from pauca.runs import progress

CLASSES = {"train": ["ant", "bee"], "val": ["cow"], "test": ["dog", "elk"]}
NAMES = [name for names in CLASSES.values() for name in names]


@pytest.fixture(autouse=True)
def _no_default_lists(monkeypatch):
    monkeypatch.delenv("PAUCA_DATA", raising=False)


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "lists"
    folder.mkdir()
    for split, names in CLASSES.items():
        (folder / f"{split}.json").write_text(json.dumps(names))
    return folder


@pytest.fixture
def class_folders(tmp_path: Path, picture) -> Path:
    for number, name in enumerate(NAMES):
        for i in range(3):
            path = tmp_path / "original" / "images" / name / f"{name}{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(10 * number + i, (24, 24)).save(path)
    return tmp_path / "original"


def check(folder: Path, size: int, channels: int = 3) -> None:
    """Each split holds its classes, three images each, none elsewhere."""
    for split, images in load_splits(folder).items():
        assert list(images.class_names) == CLASSES[split]
        assert images.counts.tolist() == [3] * len(CLASSES[split])
        assert images.images.shape[1:] == (channels, size, size)
        assert images.split == split


@pytest.mark.parametrize("name", ["cub", "tieredimagenet", "tiny-imagenet", "omniglot", "miniimagenet"])
def test_folders_for_classes_are_split_by_the_lists(name, class_folders, lists, tmp_path: Path):
    report = prepare_benchmark(name, class_folders, tmp_path / "out", 16, lists, allow_incomplete=True)
    check(tmp_path / "out", 16, BENCHMARKS[name].channels)
    text = "\n".join(report.lines())
    assert "train     2 classes        6 images, 3 a class" in text
    assert "incomplete: train has 2 of" in text


def test_files_in_one_folder_are_split_by_csv_lists(tmp_path: Path, class_folders):
    flat = tmp_path / "mini" / "images"
    flat.mkdir(parents=True)
    (tmp_path / "lists").mkdir()
    for split, names in CLASSES.items():
        rows = []
        for path in sorted(p for name in names for p in class_folders.rglob(f"{name}*.png")):
            path.rename(flat / path.name)
            rows.append(f"{path.name},{path.name[:3]}\n")
        (tmp_path / "lists" / f"{split}.csv").write_text("filename,label\n" + "".join(rows))
    arguments = "miniimagenet", tmp_path / "mini", tmp_path / "out", 20, tmp_path / "lists"
    prepare_benchmark(*arguments, allow_incomplete=True)
    check(tmp_path / "out", 20)
    (flat / "bee1.png").unlink()
    with pytest.raises(InputError, match=r"lacks 1 of the 6 images that the train list names, first bee1\.png"):
        prepare_benchmark(*arguments, force=True)


def test_what_is_there_is_refused_before_the_work(class_folders, lists, tmp_path: Path, monkeypatch):
    arguments = "cub", class_folders, tmp_path / "out", 16, lists, True
    prepare_benchmark(*arguments)
    monkeypatch.setattr("pauca.fewshot.data.prepare.read_images", lambda *_, **__: pytest.fail("images were read"))
    with pytest.raises(InputError, match="exists already"):
        prepare_benchmark(*arguments)


def test_damaged_images_are_named_or_left_out(class_folders, lists, tmp_path: Path):
    damaged = next(class_folders.rglob("ant1.png"))
    damaged.write_bytes(damaged.read_bytes()[:60])
    arguments = "cub", class_folders, tmp_path / "out", 16, lists, True
    with pytest.raises(InputError, match=r"ant1\.png: not readable as an image"):
        prepare_benchmark(*arguments)
    with pytest.warns(UnreadableImagesWarning, match=r"left out 1 damaged image of .*ant1\.png"):
        report = prepare_benchmark(*arguments, unreadable="skip")
    assert report.splits["train"].counts.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("name", "pattern", "train"),
    [
        ("miniimagenet", "miniImageNet_category_split_{}.pickle", "train_phase_train"),
        ("cifar-fs", "CIFAR_FS_{}.pickle", "train"),
        ("fc100", "FC100_{}.pickle", "train"),
    ],
)
def test_the_pickles_of_metaoptnet_are_read(name, pattern, train, tmp_path: Path):
    size = BENCHMARKS[name].size
    random = np.random.default_rng(0)
    for split, names in CLASSES.items():
        content = {
            "data": random.integers(0, 256, (3 * len(names), size, size, 3), np.uint8),
            "labels": [NAMES.index(name) for name in names for _ in range(3)],
            "catname2label": {name: number for number, name in enumerate(NAMES)},
        }
        path = tmp_path / pattern.format(train if split == "train" else split)
        path.write_bytes(pickle.dumps(content))
    prepare_benchmark(name, tmp_path, tmp_path / "out", allow_incomplete=True)
    check(tmp_path / "out", size)
    with pytest.raises(ConfigError, match=f"pickles hold {size} pixel images"):
        prepare_benchmark(name, tmp_path, tmp_path / "other", size=10, allow_incomplete=True)


def test_the_pickles_of_tieredimagenet_are_read(tmp_path: Path):
    for split, names in CLASSES.items():
        encoded = []
        for i in range(3 * len(names)):
            buffer = BytesIO()
            Image.new("RGB", (84, 84), (i, len(split), 0)).save(buffer, "png")
            encoded.append(np.frombuffer(buffer.getvalue(), np.uint8))
        labels = {"label_specific": np.arange(len(names)).repeat(3), "label_specific_str": names}
        (tmp_path / f"{split}_images_png.pkl").write_bytes(pickle.dumps(encoded))
        (tmp_path / f"{split}_labels.pkl").write_bytes(pickle.dumps(labels))
    prepare_benchmark("tieredimagenet", tmp_path, tmp_path / "out", allow_incomplete=True)
    check(tmp_path / "out", 84)


def test_images_that_are_decoded_one_by_one_have_progress(tmp_path: Path, lists, capsys, monkeypatch):
    """Pictures of CIFAR-100 and tieredImageNet's pickles, as folders have it."""
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    test_the_pickles_of_tieredimagenet_are_read(tmp_path)
    assert capsys.readouterr().err == ""
    prepare_benchmark("tieredimagenet", tmp_path, tmp_path / "out", allow_incomplete=True, force=True, quiet=False)
    assert "read: 1/6 images of train, " in capsys.readouterr().err
    for split, name in zip(CLASSES, ("apple", "bear", "beaver"), strict=True):
        (tmp_path / "cifar" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), (len(name), 0, len(split))).save(tmp_path / "cifar" / name / "0.png")
        (lists / f"{split}.json").write_text(json.dumps([name]))
    told = tmp_path / "cifar", tmp_path / "fs", None, lists
    prepare_benchmark("cifar-fs", *told, allow_incomplete=True, quiet=False)
    assert "read: 1/3 pictures, " in capsys.readouterr().err


def test_the_source_is_listed_once(class_folders, lists, tmp_path: Path, monkeypatch):
    walked = []
    monkeypatch.setattr("pauca.fewshot.data.folder._walk", lambda root: walked.append(root) or _walk(root))
    for split in CLASSES:
        shutil.copytree(class_folders / "images" / CLASSES[split][0], tmp_path / "own" / split / CLASSES[split][0])
    prepare_benchmark("folder", tmp_path / "own", tmp_path / "out", 16)
    assert walked == [tmp_path / "own"]
    for split in CLASSES:
        (lists / f"{split}.json").unlink()
        rows = [f"{path.name},{path.parent.name}" for n in CLASSES[split] for path in class_folders.rglob(f"{n}*.png")]
        (lists / f"{split}.csv").write_text("\n".join(["filename,label", *rows]))
    prepare_benchmark("miniimagenet", class_folders, tmp_path / "mini", 16, lists, allow_incomplete=True)
    assert walked[1:] == [class_folders]


def _random_pixels(images: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (images, 3072), np.uint8)


@pytest.mark.parametrize("name", ["cifar-fs", "fc100"])
def test_cifar_is_split_by_class_or_superclass(name, tmp_path: Path, lists):
    """The binary layout with three images of each class; the superclass of a class is its name twice."""
    source = tmp_path / "cifar-100-binary"
    source.mkdir()
    fine = np.tile(np.arange(5, dtype=np.uint8), 2)
    records = np.concatenate([fine[:, None], fine[:, None], _random_pixels(10)], 1)
    (source / "train.bin").write_bytes(records.tobytes())
    records[:5, 2:] = _random_pixels(5, seed=1)
    (source / "test.bin").write_bytes(records[:5].tobytes())
    (source / "fine_label_names.txt").write_text("\n".join(NAMES))
    (source / "coarse_label_names.txt").write_text("\n".join(2 * n for n in NAMES))
    if name == "fc100":
        for split, names in CLASSES.items():
            (lists / f"{split}.json").write_text(json.dumps([2 * n for n in names]))
    prepare_benchmark(name, source, tmp_path / "out", splits=lists, allow_incomplete=True)
    check(tmp_path / "out", 32)


def test_own_images_are_split_by_lists_or_by_folders(class_folders, lists, tmp_path: Path):
    prepare_benchmark("folder", class_folders, tmp_path / "by_lists", 16, lists)
    check(tmp_path / "by_lists", 16)
    with pytest.raises(InputError, match="nothing says which class belongs to which split"):
        prepare_benchmark("folder", class_folders, tmp_path / "out", 16)
    for split, names in CLASSES.items():
        (tmp_path / "own" / split).mkdir(parents=True)
        for name in names:
            (class_folders / "images" / name).rename(tmp_path / "own" / split / name)
    prepare_benchmark("folder", tmp_path / "own", tmp_path / "by_folders", 16)
    check(tmp_path / "by_folders", 16)
    (tmp_path / "own" / "test" / "dog").rename(tmp_path / "own" / "test" / "ant")
    with pytest.raises(InputError, match="class ant is in the lists of both train and test"):
        prepare_benchmark("folder", tmp_path / "own", tmp_path / "out", 16)


def test_a_part_is_refused_with_the_counts_and_the_origin(class_folders, lists, tmp_path: Path):
    with pytest.raises(InputError, match=r"not the whole of CUB-200-2011: train has 2 of 100 classes.*vision\.caltech"):
        prepare_benchmark("cub", class_folders, tmp_path / "out", 16, lists)
    assert not (tmp_path / "out").exists()


def test_absent_classes_are_refused_with_path_and_remedy(class_folders, lists, tmp_path: Path):
    (lists / "test.json").write_text(json.dumps(["dog", "yak", "zebu"]))
    expected = r"original: lacks 2 of the 6 classes .* first yak \(it has 5, first ant\); .*--allow-incomplete"
    with pytest.raises(InputError, match=expected):
        prepare_benchmark("omniglot", class_folders, tmp_path / "out", 16, lists)
    assert not (tmp_path / "out").exists()


def test_absent_originals_and_lists_say_where_to_get_them(tmp_path: Path, class_folders):
    with pytest.raises(InputError, match=r"no such file or folder; get Omniglot from github\.com/brendenlake"):
        prepare_benchmark("omniglot", tmp_path / "absent", tmp_path / "out")
    with pytest.raises(InputError, match=r"its split lists are not part of pauca; get them from .*--splits"):
        prepare_benchmark("cub", class_folders, tmp_path / "out")


def test_unknown_names_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="'imagenet' is unknown; choose one of cifar-fs, fc100"):
        prepare_benchmark("imagenet", tmp_path, tmp_path / "out")


def test_what_was_prepared_is_replaced_only_on_request(class_folders, lists, tmp_path: Path):
    arguments = "cub", class_folders, tmp_path / "out", 16, lists, True
    prepare_benchmark(*arguments)
    with pytest.raises(InputError, match="exists already"):
        prepare_benchmark(*arguments)
    prepare_benchmark(*arguments, force=True)


def test_a_folder_without_prepared_data_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="holds no prepared data"):
        load_splits(tmp_path)


@pytest.mark.realdata
def test_the_small_omniglot_has_no_characters_to_test_on(pauca_data: Path, tmp_path: Path, monkeypatch):
    """Its 242 characters of 20 drawings are all in the training and validation lists of Vinyals."""
    monkeypatch.setenv("PAUCA_DATA", str(pauca_data))
    source = pauca_data / "fewshot" / "omniglot" / "images_background_small1.zip"
    with pytest.raises(InputError, match="holds no class of test"):
        prepare_benchmark("omniglot", source, tmp_path / "out", allow_incomplete=True)


def test_paths_may_be_strings(class_folders, lists, tmp_path: Path):
    prepare_benchmark("folder", str(class_folders), str(tmp_path / "out"), 16, str(lists))
    images = load_splits(str(tmp_path / "out"))["train"]
    assert read_images(str(tmp_path / "out" / "train")).fingerprint == images.fingerprint
    assert scan_images(str(class_folders)).images > len(images)
    episodes = sample_episodes(images, EpisodeConfig(2, 1, 1), 3, seed=0)
    save_episodes(str(tmp_path / "episodes.npz"), episodes, images)
    assert torch.equal(load_episodes(str(tmp_path / "episodes.npz"), images).query, episodes.query)


def test_what_a_later_split_holds_too_is_left_out_and_said(class_folders, lists, tmp_path: Path):
    """CIFAR-100 has the same picture under two labels: training would be refused, or see test images."""
    images = class_folders / "images"
    (images / "dog" / "twin.png").write_bytes((images / "ant" / "ant1.png").read_bytes())
    (images / "elk" / "twin.png").write_bytes((images / "cow" / "cow0.png").read_bytes())
    report = prepare_benchmark("cub", class_folders, tmp_path / "out", 16, lists, allow_incomplete=True)
    assert {split: images.counts.tolist() for split, images in report.splits.items()} == {
        "train": [2, 3],
        "val": [2],
        "test": [4, 4],
    }
    assert report.notes[-2:] == (
        "left out of val, because a later split has them, too: 1",
        "left out of train, because a later split has them, too: 1",
    )
    check_disjoint(report.splits["train"], report.splits["test"])
