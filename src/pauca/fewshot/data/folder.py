"""Image files in folders, zip archives of folders, or a folder of such archives; the folder names the class."""

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal, TypeVar
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from pauca.errors import InputError, level_outside
from pauca.fewshot.data.arrays import Fitting
from pauca.fewshot.data.decode import HEIC_BRANDS, decode_array
from pauca.runs import Progress

EXTENSIONS = {
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
}
# How a file without an extension begins if it is an image: JPEG, PNG, GIF, TIFF of either byte order.
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
Unreadable = Literal["refuse", "skip"]  # damaged files: stop and name them, or leave them out
T = TypeVar("T")
_NAMED = 5  # damaged files, in a warning
_AHEAD = 64  # images that are decoded before they are taken
_THREADS = 4  # Pillow decodes outside Python's lock: a gain for photographs, none for small images


class UnreadableImagesWarning(UserWarning):
    """Damaged image files that were left out."""


class UnlabeledImagesWarning(UserWarning):
    """Image files in no class folder, which were left out."""


class EmptyFoldersWarning(UserWarning):
    """Folders beside those of classes that hold no images, and so are no classes."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image that has not been read yet."""

    path: str  # inside the archive, or on disk
    archive: Path | None
    stamp: int  # CRC in an archive, modification time on disk: changes when the file does
    class_name: str  # "" for an image that lies in no class folder
    split: str  # "all" unless folders named train, val, test stand above the class folders

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"{self.archive}:{self.path}" if self.archive else self.path


@dataclass(frozen=True)
class Listing:
    """What a folder or an archive holds."""

    files: tuple[ImageFile, ...]
    empty: tuple[str, ...] = ()  # folders as deep as those of classes, without an image

    def of(self, split: str) -> "Listing":
        """What belongs to one split."""
        empty = (name for name in self.empty if split in map(SPLIT_FOLDERS.get, PurePosixPath(name).parts))
        return Listing(tuple(file for file in self.files if file.split == split), tuple(empty))


class ImageReader:
    """Reads image files, keeping their archives open; a context, safe to share between threads."""

    def __init__(self, files: Sequence[ImageFile]):
        self._archives = {archive: _Members(archive) for archive in {file.archive for file in files} if archive}

    def __enter__(self) -> "ImageReader":
        return self

    def __exit__(self, *_: object) -> None:
        for archive in self._archives.values():
            archive.close()
        self._archives = {}

    def read(self, file: ImageFile) -> bytes:
        """The encoded bytes."""
        try:
            if file.archive is None:
                return Path(file.path).read_bytes()
            return self._archives[file.archive].read(file)
        except (OSError, BadZipFile) as error:
            raise InputError(f"{file.name}: cannot be read ({error}); restore the file") from error


class _Members:
    """An open zip archive, whose index is kept as numbers: as objects, a hundred thousand members take 55 MB."""

    _KEPT = ("header_offset", "compress_size", "file_size", "CRC", "compress_type", "flag_bits")

    def __init__(self, path: Path) -> None:
        self._zip = ZipFile(path)
        members = self._zip.filelist
        # As the archive spells them: with a Unicode Path field, or a NUL, a member has another name than its header.
        self._spelled = {m.filename: m.orig_filename for m in members if m.filename != m.orig_filename}
        # Hashes of names find a member; of two with one hash, which is as good as impossible, its checksum.
        names = np.fromiter((hash(member.filename) for member in members), np.int64, len(members))
        order = np.argsort(names, kind="stable")
        self._names = names[order]
        self._numbers = np.empty((len(members), len(self._KEPT)), np.int64)
        for column, kept in enumerate(self._KEPT):
            self._numbers[:, column] = np.fromiter((getattr(m, kept) for m in members), np.int64, len(members))[order]
        members.clear()
        self._zip.NameToInfo.clear()

    def read(self, file: ImageFile) -> bytes:
        """The bytes of a member."""
        name = hash(file.path)
        for row in range(np.searchsorted(self._names, name), np.searchsorted(self._names, name, "right")):
            numbers = dict(zip(self._KEPT, self._numbers[row].tolist(), strict=True))
            if numbers["CRC"] == file.stamp:
                member = ZipInfo(file.path)
                member.orig_filename = self._spelled.get(file.path, member.orig_filename)
                for kept, number in numbers.items():
                    setattr(member, kept, number)
                return self._zip.read(member)
        raise BadZipFile("the archive has changed and no longer holds it")

    def close(self) -> None:
        self._zip.close()


