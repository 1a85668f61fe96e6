"""Finding images: classes and splits by folder, archives, leftovers, damage."""

import io
import shutil
from collections import Counter
from pathlib import Path
from zipfile import ZipFile, ZipInfo

import pytest
from PIL import Image

from pauca.errors import InputError
from pauca.fewshot import UnreadableImagesWarning, read_images
from pauca.fewshot.data.folder import fingerprint_files, list_folder, list_images, read_files


def places(path: Path) -> dict[str, tuple[str, str]]:
    return {Path(file.path).name: (file.split, file.class_name) for file in list_images(path)}


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["cat/1.png", "dog/2.png"], [("all", "cat"), ("all", "dog")]),
        (["cat/1.png"], [("all", "cat")]),
        (["set/train/n01/images/1.JPEG", "set/train/n02/images/2.JPEG"], [("all", "n01"), ("all", "n02")]),
        (["train/cat/1.png", "valid/dog/2.png"], [("train", "cat"), ("val", "dog")]),
        (["omni/Greek/c01/1.png", "omni/Latin/c01/2.png"], [("all", "Greek/c01"), ("all", "Latin/c01")]),
        (["cat/1.png", "2.png"], [("all", "cat"), ("all", "")]),
        (["s/train/n01/images/1.png", "s/test/images/2.png"], [("train", "n01"), ("test", "")]),
        (["CUB/images/001.Crow/1.jpg", "CUB/images/002.Jay/2.jpg"], [("all", "001.Crow"), ("all", "002.Jay")]),
    ],
)  # fmt: skip
def test_folders_name_the_class_and_the_split(paths, expected, tmp_path: Path, make_zip):
    for path in paths:
        touch(tmp_path / "in" / path)
    found = places(tmp_path / "in")
    assert [found[Path(path).name] for path in paths] == expected
    archived = places(make_zip(tmp_path / "in", tmp_path / "in.zip", "top"))
    assert [archived[Path(path).name] for path in paths] == expected


def test_images_beside_each_other_have_no_class(tmp_path: Path):
    touch(tmp_path / "1.png")
    touch(tmp_path / "2.png")
    assert set(places(tmp_path).values()) == {("all", "")}


def test_leftovers_of_file_managers_are_no_images(tmp_path: Path):
    for path in ("cat/1.png", "cat/.2.png", "__MACOSX/cat/3.png", "cat/notes.txt"):
        touch(tmp_path / path)
    assert set(places(tmp_path)) == {"1.png"}


def test_linked_folders_are_followed_but_not_round_and_round(tmp_path: Path, folder: Path):
    linked = tmp_path / "linked"
    (linked / "own").mkdir(parents=True)
    (linked / "own" / "one.png").write_bytes((folder / "cat" / "cat_0.png").read_bytes())
    (linked / "dog").symlink_to(folder / "dog", target_is_directory=True)
    (linked / "again").symlink_to(linked, target_is_directory=True)
    (linked / "own" / "above").symlink_to(tmp_path, target_is_directory=True)
    (folder / "dog" / "back").symlink_to(linked, target_is_directory=True)
    files = list_images(linked)
    assert [file.class_name for file in files] == ["dog"] * 4 + ["own"]
    assert {Path(file.path).resolve() for file in files[:4]} == {p.resolve() for p in (folder / "dog").glob("*.png")}


def test_a_link_to_nothing_is_a_damaged_image(folder: Path):
    (folder / "cat" / "lost.png").symlink_to(folder / "nowhere.png")
    with pytest.raises(InputError, match=r"lost\.png: cannot be read \(.*No such file"):
        read_images(folder)
    with pytest.warns(UnreadableImagesWarning, match=r"left out 1 damaged image of 13: .*lost\.png$"):
        assert len(read_images(folder, unreadable="skip")) == 12


@pytest.mark.parametrize("packed", [False, True])
def test_folders_without_images_lie_as_deep_as_classes(tmp_path: Path, folder: Path, packed):
    """Not what is hidden, or lies elsewhere, as annotations do; Tiny-ImageNet has a folder `images` in each class."""
    (folder / "fox" / "images").mkdir(parents=True)
    for other in (".git", "__MACOSX"):
        (folder / other).mkdir()
    (folder / "gnu").mkdir()
    (folder / "gnu" / "notes.txt").touch()
    (folder / "cat" / "parts").mkdir()
    if packed:
        shutil.make_archive(str(tmp_path / "pets"), "zip", tmp_path, "pets")
        found = list_folder(tmp_path / "pets.zip")
    else:
        found = list_folder(folder)
    between = ".zip:pets/" if packed else "/"
    assert found.empty == tuple(f"{tmp_path}/pets{between}{name}" for name in ("fox", "gnu"))
    assert len(found.files) == 12


