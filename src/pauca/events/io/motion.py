"""A camera's motion from a table: to simulate it, or to compare with it."""

import csv
from pathlib import Path

import numpy as np

from pauca.errors import InputError
from pauca.events.io.recording import GroundTruth

_COLUMNS = ("t_s", "wx_rad_s", "wy_rad_s", "wz_rad_s")


def read_motion(path: str | Path) -> GroundTruth:
    """Angular velocity over time from a CSV file with columns t_s, wx_rad_s, wy_rad_s, wz_rad_s (others are ignored).

    The tables that `Trajectory.to_csv` writes are such files.

    Raises:
        InputError: columns are missing, a value is no finite number, or times do not increase; line and remedy.
    """
    path = Path(path)
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a motion ({error})") from None
    if not rows or not set(_COLUMNS) <= set(rows[0]):
        raise InputError(f"{path}: no motion; expected a table with columns {','.join(_COLUMNS)}")
    values = np.array([[_number(row[name], path, line) for name in _COLUMNS] for line, row in enumerate(rows, 2)])
    backwards = np.flatnonzero(np.diff(values[:, 0]) <= 0)
    if backwards.size:
        raise InputError(f"{path}: line {backwards[0] + 3}: time {values[backwards[0] + 1, 0]:g} s does not increase")
    return GroundTruth(values[:, 0], values[:, 1:])


def _number(text: str | None, path: Path, line: int) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(f"{path}: line {line}: {text!r} is no finite number")
    return value
