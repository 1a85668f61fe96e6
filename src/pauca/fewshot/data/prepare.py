"""Standard benchmarks from their originals: found, checked, split as papers split them, and kept decoded."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Literal

from pauca.errors import ConfigError, InputError
from pauca.fewshot.data.arrays import Fitting
from pauca.fewshot.data.cifar import read_cifar100
from pauca.fewshot.data.folder import ImageFile, Unreadable, list_folder, list_images, read_files
from pauca.fewshot.data.image_set import number_labels, pixel_digests, read_images, save_image_set
from pauca.fewshot.data.pickles import read_encoded_pickle, read_labeled_pickle
from pauca.fewshot.data.splits import SPLITS, SplitLists, read_split_lists
from pauca.fewshot.types import ImageSet
from pauca.runs import check_can_write

_A_PART = "make do with what there is by --allow-incomplete (in Python allow_incomplete=True)"


@dataclass(frozen=True)
class Request:
    """What a reader needs to know."""

    source: Path
    lists: Path | None
    size: int
    channels: int
    allow_incomplete: bool
    unreadable: Unreadable
    benchmark: "Benchmark"
    fitting: Fitting
    quiet: bool = True

    def split_lists(self) -> SplitLists:
        """The class lists: as given, else from PAUCA_DATA."""
        if self.lists is not None:
            return read_split_lists(self.lists)
        data = os.environ.get("PAUCA_DATA")
        default = Path(data, "fewshot", "splits", self.benchmark.lists) if data else None
        if default is None or not (default.parent if "*" in default.name else default).is_dir():
            raise InputError(
                f"{self.benchmark.title}: its split lists are not part of pauca; get them from "
                f"{self.benchmark.lists_origin} and give their folder with --splits (in Python splits=FOLDER)"
            )
        return read_split_lists(default)


@dataclass(frozen=True)
class Benchmark:
    """A data set that papers report on: where it comes from, and what the original holds."""

    title: str
    origin: str
    lists: str  # below the folder of split lists
    lists_origin: str
    size: int
    channels: int
    classes: tuple[int, int, int] | None  # train, val, test; None where there is no fixed number
    images: tuple[int, int, int] | None
    read: Callable[[Request], dict[str, ImageSet]]
    content: Literal["photographs", "characters"] = "photographs"


@dataclass(frozen=True)
class PreparedReport:
    """What `prepare_benchmark` made."""

    folder: Path
    splits: dict[str, ImageSet]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report as lines of text."""
        rows = [f"{self.folder}:"]
        for split, images in self.splits.items():
            smallest, largest = int(images.counts.min()), int(images.counts.max())
            each = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
            rows.append(f"  {split:5} {len(images.class_names):5} classes {len(images):8} images, {each} a class")
        return rows + [f"  {note}" for note in self.notes]


