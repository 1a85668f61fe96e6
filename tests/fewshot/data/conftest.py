"""Little images and folders of them."""

from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """A function that makes a picture of smooth random colors; the seed decides which."""

    def make(seed: int = 0, size: tuple[int, int] = (20, 16), mode: str = "RGB") -> Image.Image:
        coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
        return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)

    return make


@pytest.fixture
def folder(tmp_path: Path, picture) -> Path:
    """Three classes of four images, a folder each."""
    for label, name in enumerate(("cat", "dog", "emu")):
        for i in range(4):
            path = tmp_path / "pets" / name / f"{name}_{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(10 * label + i).save(path)
    return tmp_path / "pets"


def zip_of(folder: Path, archive: Path, top: str) -> Path:
    """A zip archive of a folder, below a folder named `top`."""
    with ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, f"{top}/{path.relative_to(folder).as_posix()}")
    return archive


@pytest.fixture
def make_zip() -> Callable[[Path, Path, str], Path]:
    return zip_of
