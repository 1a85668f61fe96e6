"""Characters of many scripts as a few-shot data set that needs no download: drawn with the fonts that matplotlib ships.

A class is a Unicode character, an image one drawing of it: a face, a stroke width, a random affine map and noise.
"""

import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pauca.errors import ConfigError
from pauca.fewshot.data.splits import SPLITS
from pauca.fewshot.types import ImageSet

MIN_FACES = 9  # a character that fewer faces draw is left out
LOOKALIKE = 0.1  # root mean square difference of two characters in one face, below which only the first is kept
SHARES = {"train": 0.64, "val": 0.16, "test": 0.20}
_DRAWN = 2  # drawn at twice the size, so that the affine map and the reduction leave smooth edges


def draw_glyphs(
    split: Literal["train", "val", "test", "all"] = "all",
    per_class: int = 20,
    size: int = 28,
    classes: int | None = None,
    seed: int = 0,
) -> ImageSet:
    """Draw characters, white on black.

    Args:
        split: the splits share no character, whatever the seed.
        per_class: images of each character.
        size: side of the images in pixels.
        classes: take the first so many characters of the split; None takes all.
        seed: of the drawings. A character's drawings do not depend on which others are drawn.

    Raises:
        ConfigError: fewer characters than asked for, or sizes below 12 pixels.
    """
    if size < 12 or per_class < 1:
        raise ConfigError(f"{per_class} glyphs of {size} pixels: ask for at least 1 of at least 12 pixels")
    characters = _split_characters(split)
    if classes is not None and not 2 <= classes <= len(characters):
        raise ConfigError(f"{classes} glyph classes: split {split} has {len(characters)}; ask for 2 or more of them")
    chosen = characters[:classes]
    images = torch.cat([_drawings(character, per_class, size, seed) for character in chosen])
    labels = torch.arange(len(chosen)).repeat_interleave(per_class)
    return ImageSet(images, labels, tuple(f"U+{ord(c):04X}" for c in chosen), split, "glyphs", content="characters")


def _split_characters(split: str) -> list[str]:
    """The characters of a split, in a fixed shuffled order."""
    characters = list(characters_drawn())
    np.random.default_rng(0).shuffle(characters)
    ends = np.rint(np.cumsum([0.0, *SHARES.values()]) * len(characters)).astype(int)
    if split == "all":
        return characters
    place = SPLITS.index(split)
    return characters[ends[place] : ends[place + 1]]


@cache
def characters_drawn() -> tuple[str, ...]:
    """Letters, digits, symbols and punctuation that at least `MIN_FACES` faces draw, without look-alikes."""
    counts = Counter(code for codes in _faces().values() for code in codes)
    candidates = [
        chr(code)
        for code in sorted(counts)
        if counts[code] >= MIN_FACES and unicodedata.category(chr(code))[0] in "LNSP"
    ]
    plain = next(path for path in _faces() if path.name == "DejaVuSans.ttf")
    candidates = [character for character in candidates if ord(character) in _faces()[plain]]
    drawn = np.stack([_draw(character, plain, 16, 0) for character in candidates]).reshape(len(candidates), -1)
    drawn = torch.from_numpy(drawn.astype(np.float32) / 255)
    alike = torch.cdist(drawn, drawn) / drawn.shape[1] ** 0.5 < LOOKALIKE
    kept: list[int] = []
    for i in range(len(candidates)):
        if drawn[i].any() and not alike[i, kept].any():
            kept.append(i)
    return tuple(candidates[i] for i in kept)


@cache
def _faces() -> dict[Path, frozenset[int]]:
    """The text faces that matplotlib ships, and the characters that each truly holds."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    paths = sorted([*folder.glob("DejaVuS*.ttf"), *folder.glob("STIXGeneral*.ttf")])
    return {path: frozenset(FT2Font(str(path)).get_charmap()) for path in paths if "Display" not in path.name}


def _drawings(character: str, count: int, size: int, seed: int) -> UInt8[Tensor, "count 1 size size"]:
    """Drawings of one character, each in its own face, stroke, place and noise."""
    generator = np.random.default_rng([seed, ord(character)])
    faces = [path for path, codes in _faces().items() if ord(character) in codes]
    strokes = generator.integers(0, 3, count)
    plain = np.stack([_draw(character, faces[generator.integers(len(faces))], size, int(stroke)) for stroke in strokes])
    levels = torch.from_numpy(plain).unsqueeze(1).float() / 255
    grid = torch.nn.functional.affine_grid(_affine_maps(count, generator), list(levels.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(levels, grid, align_corners=False)
    small = torch.nn.functional.avg_pool2d(moved, _DRAWN)
    noise = generator.standard_normal(small.shape, np.float32) * generator.uniform(0, 0.1, (count, 1, 1, 1))
    noisy = small * torch.from_numpy(generator.uniform(0.7, 1, (count, 1, 1, 1))) + torch.from_numpy(noise)
    return (noisy.clamp(0, 1) * 255).round().to(torch.uint8)


def _affine_maps(count: int, generator: np.random.Generator) -> Float[Tensor, "count 2 3"]:
    """Maps from output to input: turn up to 15 degrees, scale 0.8 to 1.15, shear 0.2, shift a tenth of the image."""
    angle = generator.uniform(-np.pi / 12, np.pi / 12, count)
    inverse_scale = 1 / generator.uniform(0.8, 1.15, count)
    shear = generator.uniform(-0.2, 0.2, count)
    shift = generator.uniform(-0.1, 0.1, (count, 2))
    cosine, sine = np.cos(angle) * inverse_scale, np.sin(angle) * inverse_scale
    rows = [[cosine, -sine + shear, shift[:, 0]], [sine, cosine, shift[:, 1]]]
    return torch.from_numpy(np.array(rows, np.float32).transpose(2, 0, 1).copy())


def _draw(character: str, face: Path, size: int, stroke: int) -> UInt8[np.ndarray, "side side"]:
    """One character in the middle of a square of twice the size, white on black."""
    side = _DRAWN * size
    image = Image.new("L", (side, side))
    font = _font(face, round(0.7 * side))
    left, top, right, bottom = font.getbbox(character, stroke_width=stroke)
    corner = ((side - right - left) / 2, (side - bottom - top) / 2)
    ImageDraw.Draw(image).text(corner, character, fill=255, font=font, stroke_width=stroke)
    return np.array(image)


@cache
def _font(face: Path, pixels: int) -> ImageFont.FreeTypeFont:
    # The basic layout, because the other one needs a library that not every Pillow has.
    return ImageFont.truetype(str(face), pixels, layout_engine=ImageFont.Layout.BASIC)
