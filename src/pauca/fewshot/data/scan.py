"""What is wrong with a folder of images, before it is learned from."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8, UInt64
from PIL import Image

from pauca.errors import InputError
from pauca.fewshot.data.arrays import plain_image
from pauca.fewshot.data.decode import open_image
from pauca.fewshot.data.folder import ImageFile, ImageReader, list_images, map_ahead
from pauca.renamed import formerly
from pauca.runs import Progress

# Two images are near duplicates if at most this many of the 64 bits of their difference hashes differ and their
# thumbnails correlate at least so much. Of 400 Tiny-ImageNet images saved again as JPEG (quality 75 or 40), halved,
# doubled, made gray or 10 % brighter, 96 to 100 % are found; of the 288 million pairs of the 24000 originals, only the
# one that is a duplicate. Crops and mirror images are not found.
NEAR_BITS = 7
NEAR_CORRELATION = 0.98
_THUMBNAIL = 16  # pixels on a side
_PAIRS_AT_ONCE = 8192  # thumbnails of both, as numbers: 17 MB
_SHOWN = 10


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
    modes: dict[str, int]
    unusual_modes: dict[str, list[str]]  # all but RGB
    sizes: dict[str, int]
    exact_duplicates: list[Pair]
    near_duplicates: list[Pair]
    small_classes: dict[str, int]
    classes_in_several_splits: list[str]
    case_collisions: list[str]  # classes or files that some file systems take for one: "Cat = cat"

    @property
    def harmful(self) -> bool:
        """Whether training or testing on these images as they are would fail or mislead."""
        pairs = self.exact_duplicates + self.near_duplicates
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
        rows += [("class in several splits", name, "") for name in self.classes_in_several_splits]
        for pair in self.case_collisions:
            earlier, name = pair.split(" = ", 1)
            rows.append(("differs only in case", earlier, name))
        rows += [("class too small", name, _images(number)) for name, number in self.small_classes.items()]
        rows += [("outside class folders", file, "") for file in self.unlabeled]
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


@dataclass
class _Looks:
    """What the readable images show of themselves, in arrays, because there may be hundreds of thousands."""

    files: list[ImageFile]
    digests: list[bytes]  # of pixels, mode and size
    hashes: UInt64[np.ndarray, "n"]
    thumbnails: UInt8[np.ndarray, "n 256"]

    @classmethod
    def room_for(cls, count: int) -> "_Looks":
        return cls([], [], np.zeros(count, np.uint64), np.zeros((count, _THUMBNAIL**2), np.uint8))


def scan_images(path: Path | str, min_images: int = 20, quiet: bool = True) -> ScanReport:
    """Look at every image below a path, as `read_images` and `prepare_benchmark` would read it.

    Args:
        path: folder or zip archive, as `list_images` reads it.
        min_images: classes with fewer readable images are reported.
        quiet: show no progress.
    """
    files = list_images(Path(path))
    looks, broken = _Looks.room_for(len(files)), {}
    modes, sizes, unusual = Counter(), Counter(), defaultdict(list)
    with ImageReader(files) as reader, Progress("scan", len(files), "images", quiet) as progress:
        for file, look in map_ahead(lambda file: _look(reader, file), files):
            progress.advance()
            if isinstance(look, InputError):
                broken[file.name] = str(look).removeprefix(f"{file.name}: ")
                continue
            mode, size, digest, difference_hash, thumbnail = look
            modes[mode] += 1
            sizes[size] += 1
            if mode != "RGB":
                unusual[mode].append(file.name)
            place = len(looks.files)
            looks.hashes[place], looks.thumbnails[place] = difference_hash, thumbnail
            looks.files.append(file)
            looks.digests.append(digest)
    members = {(file.split, file.class_name): 0 for file in files if file.class_name}
    members.update(Counter((file.split, file.class_name) for file in looks.files if file.class_name))
    splits_of = Counter(name for _, name in members)
    return ScanReport(
        path=str(path),
        images=len(files),
        classes=len(members),
        unreadable=broken,
        unlabeled=[file.name for file in files if not file.class_name],
        modes=dict(modes.most_common()),
        unusual_modes=dict(unusual),
        sizes=dict(sizes.most_common()),
        exact_duplicates=_exact(looks),
        near_duplicates=_near(looks),
        small_classes={name: n for (_, name), n in sorted(members.items()) if n < min_images},
        classes_in_several_splits=sorted(name for name, number in splits_of.items() if number > 1),
        case_collisions=_case_collisions(sorted(splits_of)) or _case_collisions([file.name for file in files]),
    )


def _look(reader: ImageReader, file: ImageFile) -> tuple[str, str, bytes, int, UInt8[np.ndarray, "256"]] | InputError:
    """Mode, size, digest, hash and thumbnail of an image."""
    try:
        image = open_image(reader.read(file), file.name)
        gray = plain_image(image, file.name).convert("L")
    except InputError as error:
        return error
    size = f"{image.width}x{image.height}"
    digest = hashlib.sha256(f"{image.mode} {size}".encode() + image.tobytes()).digest()[:16]
    return image.mode, size, digest, *_perceive(gray)


def _perceive(gray: Image.Image) -> tuple[int, UInt8[np.ndarray, "256"]]:
    """Difference hash (which of two neighbors is brighter, on a 9 x 8 grid) and a thumbnail."""
    grid = np.array(gray.resize((9, 8), Image.Resampling.BOX))
    bits = np.packbits(grid[:, 1:] > grid[:, :-1])
    thumbnail = np.array(gray.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX))
    return int.from_bytes(bits.tobytes(), "big"), thumbnail.ravel()


def _exact(looks: _Looks) -> list[Pair]:
    """Each repetition of the same pixels, paired with their first appearance."""
    first: dict[bytes, ImageFile] = {}
    pairs = []
    for file, digest in zip(looks.files, looks.digests, strict=True):
        earlier = first.setdefault(digest, file)
        if earlier is not file:
            pairs.append(_pair(earlier, file))
    return pairs


def _near(looks: _Looks) -> list[Pair]:
    """Pairs whose hashes and thumbnails are close, but not their pixels."""
    found = []
    for pairs in _close_blocks(looks.hashes[: len(looks.files)], NEAR_BITS):
        first, second = (_normalized(looks.thumbnails[column]) for column in pairs.T)
        alike = (first * second).sum(1) > NEAR_CORRELATION
        found += [(i, j) for i, j in pairs[alike].tolist() if looks.digests[i] != looks.digests[j]]
    return [_pair(looks.files[i], looks.files[j]) for i, j in sorted(found)]


def _normalized(thumbnails: UInt8[np.ndarray, "n 256"]) -> Float32[np.ndarray, "n 256"]:
    shapes = thumbnails.astype(np.float32)
    shapes -= shapes.mean(1, keepdims=True)
    return shapes / (np.linalg.norm(shapes, axis=1, keepdims=True) + 1e-6)  # an even gray correlates with nothing


def close_pairs(hashes: UInt64[np.ndarray, "n"], bits: int) -> Int[np.ndarray, "pairs 2"]:
    """All pairs of 64-bit hashes that differ in at most `bits` bits, for bits <= 7, in order."""
    blocks = [np.empty((0, 2), np.int64), *_close_blocks(hashes, bits)]
    pairs = np.concatenate(blocks)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _close_blocks(hashes: UInt64[np.ndarray, "n"], bits: int) -> Iterator[Int[np.ndarray, "some 2"]]:
    """`close_pairs` in runs that fit in memory.

    Such a pair agrees wholly on at least one of eight groups of 8 bits, so only members of equal groups are compared; a
    pair counts in the first group that it agrees on.
    """
    found: list[np.ndarray] = []
    waiting = 0
    for shift in range(0, 64, 8):
        group = (hashes >> np.uint64(shift)) & np.uint64(0xFF)
        order = np.argsort(group, kind="stable")  # ascending within each group
        for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            for place, row in enumerate(rows[:-1]):
                others = rows[place + 1 :]
                differing = hashes[row] ^ hashes[others]
                near = np.bitwise_count(differing) <= bits
                if not near.any():
                    continue
                close = others[near][~_agree_below(differing[near], shift)]
                if len(close):
                    found.append(np.stack([np.full_like(close, row), close], 1))
                    waiting += len(close)
                if waiting > _PAIRS_AT_ONCE:
                    yield np.concatenate(found)
                    found, waiting = [], 0
    if found:
        yield np.concatenate(found)


def _agree_below(differing: UInt64[np.ndarray, "n"], shift: int) -> Bool[np.ndarray, "n"]:
    """Whether some whole group of 8 bits below `shift` does not differ."""
    agree = np.zeros(len(differing), bool)
    for lower in range(0, shift, 8):
        agree |= (differing >> np.uint64(lower)) & np.uint64(0xFF) == 0
    return agree


def _case_collisions(names: Sequence[str]) -> list[str]:
    """Each name that differs from an earlier one in upper and lower case alone, behind that one."""
    first: dict[str, str] = {}
    pairs = ((first.setdefault(name.casefold(), name), name) for name in names)
    return [f"{earlier} = {name}" for earlier, name in pairs if earlier != name]


def _pair(first: ImageFile, second: ImageFile) -> Pair:
    across = "splits" if first.split != second.split else "classes" if first.class_name != second.class_name else ""
    return Pair(first.name, second.name, across)


def _counts(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{name} {number}" for name, number in list(counts.items())[:_SHOWN])
    return shown + (f" and {len(counts) - _SHOWN} more kinds" if len(counts) > _SHOWN else "")


def _images(number: int) -> str:
    return "1 image" if number == 1 else f"{number} images"
