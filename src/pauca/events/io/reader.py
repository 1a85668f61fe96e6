"""One function for every format: the file's first bytes, not its name, say what it is."""

import logging
from pathlib import Path

from pauca.errors import InputError
from pauca.events.io.hdf5 import read_hdf5
from pauca.events.io.npz import read_npz
from pauca.events.io.prophesee import is_prophesee, read_prophesee
from pauca.events.io.repair import MICROSECONDS, TimeUnit, repair
from pauca.events.io.text import read_text
from pauca.events.recording import Recording

_log = logging.getLogger(__name__)

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK"
_GZIP_MAGIC = b"\x1f\x8b"
_UNSUPPORTED = {
    ".aedat4": "an AEDAT4",
    ".aedat": "an AEDAT",
    ".es": "an Event Stream",
    ".bag": "a ROS bag",
    ".npy": "an NPY",
}
_UNSUPPORTED_MAGIC = {
    b"#!AER-DAT": ".aedat4",
    b"Event Stream": ".es",
    b"#ROSBAG": ".bag",
    b"\x93NUMPY": ".npy",
}
_SUPPORTED = "text (t x y p, also gzip), NPZ, HDF5 (DSEC, Prophesee, e2vid, MVSEC), Prophesee RAW (EVT2, EVT3) and DAT"


def read(
    path: str | Path,
    *,
    time_unit: TimeUnit | None = None,
    size: tuple[int, int] | None = None,
    group: str | None = None,
    strict: bool = False,
) -> Recording:
    """Read a recording of an event camera, check it, and repair what is small.

    What was dropped or repaired stands in `recording.report`, and is logged as one warning.

    Args:
        path: text (`t x y p`, plain or gzip), NPZ, HDF5 (DSEC, Prophesee, e2vid, MVSEC), or Prophesee's RAW (EVT2,
            EVT3) and DAT; found by content.
        time_unit: unit of the file's times, `s`, `ms`, `us` or `ns`; None where the file tells: floating point and
            decimals are seconds, integers microseconds. Durations and rates that no camera has are refused.
        size: width and height of the sensor; None where the file tells, or to guess it from the pixels seen.
        group: which events of an HDF5 file with several.
        strict: refuse a file in which anything would have to be dropped or repaired.

    Raises:
        InputError: one line that says what is wrong, where, and what to do.

    Examples:
        >>> recording = read("shapes_rotation/events.txt")
        >>> recording.events.t_us, recording.report.summary()
    """
    path = Path(path)
    if time_unit is not None and time_unit not in MICROSECONDS:
        raise InputError(f"time_unit {time_unit!r} is unknown; choose one of {', '.join(MICROSECONDS)}")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise InputError(f"size {size} is no (width, height) in pixels")
    start = _first_bytes(path)
    if start.startswith(_HDF5_MAGIC):
        raw = read_hdf5(path, time_unit, group)
    elif start.startswith(_ZIP_MAGIC):
        raw = read_npz(path, time_unit)
    elif is_prophesee(start):
        raw = read_prophesee(path)
    else:
        _refuse_unsupported(path, start)
        raw = read_text(path, time_unit)
    recording = repair(raw, path, size, strict)
    if recording.report and not recording.report.clean:
        _log.warning("%s", recording.report.summary())
    return recording


def _first_bytes(path: Path) -> bytes:
    if path.is_dir():
        inside = sorted(child for pattern in ("events.txt*", "*.npz", "*.h5", "*.hdf5") for child in path.glob(pattern))
        hint = f"; did you mean {inside[0]}?" if inside else ""
        raise InputError(f"{path}: is a folder, not a recording{hint}")
    if path.exists() and not path.is_file():  # formats are told by reading twice, which a pipe forgets
        raise InputError(f"{path}: is a pipe or a device, not a file; save the recording to a file first")
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror})") from None
    if not start:
        raise InputError(f"{path}: is empty")
    return start


def _refuse_unsupported(path: Path, start: bytes) -> None:
    """Say clearly what a file is that is neither text nor one of the binary formats we read."""
    suffix = path.suffix.lower()
    strange = len(start.translate(None, bytes(range(32, 127)) + b"\t\r\n"))
    binary = strange > 0.1 * len(start) and not start.startswith(_GZIP_MAGIC)  # damaged text has fewer
    kind = next((end for magic, end in _UNSUPPORTED_MAGIC.items() if start.startswith(magic)), None)
    if kind is None and suffix in _UNSUPPORTED and binary:
        kind = suffix
    if kind:
        raise InputError(f"{path}: is {_UNSUPPORTED[kind]} file, which is not supported yet; supported: {_SUPPORTED}")
    expected = {".h5": "HDF5", ".hdf5": "HDF5", ".npz": "NPZ"}.get(suffix)
    if expected:
        raise InputError(f"{path}: is not an {expected} file, in spite of its name: it begins with {start[:8]!r}")
    if binary:
        raise InputError(
            f"{path}: is neither text nor a known format: it begins with {start[:8]!r}; supported: {_SUPPORTED}"
        )