def test_archives_in_a_folder_are_read_each_by_itself(tmp_path: Path, folder: Path, make_zip):
    (tmp_path / "zips").mkdir()
    make_zip(folder, tmp_path / "zips" / "part1.zip", "background_small1")
    for path in (folder / "cat").iterdir():
        path.rename(path.with_name(f"more_{path.name}"))
    make_zip(folder, tmp_path / "zips" / "part2.zip", "background_small2")
    files = list_images(tmp_path / "zips")
    assert Counter(file.class_name for file in files) == {"cat": 8, "dog": 4, "emu": 4}  # what both hold counts once
    assert list_images(tmp_path)[0].archive is None  # beside a folder of images, archives are not looked into


def test_an_archive_gives_the_pixels_of_its_folder(tmp_path: Path, folder: Path, make_zip):
    archive = make_zip(folder, tmp_path / "pets.zip", "pets")
    on_disk, files = read_files(list_images(folder))
    packed, members = read_files(list_images(archive))
    assert (on_disk == packed).all()
    assert [Path(f.path).name for f in files] == [Path(m.path).name for m in members]
    assert on_disk.shape == (12, 3, 16, 20)


def test_a_member_may_be_spelled_otherwise_in_its_header(tmp_path: Path):
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 10, 10)).save(picture, "png")
    with ZipFile(tmp_path / "odd.zip", "w") as archive:
        for name in ("cats/1.png", "cats/2.png", "dogs/1.png"):
            member = ZipInfo(name)
            member.filename = name + "\0 and more"  # read as what stands before the NUL
            archive.writestr(member, picture.getvalue())
    pixels, files = read_files(list_images(tmp_path / "odd.zip"))
    assert [file.class_name for file in files] == ["cats", "cats", "dogs"]
    assert (pixels[:, 0] == 200).all()


def test_damaged_files_are_named_or_left_out(folder: Path):
    broken = folder / "dog" / "dog_2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (folder / "emu" / "emu_0.png").write_bytes(b"")
    files = list_images(folder)
    with pytest.raises(InputError, match=r"dog_2\.png: not readable .*\(1 more; `pauca fewshot data scan` lists"):
        read_files(files)
    with pytest.warns(UnreadableImagesWarning, match=r"left out 2 damaged images of 12: .*dog_2\.png, .*emu_0\.png$"):
        pixels, kept = read_files(files, unreadable="skip")
    assert len(pixels) == len(kept) == 10
    assert not {"dog_2.png", "emu_0.png"} & {Path(file.path).name for file in kept}


def test_a_class_that_is_lost_with_its_images_is_named(folder: Path):
    for file in (folder / "emu").glob("*.png"):
        file.write_bytes(b"")
    with pytest.warns(UnreadableImagesWarning, match="nothing is left of class 'emu'$"):
        images = read_images(folder, size=8, unreadable="skip")
    assert "emu" not in images.class_names


def test_images_of_different_sizes_need_a_size(folder: Path, picture):
    picture(size=(30, 30)).save(folder / "cat" / "large.png")
    with pytest.raises(InputError, match=r"large\.png: is 30x30 pixels but .* is 20x16; give a size"):
        read_files(list_images(folder))
    assert read_files(list_images(folder), size=8)[0].shape == (13, 3, 8, 8)


def test_the_fingerprint_follows_the_files(folder: Path, picture):
    before = fingerprint_files(list_images(folder))
    assert before == fingerprint_files(list_images(folder))
    picture(99).save(folder / "cat" / "new.png")
    assert before != fingerprint_files(list_images(folder))


@pytest.mark.parametrize(("name", "message"), [("absent", "no such file"), ("empty", "holds no images")])
def test_nothing_to_read_is_said(name, message, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        list_images(tmp_path / name)


def test_one_image_is_a_list_of_one(folder: Path):
    (file,) = list_images(folder / "cat" / "cat_1.png")
    assert (Path(file.path).name, file.class_name, file.split) == ("cat_1.png", "", "all")
    pixels, _ = read_files([file])
    assert pixels.shape == (1, 3, 16, 20)


def test_a_file_that_is_no_archive_is_named(tmp_path: Path):
    (tmp_path / "data.zip").write_text("not a zip")
    with pytest.raises(InputError, match=r"data\.zip: neither a folder, a readable zip archive nor an image"):
        list_images(tmp_path / "data.zip")


@pytest.mark.realdata
def test_the_small_omniglot_has_242_characters_of_20_drawings(pauca_data: Path):
    """As its README says; 50 of the characters are in both archives."""
    files = [file for file in list_images(pauca_data / "fewshot" / "omniglot") if "run" not in file.class_name]
    counts = Counter(file.class_name for file in files)
    assert len(counts) == 242
    assert set(counts.values()) == {20}
