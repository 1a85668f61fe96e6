"""HDF5 recordings: DSEC, Prophesee/Metavision, e2vid, MVSEC and relatives, found by the shape of what they hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pauca.errors import InputError
from pauca.events.io.npz import camera_of, ground_truth_of
from pauca.events.io.repair import RawColumns, TimeUnit
from pauca.events.recording import Finding, Remedy

_NAMES = {
    "t": ("t_us", "t", "ts", "timestamp", "timestamps"),
    "x": ("x", "xs"),
    "y": ("y", "ys"),
    "p": ("p", "ps", "pol", "polarity"),
}
_BLOCK = 1 << 22  # events read at a time, so that damage costs what follows it and not the file
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)  # what h5py makes of flipped bits
_ECF_FILTER = 36559  # Metavision's own compression, which only its plugin decodes

_Sources = dict[str, tuple[Any, Any]]  # role: dataset, and the field or column in it


def read_hdf5(path: Path, time_unit: TimeUnit | None, group: str | None) -> RawColumns:
    """Read an HDF5 recording.

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
    import h5py
    import hdf5plugin  # noqa: F401 - registers the compressions (blosc, zstd) that DSEC and others use

    try:
        with h5py.File(path) as file:
            name, sources = _choose(dict(_recordings(file)), group, path)
            columns, findings = _read_columns(sources, path)
            extras = {key: np.asarray(file[key]) for key in _EXTRAS if isinstance(file.get(key), h5py.Dataset)}
            size = _size_of(file, name)
    except _DAMAGE as error:
        raise InputError(f"{path}: cannot be read as HDF5 ({_short(error)}); copy it again") from None
    found_size, calibration = camera_of(extras, path)
    floating = columns["t"].dtype.kind == "f"
    if "t_offset" in extras and not floating:
        columns["t"] = columns["t"].astype(np.int64) + int(extras["t_offset"])
    return RawColumns(
        f"HDF5, {name}",
        columns["t"],
        columns["x"],
        columns["y"],
        columns["p"],
        unit=time_unit or ("s" if floating else "us"),
        unit_is_certain=time_unit is not None,
        size=found_size or size,
        calibration=calibration,
        ground_truth=ground_truth_of(extras, path),
        findings=findings,
    )


_EXTRAS = ("t_offset", "size", "K", "D", "gt_t", "gt_w", "gt_q")


def _recordings(file: Any) -> Iterator[tuple[str, _Sources]]:
    """Everything in the file that looks like events, by its place."""
    import h5py

    found: list[tuple[str, _Sources]] = []

    def look(name: str, node: Any) -> None:
        sources = _in_group(node) if isinstance(node, h5py.Group) else _in_dataset(node, name)
        if sources:
            found.append((name, sources))

    look("/", file)
    file.visititems(look)
    yield from found


def _in_group(group: Any) -> _Sources | None:
    import h5py

    sources: _Sources = {}
    for role, names in _NAMES.items():
        name = next((name for name in names if isinstance(group.get(name), h5py.Dataset)), None)
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


def _choose(found: dict[str, _Sources], group: str | None, path: Path) -> tuple[str, _Sources]:
    names = ", ".join(found)
    if group is not None:
        if group.strip("/") in found:
            return group.strip("/"), found[group.strip("/")]
        raise InputError(f"{path}: no events in {group!r}; they are in: {names or 'nothing here'}")
    if not found:
        raise InputError(
            f"{path}: no events found; expected events/t, x, y, p (DSEC), events/ts, xs, ys, ps (e2vid) or "
            "CD/events with fields x, y, p, t (Prophesee)"
        )
    if len(found) > 1:
        raise InputError(f"{path}: holds {len(found)} recordings ({names}); say which (group, --group)")
    return next(iter(found.items()))


def _read_columns(sources: _Sources, path: Path) -> tuple[dict[str, np.ndarray], list[Finding]]:
    """All columns, or, where a part of the file cannot be decoded, the events before it."""
    lengths = {role: dataset.shape for role, (dataset, _) in sources.items()}
    n = min(shape[0] if shape else 0 for shape in lengths.values())
    if any(len(shape) == 0 or shape[0] != n for shape in lengths.values()):
        told = ", ".join(f"{role} {shape}" for role, shape in lengths.items())
        raise InputError(f"{path}: columns of different length ({told}), so which belong together is unknown")
    blocks: list[dict[str, np.ndarray]] = []
    findings = []
    for start in range(0, max(n, 1), _BLOCK):
        window = slice(start, start + _BLOCK)
        try:
            blocks.append({role: _read_block(*source, window) for role, source in sources.items()})
        except _DAMAGE as error:
            if not blocks:
                raise InputError(f"{path}: events cannot be decoded ({_why_not(sources['t'][0], error)})") from None
            reason = f"events after damage to the file ({_short(error)})"
            findings.append(Finding(Remedy.LOST, reason, n - start, f"event {start + 1}"))
            break
    columns = {role: np.concatenate([block[role] for block in blocks]) for role in sources}
    return columns, findings


def _read_block(dataset: Any, part: Any, window: slice) -> np.ndarray:
    if isinstance(part, int):
        return dataset[window, part]
    return dataset[window][part] if part else dataset[window]


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
