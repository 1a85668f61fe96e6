"""Published pickles: their layouts are read, anything that would run code is refused."""

import os
import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from pauca.errors import InputError
from pauca.fewshot.data.pickles import read_encoded_pickle, read_labeled_pickle, read_pickle


class Attack:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_and_arrays_of_every_protocol_are_read(protocol, tmp_path: Path):
    content = {
        "data": np.arange(12, dtype=np.uint8).reshape(2, 6),
        "labels": [1, 2],
        "n": np.int64(3),
        b"k": ("x", 1.5),
    }
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(content, protocol))
    found = read_pickle(tmp_path / "a.pickle", "a.pickle")
    np.testing.assert_array_equal(found.pop("data"), content.pop("data"))
    assert found == content


def test_code_is_refused_and_not_run(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pickle").write_bytes(pickle.dumps({"data": Attack(), "labels": [0]}))
    with pytest.raises(InputError, match=r"bad\.pickle: not a pickle of plain data .*mkdir"):
        read_labeled_pickle(tmp_path / "bad.pickle", "train", "x")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("damage", [b"", b"\x80\x04\x95", b"hello"])
def test_damage_is_named(damage, tmp_path: Path):
    (tmp_path / "cut.pickle").write_bytes(damage)
    with pytest.raises(InputError, match=r"cut\.pickle: not a pickle of plain data"):
        read_pickle(tmp_path / "cut.pickle", "cut.pickle")


def test_labeled_arrays_are_read(tmp_path: Path):
    data = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    names = {"n01": 64, "n02": 70}
    (tmp_path / "a.pickle").write_bytes(
        pickle.dumps({"data": data, "labels": [70, 64, 70, 64], "catname2label": names})
    )
    images = read_labeled_pickle(tmp_path / "a.pickle", "val", "mini")
    assert images.class_names == ("n01", "n02")
    assert images.labels.tolist() == [1, 0, 1, 0]
    np.testing.assert_array_equal(images.images[2].permute(1, 2, 0).numpy(), data[2])
    (tmp_path / "b.pickle").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match=r"b\.pickle: holds no .*MetaOptNet"):
        read_labeled_pickle(tmp_path / "b.pickle", "val", "mini")


def test_encoded_images_are_read(tmp_path: Path, picture):
    encoded = []
    for seed in range(3):
        buffer = BytesIO()
        picture(seed, (10, 10)).save(buffer, "png")
        encoded.append(np.frombuffer(buffer.getvalue(), np.uint8))
    labels = {"label_specific": [1, 0, 1], "label_specific_str": ["ant", "bee"]}
    (tmp_path / "i.pkl").write_bytes(pickle.dumps(encoded))
    (tmp_path / "l.pkl").write_bytes(pickle.dumps(labels))
    images = read_encoded_pickle(tmp_path / "i.pkl", tmp_path / "l.pkl", "train", "tiered", 10)
    assert images.class_names == ("ant", "bee")
    assert images.labels.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(images.images[1].permute(1, 2, 0).numpy(), np.array(picture(1, (10, 10))))
    (tmp_path / "l.pkl").write_bytes(pickle.dumps({"label_specific": [1]}))
    with pytest.raises(InputError, match=r"l\.pkl: holds no label_specific for each of the 3 images"):
        read_encoded_pickle(tmp_path / "i.pkl", tmp_path / "l.pkl", "train", "tiered", 10)
