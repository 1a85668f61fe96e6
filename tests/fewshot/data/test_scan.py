"""The scan finds what is wrong, by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageEnhance

from pauca.fewshot.data import scan_images
from pauca.fewshot.data.scan import close_pairs


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
    picture(50, mode="L").save(folder / "emu" / "grey.png")
    picture(51, mode="CMYK").save(folder / "emu" / "print.jpg")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(folder / "emu" / "deep.png")
    picture(52).save(folder / "loose.png")
    (folder / "fox").mkdir()
    picture(53).save(folder / "fox" / "only.png")
    report = scan_images(folder, min_images=4)
    assert report.harmful
    assert [Path(name).name for name in report.unreadable] == ["half.png"]
    assert next(iter(report.unreadable.values())).startswith("not readable as an image")  # the name stands before it
    assert [Path(name).name for name in report.unlabelled] == ["loose.png"]
    assert {mode: [Path(f).name for f in files] for mode, files in report.unusual_modes.items()} == {
        "L": ["grey.png"],
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
    for word in ("half.png", "loose.png", "copy.png", "scaled.jpg", "grey.png", "CMYK 1"):
        assert word in text
    assert ("class too small", "fox", "1 image") in report.findings()
    assert len(report.findings()) == 10
    assert json.loads(json.dumps(report.to_dict()))["small_classes"] == {"fox": 1}


def test_the_table_shows_the_first_of_many_and_counts_the_rest(folder: Path, picture):
    for i in range(14):
        picture(60 + i, mode="L").save(folder / "emu" / f"grey{i}.png")
    blank, title, *rows, blank_again, verdict = scan_images(folder, min_images=4).lines()[3:]
    assert (blank, blank_again, verdict) == ("", "", "nothing that would mislead")
    assert title.split() == ["finding", "image", "or", "class"]
    assert len(rows) == 10 + 1
    assert all(row.startswith("mode L, not RGB") and row.endswith(".png") for row in rows[:10])
    assert len({row.index(str(folder)) for row in rows[:10]}) == 1  # in one column
    assert "and 4 more (--json names all)" in rows[-1]


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
def test_tiny_imagenet_holds_one_image_under_two_labels_and_70_grey_ones(pauca_data: Path):
    """The facts are those of the data's README."""
    report = scan_images(pauca_data / "fewshot" / "tiny-imagenet-200-first20.zip")
    assert (report.images, report.classes) == (4002, 200)
    assert report.modes == {"RGB": 3932, "L": 70}
    assert not report.unreadable
    assert names(report.exact_duplicates) == {("n07747607_20.JPEG", "n07753592_63.JPEG", "classes")}
    assert not report.near_duplicates
