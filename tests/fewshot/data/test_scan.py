"""The scan finds what is wrong, by name."""

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageCms, ImageEnhance, features

from pauca.errors import InputError
from pauca.fewshot import UnreadableImagesWarning
from pauca.fewshot.data import read_images, scan_images
from pauca.fewshot.data.duplicates import close_pairs
from pauca.fewshot.data.folder import list_images, map_ahead
from pauca.fewshot.data.scan import _digest

from ...memory import PEAK


def names(pairs) -> set[tuple[str, str, str]]:
    return {(Path(pair.first).name, Path(pair.second).name, pair.across) for pair in pairs}


def test_a_clean_folder_is_clean(folder: Path):
    report = scan_images(folder, min_images=4)
    assert not report.harmful
    assert (report.images, report.classes) == (12, 3)
    assert report.sizes == {"20x16": 12}
    assert report.modes == {"RGB": 12}
    assert report.exact_duplicates == report.near_duplicates == []
    assert report.findings() == []
    assert report.lines()[-1] == "nothing that would mislead"


def test_everything_wrong_is_named(folder: Path, picture):
    (folder / "cat" / "half.png").write_bytes((folder / "cat" / "cat_0.png").read_bytes()[:80])
    (folder / "dog" / "copy.png").write_bytes((folder / "cat" / "cat_1.png").read_bytes())
    (folder / "emu" / "again.png").write_bytes((folder / "emu" / "emu_1.png").read_bytes())
    picture(11).resize((40, 32)).save(folder / "emu" / "scaled.jpg", quality=85)  # dog_1, twice the size
    ImageEnhance.Brightness(picture(20)).enhance(0.9).save(folder / "cat" / "darker.png")  # emu_0
    picture(50, mode="L").save(folder / "emu" / "gray.png")
    picture(51, mode="CMYK").save(folder / "emu" / "print.jpg")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(folder / "emu" / "deep.png")
    picture(52).save(folder / "loose.png")
    (folder / "fox").mkdir()
    picture(53).save(folder / "fox" / "only.png")
    report = scan_images(folder, min_images=4)
    assert report.harmful
    assert [Path(name).name for name in report.unreadable] == ["half.png"]
    assert next(iter(report.unreadable.values())).startswith("not readable as an image")  # the name stands before it
    assert [Path(name).name for name in report.unlabeled] == ["loose.png"]
    assert {mode: [Path(f).name for f in files] for mode, files in report.unusual_modes.items()} == {
        "L": ["gray.png"],
        "CMYK": ["print.jpg"],
        "I;16": ["deep.png"],
    }
    assert names(report.exact_duplicates) == {("cat_1.png", "copy.png", "classes"), ("again.png", "emu_1.png", "")}
    assert names(report.near_duplicates) == {
        ("dog_1.png", "scaled.jpg", "classes"),
        ("darker.png", "emu_0.png", "classes"),
    }
    assert report.small_classes == {"fox": 1}
    text = "\n".join(report.lines())
    assert text.endswith("look at these before you train or test")
    for word in ("half.png", "loose.png", "copy.png", "scaled.jpg", "gray.png", "CMYK 1"):
        assert word in text
    assert ("class too small", "fox", "1 image") in report.findings()
    assert len(report.findings()) == 10
    assert json.loads(json.dumps(report.to_dict()))["small_classes"] == {"fox": 1}


def test_the_table_shows_the_first_of_many_and_counts_the_rest(folder: Path, picture):
    for i in range(14):
        picture(60 + i, mode="L").save(folder / "emu" / f"gray{i}.png")
    blank, title, *rows, blank_again, verdict = scan_images(folder, min_images=4).lines()[3:]
    assert (blank, blank_again, verdict) == ("", "", "nothing that would mislead")
    assert title.split() == ["finding", "image", "or", "class"]
    assert len(rows) == 10 + 1
    assert all(row.startswith("mode L, not RGB") and row.endswith(".png") for row in rows[:10])
    assert len({row.index(str(folder)) for row in rows[:10]}) == 1  # in one column
    assert "and 4 more (--json, in Python to_dict(), names all)" in rows[-1]


def test_images_across_splits_are_told(folder: Path, tmp_path: Path):
    for split in ("train", "test"):
        (tmp_path / "both" / split).mkdir(parents=True)
    image = (folder / "cat" / "cat_0.png").read_bytes()
    (folder / "cat").rename(tmp_path / "both" / "train" / "cat")
    (folder / "emu").rename(tmp_path / "both" / "test" / "emu")
    (tmp_path / "both" / "test" / "emu" / "leak.png").write_bytes(image)
    report = scan_images(tmp_path / "both", min_images=1)
    assert names(report.exact_duplicates) in (
        {("cat_0.png", "leak.png", "splits")},
        {("leak.png", "cat_0.png", "splits")},
    )


@given(arrays(np.uint64, st.integers(0, 12), elements=st.integers(0, 1023)), st.integers(0, 7), st.integers(0, 63))
@settings(max_examples=100, deadline=None)
def test_close_pairs_are_all_pairs_within_the_distance(values, bits, turn):
    hashes = (values << np.uint64(turn)) | (values >> np.uint64((64 - turn) % 64))
    expected = {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if int(hashes[i] ^ hashes[j]).bit_count() <= bits
    }
    assert set(map(tuple, close_pairs(hashes, bits).tolist())) == expected


