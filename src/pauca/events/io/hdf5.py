"""HDF5 recordings: DSEC, Prophesee/Metavision, e2vid, MVSEC and relatives, found by the shape of what they hold."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pauca.errors import InputError
from pauca.events.io.npz import camera_of, frame_times_of, ground_truth_of, inertial_of, size_of
from pauca.events.io.source import Block, Source, TimeUnit, check_lengths, choose, holds_plain
from pauca.events.recording import Finding, Remedy

_NAMES = {
    "t": ("t_us", "t", "ts", "timestamp", "timestamps"),
    "x": ("x", "xs"),
    "y": ("y", "ys"),
    "p": ("p", "ps", "pol", "polarity"),
}
_BLOCK = 1 << 20  # events read at a time, so that damage costs what follows it and not the file
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)  # what h5py makes of flipped bits
_ECF_FILTER = 36559  # Metavision's own compression, which only its plugin decodes

_TRUNCATED = "this file holds its columns one after the other, and some lie behind the cut; copy it again"

_Sources = dict[str, tuple[Any, Any]]  # role: dataset, and the field or column in it


def open_hdf5(path: Path, time_unit: TimeUnit | None, group: str | None) -> Source:
    """Open an HDF5 recording.

    Known by what they hold, wherever it stands: a group of arrays t, x, y, p or ts, xs, ys, ps (DSEC, e2vid, M3ED,
    TUM-VIE), a table with fields x, y, p, t (Prophesee CD/events), or a matrix with columns x, y, t, p (MVSEC).
    Integer times are microseconds, others seconds; `t_offset` (DSEC) is added.

    Args:
        path: the file.
        time_unit: unit of the times; None as above.
        group: which one, where the file holds several (a stereo pair, say).

    Raises:
        InputError: where the file is damaged, holds no events, or several and `group` does not say which.
    """
    with _reading(path), _open(path) as (file, end):
        recordings, extras = _contents(file)
        if not recordings and end is not None:
            raise InputError(f"{path}: truncated at byte {end:,}, before a whole event: " + _TRUNCATED)
        nothing = (
            "no events found; expected events/t, x, y, p (DSEC), events/ts, xs, ys, ps (e2vid) or CD/events with "
            "fields x, y, p, t (Prophesee)"
        )
        name = choose(list(recordings), group, path, one="group", several="groups of events", nothing=nothing)
        size = _size_of(file, name)
        kinds = {role: _kind(*source) for role, source in recordings[name].items()}
    floating = kinds["t"] == "f"
    offset = 0 if floating else _offset(extras.get("t_offset", np.asarray(0)), path)
    return Source(
        f"HDF5, {name}",
        lambda found: _blocks(path, name, offset, found),
        unit=time_unit or ("s" if floating else "us"),
        unit_is_certain=time_unit is not None,
        plain=holds_plain(kinds),
        size=size_of(extras, path) or size,
        camera=lambda size: camera_of(extras, size, path),
        ground_truth=ground_truth_of(extras, path),
        inertial=inertial_of(extras, path),
        frame_times_us=frame_times_of(extras, path),
    )


def _offset(said: np.ndarray, path: Path) -> int:
    """DSEC's `t_offset`, to be added to every time."""
    if said.size != 1 or said.dtype.kind not in "iuf" or not np.isfinite(said.item()):
        raise InputError(f"{path}: t_offset must be one number of microseconds, got {said.tolist()}")
    return int(said.item())


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    import hdf5plugin  # noqa: F401 - registers the compressions (blosc, zstd) that DSEC and others use

    try:
        yield
    except _DAMAGE as error:
        raise InputError(f"{path}: cannot be read as HDF5 ({_short(error)}); copy it again") from None


_EXTRAS = (
    *("t_offset", "size", "K", "D", "lens", "gt_t", "gt_w", "gt_q"),
    *("imu_t_us", "imu_gyro", "imu_accel", "frame_t_us"),
)


@contextmanager
def _open(path: Path) -> Iterator[tuple[Any, int | None]]:
    """The file, and where its bytes end if it is shorter than it says: HDF5 itself refuses such a file whole."""
    import h5py

    try:
        file = h5py.File(path)
    except OSError as error:
        stored = re.search(r"truncated file.* stored_eof = (\d+)", str(error))
        if stored is None:
            raise
        with _Padded(path, int(stored[1])) as padded, h5py.File(padded) as file:
            yield file, padded.end
        return
    with file:
        yield file, None


class _Padded(io.RawIOBase):
    """A file that goes on with zeros after its end, read only."""

    def __init__(self, path: Path, size: int) -> None:
        self._file, self._size, self._at = path.open("rb"), size, 0
        self.end = self._file.seek(0, io.SEEK_END)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        self._file.seek(self._at)
        self._file.readinto(view)
        self._at += len(view)
        return len(view)

    def close(self) -> None:
        self._file.close()
        super().close()