def list_images(path: Path) -> tuple[ImageFile, ...]:
    """The files of `list_folder`."""
    return list_folder(path).files


def list_folder(path: Path) -> Listing:
    """All image files below a folder, in a zip archive, or in the zip archives of a folder, sorted by name.

    Links to folders are followed, but for those that lead back to where they are found.
    The path of one image gives that image, without a class.
    A file that several archives hold, of one class, name and checksum, counts once.
    The class of an image is the path of its folder below the folder that all images share, without a last `images`;
    a first folder named train, val or test is the split.

    Raises:
        InputError: there is no such path, it is neither image nor zip archive, or it holds no images.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_file() and _is_image(path):
        return Listing((ImageFile(str(path), None, path.stat().st_mtime_ns, "", "all"),))
    found = _on_disk(path) if path.is_dir() else _in_archive(path)
    files = found.files
    if not files and path.is_dir():
        # Omniglot's small archives overlap; twice the same image would stand in both support and query of an episode.
        packed = [file for archive in sorted(path.glob("*.zip")) for file in _in_archive(archive).files]
        same = {(file.split, file.class_name, PurePosixPath(file.path).name, file.stamp): file for file in packed}
        files = tuple(same.values())
    if not files:
        kinds = " ".join(sorted(EXTENSIONS))
        raise InputError(f"{path}: holds no images ({kinds}), neither in folders nor in zip archives")
    return Listing(tuple(sorted(files, key=lambda file: (file.split, file.class_name, file.path))), found.empty)


def read_files(
    files: Sequence[ImageFile],
    size: int | None = None,
    channels: int = 3,
    unreadable: Unreadable = "refuse",
    fitting: Fitting = "crop",
    quiet: bool = True,
) -> tuple[UInt8[Tensor, "n c h w"], list[ImageFile]]:
    """Decode image files to one tensor, and say which ones it holds.

    Args:
        files: what to decode.
        size: side of the square that each image is fitted to; None takes them as they are, if all have one size.
        channels: 3 for RGB, 1 for gray.
        unreadable: stop at damaged files and name them, or leave them out, with an `UnreadableImagesWarning`.
        fitting: how images that are not square are fitted, `crop` or `squash`.
        quiet: show no progress.

    Raises:
        InputError: damaged files, or images of different sizes where `size` is None.
    """

    def decode(file: ImageFile) -> np.ndarray | InputError:
        try:
            return decode_array(reader.read(file), size, channels, file.name, fitting)
        except InputError as error:
            return error

    pixels: np.ndarray = np.empty((0, 0, 0, 0), np.uint8)
    kept, broken = [], []
    with ImageReader(files) as reader, Progress("read", len(files), "images", quiet) as progress:
        for file, image in map_ahead(decode, files):
            progress.advance()
            if isinstance(image, InputError):
                broken.append(image)
                continue
            if not kept:  # in place, because a list of images and their stack would need twice the memory
                pixels = np.empty((len(files), *image.transpose(2, 0, 1).shape), np.uint8)
            if image.shape[:2] != pixels.shape[2:]:
                raise InputError(
                    f"{file.name}: is {image.shape[1]}x{image.shape[0]} pixels but {kept[0].name} is "
                    f"{pixels.shape[3]}x{pixels.shape[2]}; give a size to fit them to"
                )
            pixels[len(kept)] = image.transpose(2, 0, 1)
            kept.append(file)
    if broken and (unreadable == "refuse" or not kept):
        more = f" ({len(broken) - 1} more; `pauca fewshot data scan` lists them all)" if len(broken) > 1 else ""
        raise InputError(f"{broken[0]}{more}") from broken[0]
    if broken:
        warnings.warn(_left_out(files, kept), UnreadableImagesWarning, stacklevel=level_outside())
    return torch.from_numpy(pixels[: len(kept)]), kept


def _left_out(files: Sequence[ImageFile], kept: Sequence[ImageFile]) -> str:
    """Which files were damaged, in words, and which classes went with them."""
    readable = set(kept)
    names = [file.name for file in files if file not in readable]
    some = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    gone = sorted({file.class_name for file in files} - {file.class_name for file in kept})
    lost = (
        f"; nothing is left of {'class' if len(gone) == 1 else 'classes'} {', '.join(map(repr, gone))}" if gone else ""
    )
    return f"left out {len(names)} damaged image{'s' if len(names) > 1 else ''} of {len(files)}: {some}{lost}"


def map_ahead(function: Callable[[ImageFile], T], files: Sequence[ImageFile]) -> Iterator[tuple[ImageFile, T]]:
    """Each file with what `function` gives for it, in order, computed by a few threads a little ahead.

    `Executor.map` would start on all of them at once and keep what nobody has taken yet: gigabytes, for photographs.
    """
    waiting: deque[tuple[ImageFile, Future[T]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        for file in files:
            waiting.append((file, pool.submit(function, file)))
            if len(waiting) > _AHEAD:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def fingerprint_files(files: Sequence[ImageFile]) -> str:
    """sha256 of names and stamps: changes when a file is added, removed or written, without reading any."""
    described = [(file.path, file.stamp, file.class_name, file.split) for file in files]
    return hashlib.sha256(repr(described).encode()).hexdigest()


def _on_disk(path: Path) -> Listing:
    # As text, because a path object takes several times as much, and there may be hundreds of thousands.
    found: list[tuple[str, int]] = []
    folders: list[str] = []
    for folder, files in _walk(path):
        folders.append(folder.relative_to(path).as_posix())
        found += [
            (file.relative_to(path).as_posix(), file.stat().st_mtime_ns if file.exists() else 0)
            for file in files
            if not _hidden(file.relative_to(path)) and _is_image(file)
        ]
    names = [name for name, _ in found]
    places = _place(names)
    listed = (
        ImageFile(str(path / name), None, stamp, class_name, split)
        for (name, stamp), (split, class_name) in zip(found, places, strict=True)
    )
    return Listing(tuple(listed), tuple(str(path / name) for name in _empty(folders, names, places)))


def files_below(root: Path) -> Iterator[Path]:
    """All files below a folder, and links to files, those to nothing included: who reads them is to say so."""
    for _, files in _walk(root):
        yield from files


def _walk(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder from `root` on, with its files."""
    for name, folders, files in os.walk(root, followlinks=True):
        folder = Path(name)
        folders[:] = sorted(inner for inner in folders if not _leads_back(folder / inner, root))
        yield folder, [folder / file for file in sorted(files)]


