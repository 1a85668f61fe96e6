"""`pauca events convert`: recordings to other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from pauca.errors import ConfigError, InputError
from pauca.events.io import ReadConfig, WriteConfig
from pauca.events.io import convert as convert_recording
from pauca.events.io.writer import check_target, check_write_config, ending_of
from pauca.events.verbs.files import ENDINGS, for_each, is_recording, recordings_in
from pauca.runs import Progress

Format = Literal["txt", "csv", "txt.gz", "csv.gz", "npz", "h5", "raw", "dat"]


def convert(
    paths: Positional[Annotated[tuple[Path, ...], arg(metavar="FROM [FROM ...] TO")]],
    to: Format | None = None,
    reading: ReadConfig = ReadConfig(),  # noqa: B008 - frozen
    writing: WriteConfig = WriteConfig(),  # noqa: B008 - frozen
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Write recordings in another format, chunk by chunk, so that they need not fit into memory.

    Args:
        paths: a recording and the file to write, whose ending says the format; or recordings and folders of them, and
            the folder to write to, with --to.
        to: format of what is written to a folder.
        reading: how the recordings are read.
        writing: how they are written.
        force: replace files that are there already.
        quiet: print only errors.
    """
    if len(paths) < 2:
        raise ConfigError("name a recording and a file to write, such as: pauca events convert a.raw a.h5")
    targets = _targets(paths[:-1], paths[-1], to)
    ending = ending_of(next(iter(targets.values())))
    check_write_config(writing, ending)

    def one(path: Path) -> None:
        check_target(targets[path], force)
        with Progress(f"convert {path.name}", unit="events", quiet=quiet) as progress:
            done = convert_recording(
                path, targets[path], reading, config=writing, force=force, progress=progress.advance
            )
        if not quiet:
            print(done.summary(), flush=True)

    for_each(list(targets), one)


def _targets(sources: tuple[Path, ...], target: Path, to: str | None) -> dict[Path, Path]:
    """Where each recording goes."""
    if to is None and len(sources) == 1 and is_recording(sources[0]) and not target.is_dir():
        check_target(target, force=True)
        _refuse_itself(sources[0], target)
        return {sources[0]: target}
    if to is None:
        raise ConfigError(f"{target}: several recordings go to a folder: say in which format, such as --to h5")
    if target.is_file():
        raise InputError(f"{target}: is a file; several recordings, or --to, need a folder to write to")
    targets: dict[Path, Path] = {}
    for source in sources:
        for found in recordings_in(source):
            inside = found.relative_to(source).parent if found != source else Path()
            goal = target / inside / f"{_stem(found)}.{to}"
            if goal in targets.values():
                raise InputError(f"{goal}: two recordings would be written there; convert their folders one by one")
            _refuse_itself(found, goal)
            targets[found] = goal
    return targets


def _refuse_itself(source: Path, target: Path) -> None:
    if target.exists() and source.exists() and target.samefile(source):
        raise InputError(f"{source}: would be replaced by its own conversion; choose another name")


def _stem(path: Path) -> str:
    ending = max((ending for ending in ENDINGS if path.name.lower().endswith(ending)), key=len, default="")
    return path.name[: len(path.name) - len(ending)] or path.name
