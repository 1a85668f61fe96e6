"""Text, `t x y p` in seconds with six decimals, which are read exactly; plain or gzip, with blanks or commas."""

import gzip
from pathlib import Path

import numpy as np

from pauca.events.io.encoders.base import About, left_behind
from pauca.events.kernels.encode import BYTES_A_LINE, format_lines
from pauca.events.types import Events

_PART = 1 << 16  # events formatted at a time


class TextEncoder:
    """Writes .txt, or .csv with a line of names; a file that ends in .gz is compressed."""

    def __init__(self, path: Path, table: bool, compressed: bool) -> None:
        self.notes: list[str] = []
        self._size: tuple[int, int] | None = None
        self._separator = "," if table else " "
        # Level 1 and no time of its own in the header: the same events give the same bytes.
        self._file = gzip.GzipFile(path, "wb", 1, mtime=0) if compressed else path.open("wb")
        if table:
            self._file.write(b"t,x,y,p\n")

    def write(self, events: Events) -> None:
        self._size = events.size
        if events.undistorted:
            self._write_fractions(events)
            return
        out = np.empty(_PART * BYTES_A_LINE, np.uint8)
        for start in range(0, len(events), _PART):
            part = events[start : start + _PART]
            length = format_lines(part.t_us, part.x, part.y, part.p, ord(self._separator), out)
            self._file.write(out[:length].data)

    def _write_fractions(self, events: Events) -> None:
        columns = (events.t_us.tolist(), events.x.tolist(), events.y.tolist(), events.p.tolist())
        lines = []
        for t, x, y, p in zip(*columns, strict=True):
            seconds = f"{'-' if t < 0 else ''}{abs(t) // 1_000_000}.{abs(t) % 1_000_000:06d}"
            lines.append(self._separator.join((seconds, f"{x:.9g}", f"{y:.9g}", str(p))))
        self._file.write(("\n".join(lines) + "\n").encode())

    def finish(self, about: About) -> None:
        self.notes += left_behind(about)
        if self._size is not None:
            width, height = self._size
            self.notes.append(f"text does not say the sensor's size: read it with --size {width} {height}")
        self.close()

    def close(self) -> None:
        self._file.close()
