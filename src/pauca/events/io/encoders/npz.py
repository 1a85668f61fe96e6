"""NPZ, compressed. An archive holds one column after the other, so columns wait in files of their own until the end."""

import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from pauca.events.io.encoders.base import About, extras
from pauca.events.types import Events

_COLUMNS = ("t_us", "x", "y", "p")


class NpzEncoder:
    """Writes arrays t_us, x, y, p and what stands beside them, as `read` gives them back."""

    def __init__(self, path: Path) -> None:
        self.notes: list[str] = []
        self._path, self._count, self._size = path, 0, (1, 1)
        self._kinds: dict[str, np.dtype] = {}
        # They have no names, so nothing is left of them when the process is killed.
        self._waiting = {name: tempfile.TemporaryFile(dir=path.parent) for name in _COLUMNS}  # noqa: SIM115

    def write(self, events: Events) -> None:
        self._count, self._size = self._count + len(events), events.size
        for name, file in self._waiting.items():
            column = np.ascontiguousarray(getattr(events, name))
            self._kinds[name] = column.dtype
            file.write(column.data)

    def finish(self, about: About) -> None:
        """What numpy.savez_compressed writes, at level 1: five times as fast, a tenth larger (3.3 bytes an event)."""
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, file in self._waiting.items():
                file.seek(0)
                header = {"descr": self._kinds[name].str, "fortran_order": False, "shape": (self._count,)}
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, header)
                    shutil.copyfileobj(file, member, 1 << 20)
            for name, array in extras(self._size, about).items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        self.close()

    def close(self) -> None:
        for file in self._waiting.values():
            file.close()
