"""`pauca events info`: what recordings are like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from pauca.events.description import info as describe
from pauca.events.io import ReadConfig, open_events
from pauca.events.verbs.files import expanded, for_each
from pauca.runs import json_text


def info(
    recordings: Positional[Annotated[tuple[Path, ...], arg(metavar="RECORDING [RECORDING ...]")]],
    reading: ReadConfig = ReadConfig(),  # noqa: B008 - frozen
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Say what a recording is like: duration, rates, polarity balance, hot pixels, problems.

    Args:
        recordings: events as text (plain or .gz), NPZ, HDF5, Prophesee RAW or DAT, AEDAT, ROS bag, or Event Stream; or
            folders of them.
        reading: how the files are read.
        as_json: print JSON for programs; of several recordings a list.
    """
    paths = expanded(recordings)
    single = len(paths) == 1 and recordings[0] == paths[0]
    found: list[dict[str, Any]] = []

    def one(path: Path) -> None:
        told = describe(open_events(path, reading))
        if as_json:
            found.append(told.as_dict() | ({} if single else {"path": str(path)}))
            return
        for name, value in told.table():
            print(f"{name:<14} {value}")
        if not single:
            print(flush=True)

    try:
        for_each(paths, one)
    finally:
        if as_json and found:
            print(json_text(found[0] if single else found, indent=2))
