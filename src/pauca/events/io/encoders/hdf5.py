"""HDF5 in DSEC's layout: events/t, x, y, p, with t_offset and ms_to_idx beside them, which other tools read."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from pauca.events.io.encoders.base import About, extras
from pauca.events.types import Events

Compression = Literal["gzip", "blosc", "none"]

_CHUNK = 1 << 16  # rows that are compressed together: what a reader of a short window has to unpack
_LONGEST_INDEX = 86_400_000  # milliseconds; the index of a longer recording would outgrow its events
_MOST = 1 << 20


class Hdf5Encoder:
    """Writes columns that grow together, so that a file that is cut still holds whole events."""

    def __init__(self, path: Path, compression: Compression) -> None:
        import h5py

        self.notes: list[str] = []
        self._file = h5py.File(path, "w")
        self._filters = _filters(compression)
        self._columns: dict[str, Any] = {}
        self._count = self._offset_us = 0
        self._size = (1, 1)

    def write(self, events: Events) -> None:
        if not self._columns:
            self._begin(events)
        t = events.t_us - self._offset_us
        self._index(t)
        start, self._count = self._count, self._count + len(events)
        for name, values in (("t", t), ("x", events.x), ("y", events.y), ("p", events.p)):
            self._columns[name].resize((self._count,))
            self._columns[name][start:] = values

    def _begin(self, events: Events) -> None:
        self._size = events.size
        first = int(events.t_us[0]) if len(events) else 0
        self._offset_us = first - first % 1000
        kinds = {"t": np.int64, "x": events.x.dtype, "y": events.y.dtype, "p": np.uint8, "ms_to_idx": np.uint64}
        for name, kind in kinds.items():
            place = name if name == "ms_to_idx" else f"events/{name}"
            self._columns[name] = self._file.create_dataset(
                place, (0,), kind, maxshape=(None,), chunks=(_CHUNK,), **self._filters
            )

    def _index(self, t: np.ndarray) -> None:
        """For each millisecond up to the last event, the number of the first event that is not before it."""
        index = self._columns["ms_to_idx"]
        done, end = index.shape[0], min(int(t[-1]) // 1000 + 1, _LONGEST_INDEX) if len(t) else 0
        for start in range(done, end, _MOST):
            edges = np.arange(start, min(start + _MOST, end)) * 1000
            index.resize((start + len(edges),))
            index[start:] = self._count + np.searchsorted(t, edges)

    def finish(self, about: About) -> None:
        self._file["t_offset"] = self._offset_us
        for name, array in extras(self._size, about).items():
            self._file[name] = array
        self.close()

    def close(self) -> None:
        self._file.close()


def _filters(compression: Compression) -> dict[str, Any]:
    if compression == "blosc":
        import hdf5plugin

        return dict(hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=hdf5plugin.Blosc.SHUFFLE))
    # gzip is the one compression that every HDF5 build reads; shuffle makes times a fifth of their size.
    return {"compression": "gzip", "compression_opts": 1, "shuffle": True} if compression == "gzip" else {}
