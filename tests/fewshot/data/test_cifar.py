"""CIFAR-100 archives, remade small in both published layouts."""

import hashlib
import pickle
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pauca.errors import InputError
from pauca.fewshot.data import cifar
from pauca.fewshot.data.cifar import read_cifar100

COARSE = ["fish", "trees"]
FINE = ["maple", "oak", "ray", "shark"]
ABOVE = {"maple": "trees", "oak": "trees", "ray": "fish", "shark": "fish"}


def contents() -> dict[str, dict]:
    """Images, fine and coarse labels of both parts: each class thrice in train, once in test."""
    parts = {}
    for seed, (split, each) in enumerate((("train", 3), ("test", 1))):
        fine = np.tile(np.arange(4), each)
        pixels = np.random.default_rng(seed).integers(0, 256, (len(fine), 3072), np.uint8)
        parts[split] = {"data": pixels, "fine": fine, "coarse": np.array([COARSE.index(ABOVE[FINE[f]]) for f in fine])}
    return parts


def members_of(version: str) -> dict[str, bytes]:
    parts = contents()
    if version == "binary":
        members = {f"{kind}_label_names.txt": "\n".join(n).encode() for kind, n in (("fine", FINE), ("coarse", COARSE))}
        for split, part in parts.items():
            labels = np.stack([part["coarse"], part["fine"]], 1).astype(np.uint8)
            members[f"{split}.bin"] = np.concatenate([labels, part["data"]], 1).tobytes()
        return members
    # Written by Python 2: protocol 2, keys as byte strings.
    members = {"meta": pickle.dumps({"fine_label_names": FINE, "coarse_label_names": COARSE}, 2)}
    for split, part in parts.items():
        labels = {"fine_labels": part["fine"].tolist(), "coarse_labels": part["coarse"].tolist()}
        members[split] = pickle.dumps({"data": part["data"], **labels}, 2)
    return members


def archive_of(version: str, folder: Path, monkeypatch) -> Path:
    path = folder / f"cifar-100-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members_of(version).items():
            info = tarfile.TarInfo(f"cifar-100-{version}/{name}")
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    monkeypatch.setitem(cifar.ARCHIVES, path.name, hashlib.md5(path.read_bytes()).hexdigest())
    return path


@pytest.mark.parametrize("version", ["python", "binary"])
@pytest.mark.parametrize("form", ["archive", "folder of the archive", "unpacked"])
def test_both_versions_are_read_from_wherever_they_are(version, form, tmp_path: Path, monkeypatch):
    source = archive_of(version, tmp_path, monkeypatch)
    if form == "folder of the archive":
        source = tmp_path
    elif form == "unpacked":
        source = tmp_path / f"cifar-100-{version}"
        source.mkdir()
        for name, content in members_of(version).items():
            (source / name).write_bytes(content)
    found = read_cifar100(source)
    parts = contents()
    assert found.images.class_names == tuple(FINE)
    assert found.images.counts.tolist() == [4] * 4  # train and test together
    assert found.images.labels.tolist() == [*parts["train"]["fine"], *parts["test"]["fine"]]
    np.testing.assert_array_equal(found.images.images[12].flatten().numpy(), parts["test"]["data"][0])
    assert found.superclass == ABOVE
    assert found.classes_of(("trees",)) == ("maple", "oak")


def test_a_wrong_checksum_is_refused(tmp_path: Path, monkeypatch):
    path = archive_of("python", tmp_path, monkeypatch)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(InputError, match=r"MD5 .* published is .* the download is damaged"):
        read_cifar100(path)


def test_damage_is_named(tmp_path: Path, monkeypatch):
    path = archive_of("binary", tmp_path, monkeypatch)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match="not a readable archive"):
        read_cifar100(path, verify=False)
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    (folder / "train.bin").write_bytes(b"123")
    with pytest.raises(InputError, match="not the layout of CIFAR-100"):
        read_cifar100(folder)


def test_the_origin_is_told_where_nothing_is(tmp_path: Path):
    with pytest.raises(InputError, match=r"cs\.toronto\.edu"):
        read_cifar100(tmp_path)


@pytest.mark.parametrize("above", ["", "train", "data/cifar100"])
def test_pictures_in_folders_by_class_are_read(above, tmp_path: Path):
    """`train` is one of the classes, and often the name of the folder above them, too."""
    random = np.random.default_rng(0)
    pixels = {name: random.integers(0, 256, (2, 32, 32, 3), np.uint8) for name in ("train", "apple")}
    for name, images in pixels.items():
        folder = tmp_path / above / name
        folder.mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{number}.png")
    found = read_cifar100(tmp_path)
    assert found.images.class_names == ("apple", "train")
    assert found.superclass == {"apple": "fruit_and_vegetables", "train": "vehicles_1"}
    expected = np.concatenate([pixels["apple"], pixels["train"]]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(found.images.images.numpy(), expected)


def test_mosaics_of_classes_are_read_row_by_row(tmp_path: Path):
    tiles = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), np.uint8)
    mosaic = tiles.transpose(0, 2, 1, 3, 4).reshape(64, 96, 3)
    Image.fromarray(mosaic).save(tmp_path / "train.webp", lossless=True)
    found = read_cifar100(tmp_path).images
    assert found.class_names == ("train",)
    np.testing.assert_array_equal(found.images.numpy(), tiles.reshape(6, 32, 32, 3).transpose(0, 3, 1, 2))
    assert found.sources[4].endswith("train.webp#4")


def test_a_damaged_picture_and_one_of_another_size_are_named(tmp_path: Path):
    (tmp_path / "apple").mkdir()
    Image.new("RGB", (40, 32)).save(tmp_path / "apple" / "0.png")
    with pytest.raises(InputError, match=r"apple/0\.png: 40 x 32 pixels"):
        read_cifar100(tmp_path)
    (tmp_path / "apple" / "0.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"apple/0\.png: not a readable picture"):
        read_cifar100(tmp_path)


@pytest.mark.realdata
def test_the_whole_of_cifar100_is_read_as_unpacked_by_its_maker(pauca_data: Path):
    """The checksum stands in the data's own description."""
    images = read_cifar100(pauca_data / "fewshot" / "cifar100").images.images
    digest = hashlib.sha256(images.permute(0, 2, 3, 1).contiguous().numpy()).hexdigest()
    assert digest == "682b7c378f39a1faff96dc177c26fa719cf2288bbc3d25281834c6b9881ebb8d"


def test_unknown_superclasses_are_named(tmp_path: Path, monkeypatch):
    with pytest.raises(InputError, match=r"no superclasses \['birds'\]"):
        read_cifar100(archive_of("python", tmp_path, monkeypatch)).classes_of(("fish", "birds"))


def test_the_published_checksums_are_the_ones_checked():
    """As listed on the CIFAR page for the python and the binary version."""
    assert cifar.ARCHIVES == {
        "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
    }