def _rows_before(dataset: Any, end: int) -> int:
    """How many leading rows of a dataset lie wholly before byte `end` of the file."""
    rows, width = dataset.shape[0], max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:])))
    if dataset.chunks is None:
        return int(np.clip((end - (dataset.id.get_offset() or 0)) // width, 0, rows))
    for number in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(number)
        if chunk.byte_offset is None or chunk.byte_offset + chunk.size > end:
            rows = min(rows, chunk.chunk_offset[0])
    return rows


def _contents(file: Any) -> tuple[dict[str, _Sources], dict[str, np.ndarray]]:
    """Everything in the file that looks like events, by its place, and what stands beside it."""
    import h5py

    recordings, extras = {}, {}
    for name, node in [("/", file), *_nodes(file, set())]:
        sources = _in_node(node, name)
        if sources:
            recordings[name] = sources
        elif name in _EXTRAS and isinstance(node, h5py.Dataset):
            extras[name] = np.asarray(node)
    return recordings, extras


def _nodes(group: Any, entered: set[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All that can be opened below a group. What lies behind damage is passed over, and no group is met twice: a link
    may lead back to one above."""
    import h5py

    entered.add(group)  # equal to the same group by another link
    for key in group:
        try:
            node = group[key]
            is_group = isinstance(node, h5py.Group)
            if is_group and node in entered:
                continue
        except _DAMAGE:
            continue
        yield prefix + key, node
        if is_group:
            yield from _nodes(node, entered, f"{prefix}{key}/")


def _is_dataset(group: Any, name: str) -> bool:
    import h5py

    try:
        return isinstance(group.get(name), h5py.Dataset)
    except _DAMAGE:
        return False


def _sources(file: Any, name: str) -> _Sources:
    """Where the columns of one recording are."""
    sources = _in_node(file[name], name)
    if sources is None:
        raise ValueError(f"{name} is no longer there")
    return sources


def _in_node(node: Any, name: str) -> _Sources | None:
    """The columns in a group or a dataset; a named type, the third kind of node, has none."""
    import h5py

    if isinstance(node, h5py.Group):
        return _in_group(node)
    return _in_dataset(node, name) if isinstance(node, h5py.Dataset) else None


def _in_group(group: Any) -> _Sources | None:
    sources: _Sources = {}
    for role, names in _NAMES.items():
        name = next((name for name in names if _is_dataset(group, name)), None)
        if name is None:
            return None
        sources[role] = (group[name], ())
    return sources


def _in_dataset(dataset: Any, name: str) -> _Sources | None:
    fields = dataset.dtype.names
    if fields:
        chosen = {role: next((n for n in names if n in fields), None) for role, names in _NAMES.items()}
        if None in chosen.values() or dataset.ndim != 1:
            return None
        return {role: (dataset, field) for role, field in chosen.items()}
    if dataset.ndim == 2 and dataset.shape[1] == 4 and name.rsplit("/", 1)[-1] == "events":
        return {role: (dataset, column) for column, role in enumerate("xytp")}
    return None


def _blocks(path: Path, name: str, offset: int, found: list[Finding]) -> Iterator[Block]:
    """All events, or those before a part that is lacking (after byte `end`) or cannot be decoded."""
    with _reading(path), _open(path) as (file, end):
        sources = _sources(file, name)
        n = _rows(sources, path, end, found)
        for start in range(0, max(n, 1), _BLOCK):
            window = slice(start, min(start + _BLOCK, n))
            try:
                columns = _read_block(sources, window)
            except _DAMAGE as error:
                if start == 0:
                    raise InputError(f"{path}: events cannot be decoded ({_why_not(sources['t'][0], error)})") from None
                reason = f"events after damage to the file ({_short(error)})"
                found.append(Finding(Remedy.LOST, reason, n - start, f"event {start + 1}"))
                return
            if offset:
                columns["t"] = columns["t"].astype(np.int64) + offset
            yield Block(columns["t"], columns["x"], columns["y"], columns["p"])


def _rows(sources: _Sources, path: Path, end: int | None, found: list[Finding]) -> int:
    """How many events there are to read."""
    lengths = {role: dataset.shape[0] if dataset.shape else 0 for role, (dataset, _) in sources.items()}
    check_lengths(lengths, path)
    n = lengths["t"]
    if end is None:
        return n
    kept = min(_rows_before(dataset, end) for dataset, _ in sources.values())
    if kept == 0:
        raise InputError(f"{path}: truncated at byte {end:,}, before a whole event: {_TRUNCATED}")
    place = f"event {kept + 1}, byte {end:,}"
    found.append(Finding(Remedy.LOST, "events after the end of a truncated file", n - kept, place))
    return kept


def _kind(dataset: Any, part: Any) -> str:
    """Whether a column holds integers (i, u), floats (f) or something else, as numpy calls it."""
    return (dataset.dtype[part] if isinstance(part, str) else dataset.dtype).kind


def _read_block(sources: _Sources, window: slice) -> dict[str, np.ndarray]:
    """The columns of some rows; a table that holds several is read once."""
    rows = {dataset.name: dataset[window] for dataset, _ in sources.values()}
    columns = {}
    for role, (dataset, part) in sources.items():
        read = rows[dataset.name]
        columns[role] = read[:, part] if isinstance(part, int) else read[part] if part else read
    return columns


def _why_not(dataset: Any, error: Exception) -> str:
    filters = dataset.id.get_create_plist()
    codes = [filters.get_filter(i)[0] for i in range(filters.get_nfilters())]
    if _ECF_FILTER in codes:
        return (
            "compressed with Metavision's ECF, which only its plugin decodes: install hdf5_ecf and set "
            "HDF5_PLUGIN_PATH, or export the recording as gzip HDF5"
        )
    return _short(error)


def _size_of(file: Any, name: str) -> tuple[int, int] | None:
    """Size of the sensor from the attributes that Metavision (geometry) and e2vid's tools (height, width) write."""
    for attributes in (file[name].attrs, file[name].parent.attrs, file.attrs):
        geometry = attributes.get("geometry")
        if isinstance(geometry, str | bytes):
            text = geometry.decode() if isinstance(geometry, bytes) else geometry
            width, _, height = text.partition("x")
            if width.isdigit() and height.isdigit():
                return int(width), int(height)
        resolution = np.ravel(attributes.get("sensor_resolution", ()))
        if resolution.size == 2:
            return int(resolution[1]), int(resolution[0])
    return None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
