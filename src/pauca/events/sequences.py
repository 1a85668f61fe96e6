"""Public sequences of turning cameras, found in a folder by their usual names and layouts.

The rotation sequences of the UZH Event-Camera Dataset (DAVIS 240C; https://rpg.ifi.uzh.ch/davis_data.html) are folders
with events.txt, imu.txt and calib.txt, or bags; those of ECRot (https://github.com/tub-rip/ECRot) are bags, with
calibrations as YAML.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from pauca.errors import InputError

DAVIS240C = ("boxes_rotation", "dynamic_rotation", "poster_rotation", "shapes_rotation")
ECROT = {  # by what the names of files or folders hold, without signs between words
    **{name: ("dvs128" if name == "playroom" else "davis240c", name) for name in ("playroom", "bicycle", "city")},
    **{name: ("davis240c", name) for name in ("street", "town", "bay")},
    **{name: ("mount", name.split("_")[0]) for name in ("brandenburg_gate", "charlottenburg_palace", "victory_column")},
    "main_building": ("mount", "mainbuilding"),
    "mar_building": ("mount", "marbuilding"),
    "square_center": ("mount", "squarecenter"),
    "square_side": ("mount", "squareside"),
    **{name: ("handheld", name) for name in ("crossroad", "river", "bridge")},
}
_POSES = ("groundtruth.txt", "gt.txt", "poses.txt", "stamped_groundtruth.txt")


@dataclass(frozen=True)
class Sequence:
    """The files of one sequence."""

    name: str
    events: Path
    camera: Path | None  # None: the recording brings its own calibration
    gyro: Path | None  # None: the recording brings its samples
    poses: Path | None = None
    lacks: str = ""  # what is missing, in words; nothing can be compared without it


def davis240c(folder: Path) -> list[Sequence]:
    """The rotation sequences of the UZH data set below a folder.

    Raises:
        InputError: none is there, or all lack their gyroscope or calibration.
    """
    found = []
    for name in DAVIS240C:
        home = folder if folder.name == name else folder / name
        places = [home / "events.txt", home / "events.txt.gz", folder / f"{name}.bag", home / f"{name}.bag"]
        events = next((place for place in places if place.is_file()), None)
        if events is None:
            continue
        gyro, camera = home / "imu.txt", next((c for c in (home, folder) if (c / "calib.txt").is_file()), None)
        text = events.suffix != ".bag"
        lacks = ""
        if text and not gyro.is_file():
            lacks = f"{events}: its imu.txt is not beside it; the gyroscope is what estimates are compared with"
        elif text and camera is None:
            lacks = f"{events}: no calib.txt beside it or in {folder}"
        there = gyro if gyro.is_file() else None
        found.append(Sequence(name, events, camera and camera / "calib.txt", there, lacks=lacks))
    if found and all(sequence.lacks for sequence in found):
        raise InputError(found[0].lacks)
    if not found:
        raise InputError(
            f"{folder}: none of {', '.join(DAVIS240C)}; expected NAME/events.txt with NAME/imu.txt and NAME/calib.txt, "
            "or NAME.bag, from https://rpg.ifi.uzh.ch/davis_data.html"
        )
    return found


def ecrot(folder: Path) -> list[Sequence]:
    """The sequences of ECRot below a folder.

    Raises:
        InputError: none is there.
    """
    found, bags = [], sorted(path for path in folder.rglob("*") if path.suffix in (".bag", ".db3", ".mcap"))
    sheets = sorted(
        path for ending in ("*.yaml", "*.yml") for path in folder.rglob(ending) if path.name != "metadata.yaml"
    )
    for name, (kind, word) in ECROT.items():
        events = next((bag for bag in bags if word in _plain(bag.stem) or word in _plain(bag.parent.name)), None)
        if events is None:
            continue
        beside = [sheet for sheet in sheets if sheet.parent == events.parent]
        fitting = [sheet for sheet in sheets if kind in _plain(sheet.stem)]
        camera = next(iter(beside if len(beside) == 1 else fitting), None)
        poses = next((events.parent / each for each in _POSES if (events.parent / each).is_file()), None)
        found.append(Sequence(name, events, camera, None, poses))
    if not found:
        raise InputError(
            f"{folder}: no sequence of ECRot; expected bags whose names, or their folders', hold those of sequences "
            f"({', '.join(ECROT)}), from https://github.com/tub-rip/ECRot"
        )
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
