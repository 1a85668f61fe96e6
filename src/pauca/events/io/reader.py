"""One function for every format: the file's first bytes, not its name, say what it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pauca.choices import check_choices
from pauca.errors import InputError
from pauca.events.given import check_kinds, expect, path_of, refusal
from pauca.events.io import aedat, aedat4, event_stream, npy, rosbag
from pauca.events.io.hdf5 import open_hdf5
from pauca.events.io.nmnist import open_nmnist
from pauca.events.io.npz import open_npz
from pauca.events.io.prophesee import is_prophesee, open_prophesee
from pauca.events.io.source import MICROSECONDS, Source, TimeUnit
from pauca.events.io.stream import CHUNK_EVENTS, EventStream, read_whole
from pauca.events.io.text import open_text
from pauca.events.recording import Recording

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK"
_GZIP_MAGIC = b"\x1f\x8b"
_SUPPORTED = (
    "text (t x y p, also gzip), NPZ, NPY with fields t, x, y, p, HDF5 (DSEC, Prophesee, e2vid, MVSEC), Prophesee RAW "
    "(EVT2, EVT2.1, EVT3) and DAT, AEDAT 2 to 4, ROS bags (.bag, .db3, .mcap), Event Stream, N-MNIST's .bin"
)


@dataclass(frozen=True)
class ReadConfig:
    """How a recording is read: the options of `read`, for the command line."""

    time_unit: TimeUnit | None = None
    """Unit of the recording's times, where the file leaves it open."""
    size: tuple[int, int] | None = None
    """Width and height of the sensor in pixels, where the file leaves it open."""
    group: str | None = None
    """Which events to read from a file with several cameras: a group of HDF5, a topic of a bag, a stream of AEDAT4."""
    columns: str | None = None
    """What the columns of a text are, in their order, such as t,x,y,p; a - skips a column."""
    sort: bool = False
    """Put events in order of time, however far they are out of it."""
    strict: bool = False
    """Refuse a recording that needs repair."""

    def __post_init__(self) -> None:
        check_kinds(self)
        check_choices(self)


def read(
    path: str | Path,
    *,
    time_unit: TimeUnit | None = None,
    size: tuple[int, int] | None = None,
    group: str | None = None,
    columns: str | None = None,
    sort: bool = False,
    strict: bool = False,
) -> Recording:
    """Read a recording of an event camera, check it, and repair what is small.

    What was dropped or repaired stands in `recording.report`, and is logged as one warning.

    Args:
        path: text (`t x y p`, plain or gzip), NPZ, NPY of a structured array, HDF5 (DSEC, Prophesee, e2vid, MVSEC),
            Prophesee's RAW (EVT2, EVT2.1, EVT3) and DAT, iniVation's AEDAT (2.0 to 4.0), bags of ROS 1 and ROS 2, Event
            Stream, or N-MNIST's .bin; found by content.
        time_unit: unit of the file's times, `s`, `ms`, `us` or `ns`; None where the file tells: floating point and
            decimals are seconds, integers microseconds. Durations and rates that no camera has are refused.
        size: width and height of the sensor; None where the file tells, or to guess it from the pixels seen.
        group: which events of a file with several: a group of HDF5, a topic of a bag, a stream of AEDAT4.
        columns: what the columns of a text are, in their order, such as `x,y,p,t`; a `-` is skipped. None where a line
            of names tells, or the numbers themselves.
        sort: put events in order of time, however far they are out of it; by default only small disorder is sorted.
        strict: refuse a file in which anything would have to be dropped or repaired.

    Raises:
        InputError: one line that says what is wrong, where, and what to do.

    Examples:
        >>> recording = read("shapes_rotation/events.txt")
        >>> recording.events.t_us, recording.report.summary()
    """
    path = path_of(path)
    config = ReadConfig(time_unit, size, group, columns, sort, strict)
    return read_whole(path, _open(path, config), size, sort, strict)


def open_events(
    path: str | Path,
    config: ReadConfig = ReadConfig(),
    chunk_events: int = CHUNK_EVENTS,
) -> EventStream:
    """Open a recording to read it chunk by chunk: what `read` gives at once, in memory for a few chunks.

    Checks and repairs are those of `read`. What only the whole file tells is said at its end: the report is complete,
    and a file that `read` refuses is refused, when the last chunk is out. Where the file leaves the size of the sensor
    open, it is gone through once before the first chunk. With `sort`, all events wait for the last one.

    Args:
        path: as for `read`.
        config: how the file is read; the same options as those of `read`.
        chunk_events: events of a chunk; the last may have fewer.

    Raises:
        InputError: as `read`; here, or while chunks are read.
    """
    path, config = path_of(path), expect(config, ReadConfig)
    if chunk_events < 1:
        raise InputError(f"chunk_events {chunk_events} must be at least 1")
    return EventStream(path, _open(path, config), config.size, config.sort, config.strict, chunk_events)


def _open(path: Path, config: ReadConfig) -> Source:
    """The file's source: its first bytes say what it is."""
    time_unit, group = config.time_unit, config.group
    if not isinstance(time_unit, str | None):
        raise refusal(time_unit, "time unit", f"choose one of {', '.join(MICROSECONDS)}")
    if not isinstance(config.size, Sequence | None):
        raise refusal(config.size, "size", "give (width, height) in pixels")
    if time_unit is not None and time_unit not in MICROSECONDS:
        raise InputError(f"time_unit {time_unit!r} is unknown; choose one of {', '.join(MICROSECONDS)}")
    if config.size is not None and (len(config.size) != 2 or min(config.size) < 1):
        raise InputError(f"size {config.size!r} is no (width, height) in pixels")
    if path.is_dir() and (path / "metadata.yaml").is_file():
        return rosbag.open_rosbag(path, group, ros=2)
    start = _first_bytes(path)
    if start.startswith(_HDF5_MAGIC):
        return open_hdf5(path, time_unit, group)
    if start.startswith(_ZIP_MAGIC):
        return open_npz(path, time_unit)
    if start.startswith(npy.MAGIC):
        return npy.open_npy(path, time_unit)
    if is_prophesee(start):
        return open_prophesee(path)
    if start.startswith(aedat4.MAGIC):
        return aedat4.open_aedat4(path, group)
    if start.startswith(aedat.MAGIC):
        return aedat.open_aedat(path)
    if start.startswith(event_stream.MAGIC):
        return event_stream.open_event_stream(path)
    if start.startswith((rosbag.BAG_MAGIC, rosbag.SQLITE_MAGIC, rosbag.MCAP_MAGIC)):
        return rosbag.open_rosbag(path, group, ros=1 if start.startswith(rosbag.BAG_MAGIC) else 2)
    if path.suffix.lower() == ".bin" and _looks_binary(start):
        return open_nmnist(path)
    _refuse_unsupported(path, start)
    return open_text(path, time_unit, config.columns)


def _looks_binary(start: bytes) -> bool:
    """Damaged text has fewer strange characters."""
    strange = len(start.translate(None, bytes(range(32, 127)) + b"\t\r\n"))
    return strange > 0.1 * len(start) and not start.startswith(_GZIP_MAGIC)


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
    expected = {".h5": "HDF5", ".hdf5": "HDF5", ".npz": "NPZ"}.get(suffix)
    if expected:
        raise InputError(f"{path}: is not an {expected} file, in spite of its name: it begins with {start[:8]!r}")
    if _looks_binary(start):
        raise InputError(
            f"{path}: is neither text nor a known format: it begins with {start[:8]!r}; supported: {_SUPPORTED}"
        )
