"""What is wrong with a folder of images, before it is learned from."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8, UInt64
from PIL import Image

from pauca.errors import InputError
from pauca.fewshot.data.decode import open_image
from pauca.fewshot.data.folder import ImageFile, ImageReader, list_images

# Two images are near duplicates if at most this many of the 64 bits of their difference hashes differ and their
# thumbnails correlate at least so much. Of 400 Tiny-ImageNet images saved again as JPEG (quality 75 or 40), halved,
# doubled, made grey or 10 % brighter, 96 to 100 % are found; of the 288 million pairs of the 24000 originals, only the
# one that is a duplicate. Crops and mirror images are not found.
NEAR_BITS = 7
NEAR_CORRELATION = 0.98
_THREADS = 4  # as in reading: a gain for photographs
_SHOWN = 10


@dataclass(frozen=True)
class Pair:
    """Two images that look alike, and what they should differ in."""

    first: str
    second: str
    across: str  # "classes", "splits" or "" within one class of one split


@dataclass(frozen=True)
class ScanReport:
    """What a scan found; every list names files."""

    path: str
    images: int
    classes: int
    unreadable: dict[str, str]  # file: reason
    unlabelled: list[str]
    modes: dict[str, int]
    unusual_modes: dict[str, list[str]]  # all but RGB
    sizes: dict[str, int]
    exact_duplicates: list[Pair]
    near_duplicates: list[Pair]
    small_classes: dict[str, int]

    @property
    def harmful(self) -> bool:
        """Whether training or testing on these images as they are would fail or mislead."""
        pairs = self.exact_duplicates + self.near_duplicates
        return bool(self.unreadable or self.small_classes or any(pair.across for pair in pairs))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return asdict(self)

    def findings(self) -> list[tuple[str, str, str]]:
        """Everything found, what matters most first: the kind, the image or class, and its reason or its double."""
        rows = [("unreadable", file, reason) for file, reason in self.unreadable.items()]
        for across in ("splits", "classes", ""):
            for kind, pairs in (("exact", self.exact_duplicates), ("near", self.near_duplicates)):
                name = f"{kind} duplicate {f'across {across}' if across else 'in one class'}"
                rows += [(name, pair.first, f"= {pair.second}") for pair in pairs if pair.across == across]
        rows += [("class too small", name, _images(number)) for name, number in self.small_classes.items()]
        rows += [("outside class folders", file, "") for file in self.unlabelled]
        for mode, files in self.unusual_modes.items():
            rows += [(f"mode {mode}, not RGB", file, "") for file in files]
        return rows

    def lines(self) -> list[str]:
        """The report as lines of text, with the findings as a table that shows the first few of each kind."""
        table = [("finding", "image or class", "")]
        for _, group in groupby(self.findings(), key=lambda row: row[0]):
            rows = list(group)
            table += rows[:_SHOWN]
            if len(rows) > _SHOWN:
                table.append(("", f"and {len(rows) - _SHOWN} more (--json names all)", ""))
        widths = [max(len(row[column]) for row in table) for column in (0, 1)]
        head = [
            f"{self.path}: {_images(self.images)} in {self.classes} classes",
            f"sizes: {_counts(self.sizes)}",
            f"modes: {_counts(self.modes)}",
        ]
        if len(table) > 1:
            head += ["", *(f"{a:{widths[0]}}  {b:{widths[1]}}  {c}".rstrip() for a, b, c in table), ""]
        return [*head, "look at these before you train or test" if self.harmful else "nothing that would mislead"]


@dataclass(frozen=True)
class _Look:
    """What one image shows of itself."""

    mode: str
    size: str
    digest: bytes  # of pixels, mode and size
    hash: int
    thumbnail: UInt8[np.ndarray, "16 16"]


def scan_images(path: Path | str, min_images: int = 20) -> ScanReport:
    """Look at every image below a path.

    Args:
        path: folder or zip archive, as `list_images` reads it.
        min_images: classes with fewer readable images are reported.
    """
    files = list_images(Path(path))
    with ImageReader(files) as reader, ThreadPoolExecutor(_THREADS) as pool:
        looks = list(pool.map(lambda file: _look(reader, file), files))
    good = [(file, look) for file, look in zip(files, looks, strict=True) if isinstance(look, _Look)]
    broken = {
        file.name: str(look).removeprefix(f"{file.name}: ")
        for file, look in zip(files, looks, strict=True)
        if isinstance(look, InputError)
    }
    unusual = defaultdict(list)
    for file, look in good:
        if look.mode != "RGB":
            unusual[look.mode].append(file.name)
    members = {(file.split, file.class_name): 0 for file in files if file.class_name}
    members.update(Counter((file.split, file.class_name) for file, _ in good if file.class_name))
    return ScanReport(
        path=str(path),
        images=len(files),
        classes=len(members),
        unreadable=broken,
        unlabelled=[file.name for file in files if not file.class_name],
        modes=dict(Counter(look.mode for _, look in good).most_common()),
        unusual_modes=dict(unusual),
        sizes=dict(Counter(look.size for _, look in good).most_common()),
        exact_duplicates=_exact(good),
        near_duplicates=_near(good),
        small_classes={name: n for (_, name), n in sorted(members.items()) if n < min_images},
    )


def _look(reader: ImageReader, file: ImageFile) -> _Look | InputError:
    try:
        image = open_image(reader.read(file), file.name)
    except InputError as error:
        return error
    size = f"{image.width}x{image.height}"
    digest = hashlib.sha256(f"{image.mode} {size}".encode() + image.tobytes()).digest()
    return _Look(image.mode, size, digest, *_perceive(image))


def _perceive(image: Image.Image) -> tuple[int, UInt8[np.ndarray, "16 16"]]:
    """Difference hash (which of two neighbours is brighter, on a 9 x 8 grid) and a grey thumbnail."""
    grey = image.convert("RGB" if image.mode == "P" else image.mode).convert("L")
    grid = np.array(grey.resize((9, 8), Image.Resampling.BOX))
    bits = np.packbits(grid[:, 1:] > grid[:, :-1])
    return int.from_bytes(bits.tobytes(), "big"), np.array(grey.resize((16, 16), Image.Resampling.BOX))


def _exact(good: Sequence[tuple[ImageFile, _Look]]) -> list[Pair]:
    """Each repetition of the same pixels, paired with their first appearance."""
    first: dict[bytes, ImageFile] = {}
    pairs = []
    for file, look in good:
        earlier = first.setdefault(look.digest, file)
        if earlier is not file:
            pairs.append(_pair(earlier, file))
    return pairs


def _near(good: Sequence[tuple[ImageFile, _Look]]) -> list[Pair]:
    """Pairs whose hashes and thumbnails are close, but not their pixels."""
    if not good:
        return []
    hashes = np.array([look.hash for _, look in good], np.uint64)
    pairs = close_pairs(hashes, NEAR_BITS)
    shapes = np.stack([look.thumbnail for _, look in good]).reshape(len(good), -1).astype(np.float32)
    shapes -= shapes.mean(1, keepdims=True)
    shapes /= np.linalg.norm(shapes, axis=1, keepdims=True) + 1e-6  # an even grey correlates with nothing
    correlation = np.concatenate([(shapes[i] * shapes[j]).sum(1) for i, j in _blocks(pairs)])
    return [
        _pair(good[i][0], good[j][0])
        for i, j in pairs[correlation > NEAR_CORRELATION].tolist()
        if good[i][1].digest != good[j][1].digest
    ]


def close_pairs(hashes: UInt64[np.ndarray, "n"], bits: int) -> Int[np.ndarray, "pairs 2"]:
    """All pairs of 64-bit hashes that differ in at most `bits` bits, for bits <= 7.

    Such a pair agrees wholly on at least one of eight groups of 8 bits, so only members of equal groups are compared.
    """
    found = [np.empty((0, 2), np.int64)]
    for shift in range(0, 64, 8):
        group = (hashes >> np.uint64(shift)) & np.uint64(0xFF)
        order = np.argsort(group, kind="stable")  # ascending within each group
        for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            for place, row in enumerate(rows[:-1]):
                others = rows[place + 1 :]
                close = others[np.bitwise_count(hashes[row] ^ hashes[others]) <= bits]
                if len(close):
                    found.append(np.stack([np.full_like(close, row), close], 1))
    return np.unique(np.concatenate(found), axis=0)


def _blocks(pairs: Int[np.ndarray, "pairs 2"]) -> Iterator[Int[np.ndarray, "2 some"]]:
    """The pairs in runs whose thumbnails fit in memory."""
    for start in range(0, max(len(pairs), 1), 65536):
        yield pairs[start : start + 65536].T


def _pair(first: ImageFile, second: ImageFile) -> Pair:
    across = "splits" if first.split != second.split else "classes" if first.class_name != second.class_name else ""
    return Pair(first.name, second.name, across)


def _counts(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{name} {number}" for name, number in list(counts.items())[:_SHOWN])
    return shown + (f" and {len(counts) - _SHOWN} more kinds" if len(counts) > _SHOWN else "")


def _images(number: int) -> str:
    return "1 image" if number == 1 else f"{number} images"
