"""Event Stream (.es), of the neuromorphic systems group: DVS events of version 2. Its rows count from the bottom."""

from pathlib import Path

import numpy as np

from pauca.errors import InputError
from pauca.events.io.repair import RawColumns
from pauca.events.kernels.event_stream import decode_dvs
from pauca.events.recording import Finding, Remedy

MAGIC = b"Event Stream"
_KINDS = {0: "generic", 1: "DVS", 2: "ATIS", 4: "color"}
_DVS = 1


def read_event_stream(path: Path) -> RawColumns:
    """Read an Event Stream file of DVS events; its times are microseconds.

    Raises:
        InputError: another version or type of events, or a header that is cut short.
    """
    data = path.read_bytes()
    start = len(MAGIC)
    if len(data) < start + 8:
        raise InputError(f"{path}: an Event Stream whose header is cut short; copy it again")
    major, kind = data[start], data[start + 3]
    if major != 2 or kind != _DVS:
        raise InputError(
            f"{path}: Event Stream {major}.{data[start + 1]} of {_KINDS.get(kind, f'type {kind}')} events; supported "
            "are DVS events of version 2"
        )
    width, height = (int(side) for side in np.frombuffer(data, "<u2", 2, start + 4))
    body = np.frombuffer(data, np.uint8, offset=start + 8)
    columns = tuple(np.empty(len(body) // 5, dtype) for dtype in (np.int64, np.uint16, np.uint16, np.uint8))
    n, beyond, resets, used = decode_dvs(body, width, height, *columns)
    findings = []
    if beyond:
        findings.append(Finding(Remedy.DROPPED, f"events beyond the sensor ({width} x {height})", int(beyond)))
    if resets:
        findings.append(Finding(Remedy.NOTED, f"the camera lost events {resets} times, and says so"))
    if used < len(body):
        findings.append(
            Finding(Remedy.LOST, f"the last event, cut short at byte {start + 8 + used:,} by the end of the file")
        )
    t, x, y, p = (column[:n] for column in columns)
    return RawColumns(
        "Event Stream", t, x, y, p, unit="us", unit_is_certain=True, size=(width, height), findings=findings
    )