def _leads_back(folder: Path, root: Path) -> bool:
    """Whether a folder is a link to one that it lies in, or above: it would be followed for ever."""
    if not folder.is_symlink():
        return False
    inside, target = folder.parent, folder.resolve()
    passed = [inside, *(parent for parent in inside.parents if parent.is_relative_to(root))]
    return any(place.resolve().is_relative_to(target) for place in passed)


def _in_archive(path: Path) -> Listing:
    members, folders = _image_members(path)
    found = [(name, crc) for name, crc in members if not _hidden(PurePosixPath(name))]
    names = [name for name, _ in found]
    places = _place(names)
    listed = (
        ImageFile(name, path, crc, class_name, split)
        for (name, crc), (split, class_name) in zip(found, places, strict=True)
    )
    return Listing(tuple(listed), tuple(f"{path}:{name}" for name in _empty(folders, names, places)))


def _image_members(path: Path) -> tuple[list[tuple[str, int]], set[str]]:
    """Name and CRC of the images in an archive, and its folders; only they outlive the call: its index is large."""
    try:
        with ZipFile(path) as archive:
            members = [
                (member.filename, member.CRC)
                for member in archive.infolist()
                if not member.is_dir() and _is_member_image(archive, member)
            ]
            return members, {member.filename.rpartition("/")[0] for member in archive.infolist()}
    except (OSError, BadZipFile) as error:
        raise InputError(f"{path}: neither a folder, a readable zip archive nor an image ({error})") from error


