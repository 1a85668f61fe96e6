"""The binary files of N-MNIST and N-Caltech101 (ATIS): five bytes an event, no header."""

from pathlib import Path

import numpy as np

from pauca.errors import InputError
from pauca.events.io.source import Block, Source
from pauca.events.recording import Finding, Remedy

_OVERFLOW_ROW = 240  # an event there says that the clock ran over
_OVERFLOW_US = 1 << 13


def open_nmnist(path: Path) -> Source:
    """Open a `.bin` file of N-MNIST or N-Caltech101: x, y, then polarity and 23 bits of microseconds, high byte first.

    Raises:
        InputError: a size that is no whole number of events and more than a cut tail explains.
    """
    data = np.frombuffer(path.read_bytes(), np.uint8)
    words = data[: len(data) // 5 * 5].reshape(-1, 5).astype(np.int64)
    if not len(words):
        raise InputError(f"{path}: {len(data)} bytes are no event of N-MNIST, which takes five")
    time = (words[:, 2] & 0x7F) << 16 | words[:, 3] << 8 | words[:, 4]
    overflow = words[:, 1] == _OVERFLOW_ROW
    time = time + np.cumsum(overflow) * _OVERFLOW_US
    findings = []
    if rest := len(data) % 5:
        findings.append(Finding(Remedy.LOST, f"the last event, cut short by the end of the file ({rest} bytes of 5)"))
    kept = ~overflow
    x, y, p = words[kept, 0], words[kept, 1], words[kept, 2] >> 7
    size = (34, 34) if x.max(initial=0) < 34 and y.max(initial=0) < 34 else None
    columns = time[kept], x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8)
    # Files of one digit or one object: read at once.
    return Source("N-MNIST", lambda _: iter([Block(*columns)]), size=size, findings=findings)