def prepare_benchmark(
    name: str,
    source: Path | str,
    out: Path | str,
    size: int | None = None,
    splits: Path | str | None = None,
    allow_incomplete: bool = False,
    unreadable: Unreadable = "refuse",
    force: bool = False,
    fitting: Fitting = "crop",
    quiet: bool = True,
) -> PreparedReport:
    """Make a benchmark's train, val and test sets from the original files, for `load_splits` to read.

    Args:
        name: a key of `BENCHMARKS`.
        source: the folder or archive with the originals.
        out: folder to write; the sets go to out/train, out/val and out/test.
        size: side of the images in pixels; None takes the benchmark's own.
        splits: folder of the class lists, or a path with `*` for the name of the split; None looks in PAUCA_DATA.
        allow_incomplete: make do with a part of the classes or images.
        unreadable: stop at damaged image files and name them, or leave them out.
        force: replace what `out` holds.
        fitting: how images that are not square are fitted, `crop` or `squash`.
        quiet: show no progress.

    Raises:
        ConfigError: unknown name.
        InputError: originals missing (the message says where to get them), damaged, or not of the expected counts.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"data set {name!r} is unknown; choose one of {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    source, out, splits = Path(source), Path(out), Path(splits) if splits else None
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; get {benchmark.title} from {benchmark.origin}")
    for split in SPLITS:  # before the work, not after it
        check_can_write(out / split / "images.npy", force)
    request = Request(
        source,
        splits,
        size or benchmark.size,
        benchmark.channels,
        allow_incomplete,
        unreadable,
        benchmark,
        fitting,
        quiet,
    )
    sets = {split: replace(images, content=benchmark.content) for split, images in benchmark.read(request).items()}
    differences = _differences(benchmark, sets)
    if differences and not allow_incomplete:
        raise InputError(
            f"{source}: not the whole of {benchmark.title}: {'; '.join(differences)}; get it from {benchmark.origin}, "
            f"or {_A_PART}"
        )
    sets, left_out = _apart(sets)
    for split, images in sets.items():
        save_image_set(out / split, images, force)
    notes = [f"incomplete: {difference}" for difference in differences] + left_out
    return PreparedReport(out, sets, tuple(notes))


def _apart(sets: dict[str, ImageSet]) -> tuple[dict[str, ImageSet], list[str]]:
    """The sets without the images that a later one holds too, pixel for pixel, and notes of what was left out.

    CIFAR-100 has the same picture under two labels, 15 of them in two splits of CIFAR-FS: with them, training sees
    test images. The test set stays as published.
    """
    apart: dict[str, ImageSet] = {}
    notes: list[str] = []
    later: set[bytes] = set()
    for split in reversed(SPLITS):
        if split not in sets:
            continue
        images, digests = sets[split], pixel_digests(sets[split].images)
        kept = [place for place, digest in enumerate(digests) if digest not in later]
        if len(kept) < len(images):
            notes.append(f"left out of {split}, because a later split has them, too: {len(images) - len(kept)}")
            images = images.at(kept)
        apart[split] = images
        later.update(digests)
    return {split: apart[split] for split in sets}, notes


def _differences(benchmark: Benchmark, sets: dict[str, ImageSet]) -> list[str]:
    """How the sets differ in number from the original."""
    differences = []
    for what, expected in (("classes", benchmark.classes), ("images", benchmark.images)):
        for split, number in zip(SPLITS, expected or (), strict=False):
            found = len(sets[split].class_names) if what == "classes" else len(sets[split])
            if found != number:
                differences.append(f"{split} has {found} of {number} {what}")
    return differences


def _select(images: ImageSet, request: Request, lists: SplitLists) -> dict[str, ImageSet]:
    """Split by class; where a part will do, the classes that are there."""
    there = set(images.class_names)
    absent = [name for names in lists.classes.values() for name in names if name not in there]
    if absent and not request.allow_incomplete:
        raise InputError(
            f"{request.source}: lacks {len(absent)} of the {sum(map(len, lists.classes.values()))} classes that the "
            f"lists name, first {absent[0]} (it has {len(there)}, first {min(there)}); get {request.benchmark.title} "
            f"from {request.benchmark.origin}, or {_A_PART}"
        )
    if absent:
        classes = {split: tuple(n for n in names if n in there) for split, names in lists.classes.items()}
        without = [split for split, names in classes.items() if not names]
        if without:
            raise InputError(
                f"{request.source}: holds no class of {' and '.join(without)}; it has {len(there)} classes, first "
                f"{sorted(there)[:3]}"
            )
        lists = SplitLists(classes, {})
    return lists.apply(images)


def _read_folders(request: Request) -> dict[str, ImageSet]:
    """A folder or archive with a folder for each class, or with files that CSV lists name."""
    lists = request.split_lists()
    if lists.files:
        there = list_images(request.source)
        return {split: _read_listed(request, there, split, lists.files[split]) for split in SPLITS}
    everything = read_images(
        request.source, request.size, request.channels, None, request.unreadable, None, request.fitting, request.quiet
    )
    return _select(everything, request, lists)


def _read_own(request: Request) -> dict[str, ImageSet]:
    """Anybody's images: with lists, or with folders named train, val and test above the class folders."""
    if request.lists is not None:
        return _read_folders(request)
    listing = list_folder(request.source)
    found = {file.split for file in listing.files}
    if "train" not in found:
        raise InputError(
            f"{request.source}: nothing says which class belongs to which split; put the class folders into folders "
            "train, val and test, or give lists of classes with --splits (in Python splits=FOLDER)"
        )
    sets = {
        split: read_images(
            request.source,
            request.size,
            request.channels,
            split,
            request.unreadable,
            None,
            request.fitting,
            request.quiet,
            listing,
        )
        for split in SPLITS
        if split in found
    }
    SplitLists({split: images.class_names for split, images in sets.items()}, {})  # refuses a class in two splits
    return sets


def _read_listed(request: Request, there: Sequence[ImageFile], split: str, class_of: dict[str, str]) -> ImageSet:
    """The images that a CSV list names, wherever they lie below the source."""
    files = [file for file in there if PurePath(file.path).name in class_of]
    missing = sorted(set(class_of) - {PurePath(file.path).name for file in files})
    if (missing and not request.allow_incomplete) or not files:
        raise InputError(
            f"{request.source}: lacks {len(missing)} of the {len(class_of)} images that the {split} list names, first "
            f"{missing[0]}; get {request.benchmark.title} from {request.benchmark.origin}, or {_A_PART}"
        )
    told = request.size, request.channels, request.unreadable, request.fitting, request.quiet
    pixels, kept = read_files(files, *told)
    labels, names = number_labels([class_of[PurePath(file.path).name] for file in kept])
    sources = tuple(file.name for file in kept)
    return ImageSet(pixels, labels, names, split, request.source.stem, sources, request.fitting)


