"""Event Stream (.es), of the neuromorphic systems group: DVS events of version 2. Its rows count from the bottom."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pauca.errors import InputError
from pauca.events.io.source import Block, Source, read_pieces
from pauca.events.kernels.event_stream import decode_dvs
from pauca.events.recording import Finding, Remedy

MAGIC = b"Event Stream"
_KINDS = {0: "generic", 1: "DVS", 2: "ATIS", 4: "color"}
_DVS = 1


def open_event_stream(path: Path) -> Source:
    """Open an Event Stream file of DVS events; its times are microseconds.

    Raises:
        InputError: another version or type of events, or a header that is cut short.
    """
    with path.open("rb") as file:
        header = file.read(len(MAGIC) + 8)
    start = len(MAGIC)
    if len(header) < start + 8:
        raise InputError(f"{path}: an Event Stream whose header is cut short; copy it again")
    major, kind = header[start], header[start + 3]
    if major != 2 or kind != _DVS:
        raise InputError(
            f"{path}: Event Stream {major}.{header[start + 1]} of {_KINDS.get(kind, f'type {kind}')} events; supported "
            "are DVS events of version 2"
        )
    width, height = (int(side) for side in np.frombuffer(header, "<u2", 2, start + 4))

    def blocks(found: list[Finding]) -> Iterator[Block]:
        rest, at, time, beyond, resets = b"", start + 8, 0, 0, 0
        for piece in read_pieces(path, start + 8):
            data = np.frombuffer(rest + piece, np.uint8)
            columns = tuple(np.empty(len(data) // 5, dtype) for dtype in (np.int64, np.uint16, np.uint16, np.uint8))
            n, more_beyond, more_resets, used, time = decode_dvs(data, time, width, height, *columns)
            beyond, resets, at = beyond + more_beyond, resets + more_resets, at + used
            rest = data[used:].tobytes()
            yield Block(*(column[:n] for column in columns))
        if beyond:
            found.append(Finding(Remedy.DROPPED, f"events beyond the sensor ({width} x {height})", int(beyond)))
        if resets:
            found.append(Finding(Remedy.NOTED, f"the camera lost events {resets} times, and says so"))
        if rest:
            found.append(Finding(Remedy.LOST, f"the last event, cut short at byte {at:,} by the end of the file"))

    return Source("Event Stream", blocks, size=(width, height))
