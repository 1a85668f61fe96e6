"""Split lists in the formats that benchmarks come with."""

import gzip
import json
from pathlib import Path

import pytest

from pauca.errors import InputError
from pauca.fewshot.data import read_split_lists

CLASSES = {"train": ["ant", "bee"], "val": ["cow"], "test": ["dog", "elk"]}


def write(folder: Path, suffix: str, text_of, prefix: str = "") -> None:
    for split, names in CLASSES.items():
        text = text_of(names)
        (folder / f"{prefix}{split}{suffix}").write_bytes(
            gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode()
        )


@pytest.mark.parametrize(
    ("suffix", "text_of"),
    [
        (".txt", lambda names: "\n".join(names) + "\n"),
        (".json", json.dumps),
        (".json", lambda names: json.dumps({"class_names": names, "class_roots": ["x"]})),
        (".json", lambda names: json.dumps([["superclass", name] for name in names])),
        (".csv", lambda names: "filename,label\n" + "".join(f"{n}_{i}.jpg,{n}\n" for n in names for i in range(3))),
        (".csv.gz", lambda names: "filename, label, part\n" + "".join(f"{n}_0.jpg,{n},1,2\n" for n in names)),
    ],
)
def test_each_format_is_read(suffix, text_of, tmp_path: Path):
    write(tmp_path, suffix, text_of)
    lists = read_split_lists(tmp_path)
    assert {split: list(names) for split, names in lists.classes.items()} == CLASSES
    if "csv" in suffix:
        assert lists.files["val"]["cow_0.jpg"] == "cow"


def test_alphabets_with_characters_become_class_paths(tmp_path: Path):
    for split, alphabet in (("train", "Greek"), ("val", "Latin"), ("test", "Tifinagh")):
        content = {"background": {alphabet: ["character01", "character02"]}, "evaluation": {}}
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    assert read_split_lists(tmp_path).classes["val"] == ("Latin/character01", "Latin/character02")


def test_several_lists_need_a_choice(tmp_path: Path):
    write(tmp_path, ".json", json.dumps, "easyfsl_")
    write(tmp_path, ".json", json.dumps, "torchmeta_")
    with pytest.raises(InputError, match=r"no single list for train: choose with .*easyfsl_\*\.json or .*torchmeta_\*"):
        read_split_lists(tmp_path)
    assert read_split_lists(tmp_path / "easyfsl_*.json").classes["val"] == ("cow",)
    with pytest.raises(InputError, match=r"other_train\.json: no such list"):
        read_split_lists(tmp_path / "other_*.json")


def test_a_class_in_two_splits_is_refused(tmp_path: Path):
    write(tmp_path, ".json", json.dumps)
    (tmp_path / "test.json").write_text('["dog", "ant"]')
    with pytest.raises(InputError, match="class ant is in the lists of both train and test"):
        read_split_lists(tmp_path)


@pytest.mark.parametrize("text", ["{", '{"class_names": 3}', "17", "[]"])
def test_what_is_no_list_is_named(text, tmp_path: Path):
    write(tmp_path, ".json", json.dumps)
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(InputError, match=r"train\.json: (not a list of|names no) classes"):
        read_split_lists(tmp_path)


def test_a_csv_without_its_columns_is_named(tmp_path: Path):
    write(tmp_path, ".csv", lambda names: "file;class\n")
    with pytest.raises(InputError, match=r"train\.csv: the first line is 'file;class'; expected the columns"):
        read_split_lists(tmp_path)


def test_absent_lists_are_said(tmp_path: Path):
    with pytest.raises(InputError, match="no single list for train: expected train with one of"):
        read_split_lists(tmp_path)


@pytest.mark.realdata
def test_the_lists_of_the_benchmarks_have_their_published_sizes(pauca_data: Path):
    """Numbers of classes as published for each benchmark: train, val, test."""
    published = {
        "cifar-fs": (64, 16, 20),
        "fc100": (12, 4, 4),
        "miniimagenet/ravi_larochelle": (64, 16, 20),
        "tieredimagenet": (351, 97, 160),
        "cub/feat_*.csv.gz": (100, 50, 50),
        "omniglot_vinyals": (1028, 172, 423),
        "tiny-imagenet-200": (128, 32, 40),
    }
    for where, sizes in published.items():
        lists = read_split_lists(pauca_data / "fewshot" / "splits" / where)
        assert tuple(len(lists.classes[split]) for split in ("train", "val", "test")) == sizes, where
