"""`pauca events check`: what is wrong with recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from pauca.errors import ConfigError
from pauca.events.diagnosis import CheckReport
from pauca.events.diagnosis import check as check_recording
from pauca.events.io import ReadConfig, open_events
from pauca.events.verbs.files import expanded, for_each
from pauca.runs import check_can_write, check_picture, json_text, save_figure


def check(
    recordings: Positional[Annotated[tuple[Path, ...], arg(metavar="RECORDING [RECORDING ...]")]],
    reading: ReadConfig = ReadConfig(),  # noqa: B008 - frozen
    as_json: Annotated[bool, arg(name="json")] = False,
    plot: Path | None = None,
    force: bool = False,
) -> None:
    """Look for faults of recordings and of the cameras that made them, each with numbers and a remedy.

    Hot and dead pixels, flicker and its frequency, a clock that jumps, gaps, dropped packets, a saturated read-out, a
    wrong size of the sensor, polarity imbalance, empty regions.

    Args:
        recordings: files, and folders of them.
        reading: how the files are read.
        as_json: print JSON for programs; of several recordings a list.
        plot: a picture (.png, .pdf or .svg) of one recording, or a folder for those of several.
        force: replace pictures that are there already.
    """
    paths = expanded(recordings)
    single = len(paths) == 1 and recordings[0] == paths[0]
    pictures = _pictures(paths, plot, single, force)
    found: list[dict[str, Any]] = []

    def one(path: Path) -> None:
        report = check_recording(open_events(path, reading))
        if path in pictures:
            _draw(report, pictures[path], force)
        if as_json:
            found.append({"path": str(path), **report.as_dict()})
        else:
            print("\n".join(report.lines()), flush=True)

    try:
        for_each(paths, one)
    finally:
        if as_json and found:
            print(json_text(found[0] if single else found, indent=2))


def _pictures(paths: list[Path], plot: Path | None, single: bool, force: bool) -> dict[Path, Path]:
    """Where the picture of each recording goes."""
    if plot is None:
        return {}
    if single:
        check_picture(plot, force)
        return {paths[0]: plot}
    if plot.suffix:
        raise ConfigError(f"{plot}: several recordings have a picture each: name a folder (--plot FOLDER)")
    pictures = {path: plot / f"{path.name}.png" for path in paths}
    if len(set(pictures.values())) < len(paths):
        raise ConfigError(f"{plot}: two recordings have one name, and their pictures would, too; check them one by one")
    for picture in pictures.values():
        check_can_write(picture, force)
    return pictures


def _draw(report: CheckReport, path: Path, force: bool) -> None:
    from pauca.events.diagnosis.figure import check_figure  # here: half a second that a check without picture saves

    save_figure(check_figure(report), path, force)
