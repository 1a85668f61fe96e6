"""What is wrong with a folder of images, before it is learned from."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8, UInt32, UInt64
from PIL import Image

from pauca.errors import InputError
from pauca.fewshot.data.arrays import plain_image
from pauca.fewshot.data.crops import PointIndex, confirmed, windows
from pauca.fewshot.data.decode import open_image
from pauca.fewshot.data.duplicates import THUMBNAIL, near_pairs, perceive
from pauca.fewshot.data.folder import ImageFile, ImageReader, list_folder, map_ahead
from pauca.fewshot.data.points import MOST_POINTS, Points, find_points, small, small_size
from pauca.renamed import formerly
from pauca.runs import Progress

_SHOWN = 10
_PIXELS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Pair:
    """Two images that look alike, and what they should differ in."""

    first: str
    second: str
    across: str  # "classes", "splits" or "" within one class of one split


@formerly(unlabelled="unlabeled")
@dataclass(frozen=True)
class ScanReport:
    """What a scan found; every list names files."""

    path: str
    images: int
    classes: int
    unreadable: dict[str, str]  # file: reason
    unlabeled: list[str]
    empty_folders: list[str]  # beside those of classes
    modes: dict[str, int]
    unusual_modes: dict[str, list[str]]  # all but RGB
    sizes: dict[str, int]
    exact_duplicates: list[Pair]
    near_duplicates: list[Pair]
    crops: list[Pair]  # the second is a part of the first
    small_classes: dict[str, int]
    classes_in_several_splits: list[str]
    case_collisions: list[str]  # classes or files that some file systems take for one: "Cat = cat"

    @property
    def harmful(self) -> bool:
        """Whether training or testing on these images as they are would fail or mislead."""
        pairs = self.exact_duplicates + self.near_duplicates + self.crops
        wrong = self.unreadable or self.small_classes or self.classes_in_several_splits or self.case_collisions
        return bool(wrong or any(pair.across for pair in pairs))

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
            name = f"crop {f'across {across}' if across else 'in one class'}"
            rows += [(name, pair.second, f"of {pair.first}") for pair in self.crops if pair.across == across]
        rows += [("class in several splits", name, "") for name in self.classes_in_several_splits]
        for pair in self.case_collisions:
            earlier, name = pair.split(" = ", 1)
            rows.append(("differs only in case", earlier, name))
        rows += [("class too small", name, _images(number)) for name, number in self.small_classes.items()]
        rows += [("outside class folders", file, "") for file in self.unlabeled]
        rows += [("folder without images", folder, "") for folder in self.empty_folders]
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
                table.append(("", f"and {len(rows) - _SHOWN} more (--json, in Python to_dict(), names all)", ""))
        widths = [max(len(row[column]) for row in table) for column in (0, 1)]
        head = [
            f"{self.path}: {_images(self.images)} in {self.classes} classes",
            f"sizes: {_counts(self.sizes)}",
            f"modes: {_counts(self.modes)}",
        ]
        if len(table) > 1:
            head += ["", *(f"{a:{widths[0]}}  {b:{widths[1]}}  {c}".rstrip() for a, b, c in table), ""]
        return [*head, "look at these before you train or test" if self.harmful else "nothing that would mislead"]


@dataclass
class _Looks:
    """What the readable images show of themselves, in arrays, because there may be hundreds of thousands."""

    files: list[ImageFile]
    digests: Shaped[np.ndarray, "n"]  # of pixels, mode and size, 16 bytes each
    hashes: UInt64[np.ndarray, "n"]
    thumbnails: UInt8[np.ndarray, "n 256"]
    sizes: UInt32[np.ndarray, "n 2"]  # width and height
    points: PointIndex

    @classmethod
    def room_for(cls, count: int) -> "_Looks":
        thumbnails, sizes = np.zeros((count, THUMBNAIL**2), np.uint8), np.zeros((count, 2), np.uint32)
        digests, hashes = np.zeros(count, "V16"), np.zeros(count, np.uint64)
        return cls([], digests, hashes, thumbnails, sizes, PointIndex(count, MOST_POINTS))

    def add(self, file: ImageFile, look: "_Look") -> None:
        """Keep what one more image shows."""
        place = len(self.files)
        self.files.append(file)
        self.digests[place] = np.void(look.digest)
        self.hashes[place], self.thumbnails[place], self.sizes[place] = look.hash, look.thumbnail, look.size
        if look.points is not None:
            self.points.put(place, look.points)


@dataclass(frozen=True, eq=False)
class _Look:
    """What one image shows."""

    mode: str
    size: tuple[int, int]
    digest: bytes
    hash: int
    thumbnail: UInt8[np.ndarray, "256"]
    points: Points | None


def scan_images(path: Path | str, min_images: int = 20, quiet: bool = True, crops: bool = True) -> ScanReport:
    """Look at every image below a path, as `read_images` and `prepare_benchmark` would read it.

    Args:
        path: folder or zip archive, as `list_folder` reads it.
        min_images: classes with fewer readable images are reported.
        quiet: show no progress.
        crops: also look for images that are parts of others, which takes about 8 ms an image.
    """
    listing = list_folder(Path(path))
    files = listing.files
    looks, broken = _Looks.room_for(len(files)), {}
    modes, sizes, unusual = Counter(), Counter(), defaultdict(list)
    with ImageReader(files) as reader, Progress("scan", len(files), "images", quiet) as progress:
        for file, look in map_ahead(lambda file: _look(reader, file, crops), files):
            progress.advance()
            if isinstance(look, InputError):
                broken[file.name] = str(look).removeprefix(f"{file.name}: ")
                continue
            modes[look.mode] += 1
            sizes[f"{look.size[0]}x{look.size[1]}"] += 1
            if look.mode != "RGB":
                unusual[look.mode].append(file.name)
            looks.add(file, look)
    members = {(file.split, file.class_name): 0 for file in files if file.class_name}
    members.update(Counter((file.split, file.class_name) for file in looks.files if file.class_name))
    splits_of = Counter(name for _, name in members)
    return ScanReport(
        path=str(path),
        images=len(files),
        classes=len(members),
        unreadable=broken,
        unlabeled=[file.name for file in files if not file.class_name],
        empty_folders=list(listing.empty),
        modes=dict(modes.most_common()),
        unusual_modes=dict(unusual),
        sizes=dict(sizes.most_common()),
        exact_duplicates=_exact(looks),
        near_duplicates=_near(looks),
        crops=_crops(looks) if crops else [],
        small_classes={name: n for (_, name), n in sorted(members.items()) if n < min_images},
        classes_in_several_splits=sorted(name for name, number in splits_of.items() if number > 1),
        case_collisions=_case_collisions(lambda: sorted(splits_of))
        or _case_collisions(lambda: (file.name for file in files)),
    )


def _look(reader: ImageReader, file: ImageFile, with_points: bool) -> _Look | InputError:
    try:
        image = open_image(reader.read(file), file.name)
        gray = plain_image(image, file.name).convert("L")
    except InputError as error:
        return error
    points = find_points(gray) if with_points else None
    return _Look(image.mode, image.size, _digest(image), *perceive(gray), points)


def _digest(image: Image.Image) -> bytes:
    """Of pixels, mode and size; row by row where all bytes at once would take two copies of a large photograph."""
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height}".encode())
    rows = max(1, _PIXELS_AT_ONCE // image.width)
    if rows >= image.height:
        digest.update(image.tobytes())
    else:
        for top in range(0, image.height, rows):
            digest.update(image.crop((0, top, image.width, min(top + rows, image.height))).tobytes())
    return digest.digest()[:16]


def _small_gray(reader: ImageReader, file: ImageFile) -> Image.Image:
    return small(plain_image(open_image(reader.read(file), file.name), file.name).convert("L"))


def _exact(looks: _Looks) -> list[Pair]:
    """Each repetition of the same pixels, paired with their first appearance."""
    first: dict[bytes, ImageFile] = {}
    pairs = []
    for file, digest in zip(looks.files, looks.digests, strict=False):  # which has room for unreadable ones
        earlier = first.setdefault(digest.tobytes(), file)
        if earlier is not file:
            pairs.append(_pair(earlier, file))
    return pairs


def _near(looks: _Looks) -> list[Pair]:
    """Pairs that look alike, but not to the last pixel."""
    count = len(looks.files)
    found = [
        (i, j)
        for i, j in near_pairs(looks.hashes[:count], looks.thumbnails[:count])
        if looks.digests[i] != looks.digests[j]
    ]
    looks.thumbnails = looks.thumbnails[:0].copy()  # 26 MB of a hundred thousand images, for nothing else
    return [_pair(looks.files[i], looks.files[j]) for i, j in sorted(found)]


def _crops(looks: _Looks) -> list[Pair]:
    """Pairs of which the second image is a part of the first."""

    def size(place: int) -> tuple[int, int]:
        width, height = looks.sizes[place].tolist()
        return small_size(width, height)

    candidates = list(windows(looks.points, size))
    with ImageReader(looks.files if candidates else []) as reader:
        found = confirmed(candidates, lambda place: _small_gray(reader, looks.files[place]))
    return [_pair(looks.files[i], looks.files[j]) for i, j in sorted(found)]


def _case_collisions(names: Callable[[], Iterable[str]]) -> list[str]:
    """Each name that differs from an earlier one in upper and lower case alone, behind that one.

    By hashes first: there may be hundreds of thousands of names, and hardly ever one that collides.
    """
    hashes = np.fromiter((hash(name.casefold()) for name in names()), np.int64)
    found, counts = np.unique(hashes, return_counts=True)
    twice = set(found[counts > 1].tolist())
    first: dict[str, str] = {}
    pairs = ((first.setdefault(name.casefold(), name), name) for name in names() if hash(name.casefold()) in twice)
    return [f"{earlier} = {name}" for earlier, name in pairs if earlier != name]


def _pair(first: ImageFile, second: ImageFile) -> Pair:
    across = "splits" if first.split != second.split else "classes" if first.class_name != second.class_name else ""
    return Pair(first.name, second.name, across)


def _counts(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{name} {number}" for name, number in list(counts.items())[:_SHOWN])
    return shown + (f" and {len(counts) - _SHOWN} more kinds" if len(counts) > _SHOWN else "")


def _images(number: int) -> str:
    return "1 image" if number == 1 else f"{number} images"
