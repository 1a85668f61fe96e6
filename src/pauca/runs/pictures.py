"""Writing figures: every picture of the house has one resolution, one frame, and one way to the disk."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from pauca.errors import ConfigError
from pauca.runs.files import atomic_write, check_can_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SUFFIXES = (".png", ".pdf", ".svg")
_DOTS_PER_INCH = 120


def check_picture(path: Path, force: bool = False) -> None:
    """Refuse early, before long work, what `save_figure` would refuse after it.

    Raises:
        ConfigError: the name ends in none of .png, .pdf and .svg.
        InputError: `path` exists and `force` is not set, or its folder can be neither written nor made.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{path}: pictures are written as .png, .pdf or .svg")
    check_can_write(path, force)


def save_figure(figure: Figure, path: Path, force: bool = False) -> None:
    """Write a figure atomically, in the format that the name's end says.

    Raises:
        ConfigError, InputError: as `check_picture`.
        PaucaError: the disk refuses; what was there before is untouched.
    """
    check_picture(path, force)
    with atomic_write(path, force) as temporary:
        _write(figure, temporary, path.suffix.lower()[1:])


def png_of(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    _write(figure, buffer, "png")
    return buffer.getvalue()


def _write(figure: Figure, target: Path | io.BytesIO, format: str) -> None:
    with warnings.catch_warnings():
        # Names of classes and files may be in any script, and stand beside the picture as text.
        warnings.filterwarnings("ignore", r"(?s)Glyph .* missing from font", UserWarning)
        figure.savefig(target, format=format, dpi=_DOTS_PER_INCH, bbox_inches="tight")
