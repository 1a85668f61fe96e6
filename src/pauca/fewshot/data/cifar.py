"""CIFAR-100 in its published archives, or as pictures by class; CIFAR-FS splits its classes, FC100 its superclasses."""

import hashlib
import tarfile
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from pauca.errors import InputError
from pauca.fewshot.data.cifar_folders import SUPERCLASS_OF, find_class_files, read_class_files
from pauca.fewshot.data.pickles import read_pickle
from pauca.fewshot.types import ImageSet

# MD5 as published on https://www.cs.toronto.edu/~kriz/cifar.html
ARCHIVES = {
    "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
}
_RECORD = 2 + 3 * 32 * 32  # coarse label, fine label, the three planes of a 32 x 32 image


@dataclass(frozen=True)
class Cifar100:
    """All 60000 images (train and test together, as both few-shot splits use them) and the superclass of each class."""

    images: ImageSet
    superclass: dict[str, str]

    def classes_of(self, superclasses: tuple[str, ...]) -> tuple[str, ...]:
        """The classes that belong to some superclasses."""
        unknown = sorted(set(superclasses) - set(self.superclass.values()))
        if unknown:
            raise InputError(f"CIFAR-100 has no superclasses {unknown}; the list of FC100 names superclasses")
        return tuple(name for name, above in self.superclass.items() if above in superclasses)


def read_cifar100(source: Path, verify: bool = True, quiet: bool = True) -> Cifar100:
    """Read the python or binary version: the archive, a folder that holds it, or the folder unpacked from it; or
    a folder of pictures (PNG) in folders by class, at any depth.

    Raises:
        InputError: nothing of the kind is there, the archive's MD5 is wrong (unless `verify` is off), or it is damaged.
    """
    candidates = [source, *(source / name for name in ARCHIVES)]
    archive = next((path for path in candidates if path.name in ARCHIVES and path.is_file()), None)
    if archive is not None:
        return _parse(_unpack(archive, verify), archive)
    for folder in (source, *(source / name.removesuffix(".tar.gz") for name in ARCHIVES)):
        if (folder / "meta").is_file() or (folder / "train.bin").is_file():
            return _parse({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}, folder)
    if files := find_class_files(source):
        return Cifar100(read_class_files(files, quiet), {name: SUPERCLASS_OF[name] for name in files})
    raise InputError(
        f"{source}: holds neither {' nor '.join(ARCHIVES)}, nor what they unpack to, nor pictures in folders by "
        "class; get one from https://www.cs.toronto.edu/~kriz/cifar.html"
    )


def _unpack(archive: Path, verify: bool) -> dict[str, bytes]:
    """The members of the archive by their last name, without writing anything."""
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if verify and found != ARCHIVES[archive.name]:
        raise InputError(
            f"{archive}: MD5 {found}, published is {ARCHIVES[archive.name]}; the download is damaged, get it again"
        )
    try:
        with tarfile.open(archive) as tar:
            members = [(member.name, tar.extractfile(member)) for member in tar.getmembers() if member.isfile()]
            return {Path(name).name: file.read() for name, file in members if file is not None}
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{archive}: not a readable archive ({error}); get it again") from error


def _parse(members: dict[str, bytes], where: Path) -> Cifar100:
    try:
        pixels, coarse, fine, coarse_names, fine_names = (_parse_python if "meta" in members else _parse_binary)(
            members
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"{where}: not the layout of CIFAR-100 ({error!r}); get the original again") from error
    superclass = {
        fine_names[f]: coarse_names[c] for f, c in sorted(set(zip(fine.tolist(), coarse.tolist(), strict=True)))
    }
    images = ImageSet(
        torch.from_numpy(pixels), torch.from_numpy(fine.astype(np.int64)), tuple(fine_names), name="cifar100"
    )
    return Cifar100(images, superclass)


def _parse_python(
    members: dict[str, bytes],
) -> tuple[UInt8[np.ndarray, "n 3 32 32"], np.ndarray, np.ndarray, list, list]:
    meta, train, test = (
        read_pickle(BufferedReader(BytesIO(members[name])), name)  # pyright: ignore[reportArgumentType]
        for name in ("meta", "train", "test")
    )
    pixels = np.concatenate([part["data"] for part in (train, test)]).reshape(-1, 3, 32, 32)
    coarse, fine = (np.array(train[key] + test[key]) for key in ("coarse_labels", "fine_labels"))
    return pixels, coarse, fine, meta["coarse_label_names"], meta["fine_label_names"]


def _parse_binary(
    members: dict[str, bytes],
) -> tuple[UInt8[np.ndarray, "n 3 32 32"], np.ndarray, np.ndarray, list, list]:
    parts = [np.frombuffer(members[f"{split}.bin"], np.uint8).reshape(-1, _RECORD) for split in ("train", "test")]
    records = np.concatenate(parts)
    coarse_names, fine_names = (members[f"{kind}_label_names.txt"].decode().split() for kind in ("coarse", "fine"))
    return records[:, 2:].reshape(-1, 3, 32, 32), records[:, 0], records[:, 1], coarse_names, fine_names