def _read_cifar_fs(request: Request) -> dict[str, ImageSet]:
    pickles = _labeled_pickles(request, "CIFAR_FS_{}.pickle")
    if pickles:
        return pickles
    cifar = read_cifar100(request.source, not request.allow_incomplete, request.quiet)
    return _select(cifar.images, request, request.split_lists())


def _read_fc100(request: Request) -> dict[str, ImageSet]:
    pickles = _labeled_pickles(request, "FC100_{}.pickle")
    if pickles:
        return pickles
    cifar = read_cifar100(request.source, not request.allow_incomplete, request.quiet)
    lists = request.split_lists().classes
    return _select(cifar.images, request, SplitLists({split: cifar.classes_of(lists[split]) for split in SPLITS}, {}))


def _read_mini(request: Request) -> dict[str, ImageSet]:
    pickles = _labeled_pickles(request, "miniImageNet_category_split_{}.pickle", train="train_phase_train")
    return pickles or _read_folders(request)


def _read_tiered(request: Request) -> dict[str, ImageSet]:
    paths = {s: (request.source / f"{s}_images_png.pkl", request.source / f"{s}_labels.pkl") for s in SPLITS}
    if not all(path.is_file() for pair in paths.values() for path in pair):
        return _read_folders(request)
    return {
        split: read_encoded_pickle(
            images, labels, split, request.source.stem, request.size, request.fitting, request.quiet
        )
        for split, (images, labels) in paths.items()
    }


def _labeled_pickles(request: Request, pattern: str, train: str = "train") -> dict[str, ImageSet] | None:
    """MetaOptNet's pickles, if the source folder holds all three."""
    paths = {split: request.source / pattern.format(train if split == "train" else split) for split in SPLITS}
    if not all(path.is_file() for path in paths.values()):
        return None
    sets = {split: read_labeled_pickle(path, split, request.source.stem) for split, path in paths.items()}
    if any(images.images.shape[-1] != request.size for images in sets.values()):
        found = sets["train"].images.shape[-1]
        raise ConfigError(f"{request.source}: its pickles hold {found} pixel images; leave size at {found}")
    return sets


_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html (cifar-100-python.tar.gz or cifar-100-binary.tar.gz)"
_META = "github.com/kjunelee/MetaOptNet (pickles)"
BENCHMARKS = {
    "cifar-fs": Benchmark(
        "CIFAR-FS", f"{_CIFAR} or {_META}", "cifar-fs", "github.com/bertinetto/r2d2 (splits/bertinetto)",
        32, 3, (64, 16, 20), (38400, 9600, 12000), _read_cifar_fs,
    ),
    "fc100": Benchmark(
        "FC100", f"{_CIFAR} or {_META}", "fc100", "the TADAM paper (Oreshkin et al. 2018), appendix, or torchmeta",
        32, 3, (60, 20, 20), (36000, 12000, 12000), _read_fc100,
    ),
    "miniimagenet": Benchmark(
        "miniImageNet", f"ImageNet (image-net.org) with the lists of Ravi and Larochelle, or {_META}",
        "miniimagenet/ravi_larochelle", "github.com/twitter-research/meta-learning-lstm (data/miniImagenet)",
        84, 3, (64, 16, 20), (38400, 9600, 12000), _read_mini,
    ),
    "tieredimagenet": Benchmark(
        "tieredImageNet", "ImageNet (image-net.org), or github.com/renmengye/few-shot-ssl-public (pickles)",
        "tieredimagenet", "github.com/renmengye/few-shot-ssl-public",
        84, 3, (351, 97, 160), (448695, 124261, 206209), _read_tiered,
    ),
    "cub": Benchmark(
        "CUB-200-2011", "https://www.vision.caltech.edu/datasets/cub_200_2011/", "cub/feat_*.csv.gz",
        "github.com/Sha-Lab/FEAT (data/cub/split)", 84, 3, (100, 50, 50), None, _read_folders,
    ),
    "omniglot": Benchmark(
        "Omniglot", "github.com/brendenlake/omniglot (python/images_background.zip and images_evaluation.zip)",
        "omniglot_vinyals", "torchmeta (the split of Vinyals et al. 2016)",
        28, 1, (1028, 172, 423), (20560, 3440, 8460), _read_folders, "characters",
    ),
    "tiny-imagenet": Benchmark(
        "Tiny-ImageNet", "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "tiny-imagenet-200",
        "any three lists of its classes: train.json, val.json and test.json, 128, 32 and 40 names",
        64, 3, (128, 32, 40), None, _read_folders,
    ),
    "folder": Benchmark("your own images", "wherever they are", "own", "yourself", 84, 3, None, None, _read_own),
}  # fmt: skip