def _is_image(file: Path) -> bool:
    """By its extension or, where it has none, by its first bytes."""
    if file.suffix:
        return file.suffix.lower() in EXTENSIONS
    try:
        with file.open("rb") as opened:
            return _begins_like_an_image(opened.read(12))
    except OSError:
        return False


def _is_member_image(archive: ZipFile, member: ZipInfo) -> bool:
    suffix = PurePosixPath(member.filename).suffix
    if suffix:
        return suffix.lower() in EXTENSIONS
    with archive.open(member) as opened:
        return _begins_like_an_image(opened.read(12))


def _begins_like_an_image(start: bytes) -> bool:
    is_web = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    is_isobmff = start[4:8] == b"ftyp" and start[8:12] in {b"avif", b"avis", *HEIC_BRANDS}
    return start.startswith(_BEGINNINGS) or is_web or is_isobmff


def _hidden(path: PurePath) -> bool:
    """Leftovers of file managers, such as .DS_Store and __MACOSX."""
    return any(part.startswith((".", "__")) for part in path.parts)


def _place(names: Sequence[str]) -> list[tuple[str, str]]:
    """Split and class of each image by its folders."""
    parents = [name.rpartition("/")[0] for name in names]
    folder_of = {parent: _without_images(PurePosixPath(parent).parts) for parent in set(parents)}
    distinct = sorted(set(folder_of.values())) or [()]
    if len(distinct) == 1:
        shared = max(0, len(distinct[0]) - 1)
    else:  # the first and the last in order differ as early as any two
        pairs = zip(distinct[0], distinct[-1], strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    below = {parent: folder[shared:] for parent, folder in folder_of.items()}
    first = {folder[0] for folder in below.values() if folder}
    split = bool(first) and first <= SPLIT_FOLDERS.keys()
    place_of = {
        parent: (SPLIT_FOLDERS[folder[0]] if split and folder else "all", "/".join(folder[1:] if split else folder))
        for parent, folder in below.items()
    }
    return [place_of[parent] for parent in parents]


def _empty(folders: Iterable[str], names: Sequence[str], places: Sequence[tuple[str, str]]) -> list[str]:
    """The folders that hold no image and lie as deep as those of classes: what lies elsewhere is meant as none."""
    parents = {name.rpartition("/")[0]: bool(class_name) for name, (_, class_name) in zip(names, places, strict=True)}
    depths = {len(_without_images(PurePosixPath(parent).parts)) for parent, is_class in parents.items() if is_class}
    holding = {above for parent in map(PurePosixPath, parents) for above in (parent, *parent.parents)}
    asked = {PurePosixPath(*_without_images(PurePosixPath(folder).parts)) for folder in folders}
    empty = (folder for folder in asked - holding if len(folder.parts) in depths and not _hidden(folder))
    return sorted(map(str, empty))


def _without_images(folder: tuple[str, ...]) -> tuple[str, ...]:
    """Without a last folder `images`, as Tiny-ImageNet has it."""
    return folder[:-1] if folder[-1:] == ("images",) else folder