@pytest.mark.realdata
@pytest.mark.slow
def test_tiny_imagenet_holds_one_image_under_two_labels_and_70_gray_ones(pauca_data: Path):
    """The facts are those of the data's README."""
    report = scan_images(pauca_data / "fewshot" / "tiny-imagenet-200-first20.zip")
    assert (report.images, report.classes) == (4002, 200)
    assert report.modes == {"RGB": 3932, "L": 70}
    assert not report.unreadable
    assert names(report.exact_duplicates) == {("n07747607_20.JPEG", "n07753592_63.JPEG", "classes")}
    assert not report.near_duplicates
    assert not report.crops


def test_scan_and_prepare_agree_on_what_can_be_read(folder: Path, tmp_path: Path):
    """Floating pixels were clean for the scan and refused by prepare; one LAB TIFF ended the scan without a name."""
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    ImageCms.applyTransform(Image.open(folder / "cat" / "cat_0.png"), to_lab).save(folder / "cat" / "lab.tif")
    Image.fromarray(np.zeros((9, 9), np.float32)).save(folder / "dog" / "float.tif")
    report = scan_images(folder, min_images=4)
    assert [Path(name).name for name in report.unreadable] == ["float.tif"]
    assert "LAB" in report.modes
    with pytest.warns(UnreadableImagesWarning, match=r"left out 1 damaged image of .*float\.tif"):
        read = read_images(folder, size=8, unreadable="skip")
    assert len(read) == report.images - len(report.unreadable)
    with pytest.raises(InputError, match=r"float\.tif: has floating-point pixels"):
        read_images(folder, size=8)


def test_every_usual_kind_of_file_is_seen(folder: Path, picture):
    for name, kind in (
        ("a.jfif", "JPEG"),
        ("b.jpe", "JPEG"),
        ("c.avif", "AVIF"),
        ("bare-jpeg", "JPEG"),
        ("bare", "PNG"),
    ):
        if kind == "AVIF" and not features.check("avif"):
            continue
        picture(70 + len(name), size=(32, 32)).save(folder / "cat" / name, kind)
    (folder / "cat" / "notes").write_text("no image")
    (folder / "cat" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    report = scan_images(folder, min_images=4)
    assert report.images == 12 + (5 if features.check("avif") else 4) + 1
    assert [Path(name).name for name in report.unreadable] == ["phone.heic"]


def test_files_without_an_extension_are_seen_in_archives(folder: Path, tmp_path: Path, make_zip):
    for path in sorted(folder.glob("cat/*.png")):
        path.rename(path.with_suffix(""))
    report = scan_images(make_zip(folder, tmp_path / "pets.zip", "pets"), min_images=4)
    assert (report.images, report.classes, report.unreadable) == (12, 3, {})


def test_a_class_in_two_splits_is_told(folder: Path, tmp_path: Path):
    for split, name in (("train", "cat"), ("test", "dog")):
        (tmp_path / "both" / split).mkdir(parents=True)
        (folder / name).rename(tmp_path / "both" / split / "cat")
    report = scan_images(tmp_path / "both", min_images=1)
    assert report.classes_in_several_splits == ["cat"]
    assert report.harmful
    assert ("class in several splits", "cat", "") in report.findings()


def test_folders_without_images_are_told_and_harm_nothing(folder: Path):
    (folder / "fox").mkdir()
    report = scan_images(folder, min_images=1)
    assert report.empty_folders == [f"{folder}/fox"]
    assert any(line.startswith("folder without images") for line in report.lines())
    assert not report.harmful


def test_names_that_differ_only_in_case_are_told(folder: Path):
    (folder / "Cat").mkdir()
    first = min((folder / "cat").iterdir())
    (folder / "Cat" / first.name).write_bytes(min((folder / "dog").iterdir()).read_bytes())
    report = scan_images(folder, min_images=1)
    assert report.case_collisions == ["Cat = cat"]
    assert report.harmful
    assert ("differs only in case", "Cat", "cat") in report.findings()


def test_few_images_are_decoded_ahead(folder: Path, monkeypatch):
    """All at once, a hundred thousand images would wait in memory."""
    monkeypatch.setattr("pauca.fewshot.data.folder._AHEAD", 2)
    started: list[str] = []
    looked = map_ahead(lambda file: started.append(file.name), list_images(folder))
    next(looked)
    assert len(started) <= 4
    assert len(list(looked)) == 11


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "LA"])
def test_pixels_are_the_same_row_by_row(mode, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (23, 37, 3), np.uint8)
    image = Image.fromarray(noise[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(noise).convert(mode)
    assert image.mode == mode
    whole = _digest(image)
    monkeypatch.setattr("pauca.fewshot.data.scan._PIXELS_AT_ONCE", 5 * 37)
    assert _digest(image) == whole != _digest(image.transpose(Image.Transpose.FLIP_TOP_BOTTOM))


@pytest.mark.slow
def test_a_hundred_thousand_images_fit_in_half_a_gigabyte(tmp_path: Path):
    """2 GB before. Of the process of the command line, 326 MB are its imports, of which PyTorch is most."""
    archive_path = tmp_path / "many.zip"
    with ZipFile(archive_path, "w") as archive:
        for i in range(100_000):
            buffer = BytesIO()
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)).save(buffer, "BMP")
            archive.writestr(f"class{i % 100}/{i}.bmp", buffer.getvalue())
    program = f"""{PEAK}
import pauca.cli
from pauca.fewshot import commands, scan_images
assert scan_images({str(archive_path)!r}).images == 100_000
print(peak_kib() / 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 500  # MB; 467 where it was written
