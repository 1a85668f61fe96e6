"""AEDAT 2.0 and 3.1, the recordings of jAER and cAER: DVS128 and DAVIS.

jAER counts rows from the bottom and columns from the right; here x points right and y down.
"""

import re
import struct
from pathlib import Path

import numpy as np

from pauca.errors import InputError
from pauca.events.io.repair import RawColumns
from pauca.events.recording import Finding, Remedy

MAGIC = b"#!AER-DAT"
_DAVIS_SIZES = {"240": (240, 180), "346": (346, 260), "208": (208, 192), "128": (128, 128), "640": (640, 480)}
_POLARITY_EVENTS = 1  # of AEDAT 3's types of packets


def read_aedat(path: Path) -> RawColumns:
    """Read an AEDAT 2.0 recording of a DVS128 or DAVIS, or the polarity events of an AEDAT 3.1 file.

    Raises:
        InputError: another version, or a camera that the header does not name.
    """
    data = path.read_bytes()
    version = re.match(rb"#!AER-DAT(\d)\.", data)
    if version and version[1] == b"2":
        return _read_2(data, path)
    if version and version[1] == b"3":
        return _read_3(data, path)
    raise InputError(f"{path}: AEDAT {data[9:12]!r}; supported are 2.0, 3.1 and 4.0: save it again with jAER or DV")


def _after_header(data: bytes) -> int:
    """The header's lines begin with #; the last of AEDAT 3 says that it ends there."""
    start = 0
    while data[start : start + 1] == b"#":
        end = data.find(b"\n", start) + 1
        if not end:
            break
        ends_here = data[start:end].startswith(b"#!END-HEADER")
        start = end
        if ends_here:
            break
    return start


def _read_2(data: bytes, path: Path) -> RawColumns:
    start = _after_header(data)
    header = data[:start].decode("latin-1")
    words = np.frombuffer(data, ">u4", (len(data) - start) // 8 * 2, start).reshape(-1, 2)
    address, ticks = words[:, 0].astype(np.uint32), words[:, 1].astype(np.int64)
    findings = []
    if rest := (len(data) - start) % 8:
        findings.append(Finding(Remedy.LOST, f"the last event, cut short by the end of the file ({rest} bytes of 8)"))
    chip = re.search(r"# AEChip: \S*(DVS128|DAVIS)(\d*)", header, re.IGNORECASE)
    if chip is None and len(address) and address.max() >= 1 << 15:
        raise InputError(f"{path}: an AEDAT 2.0 file that does not name its camera; supported are DVS128 and DAVIS")
    size = (128, 128)
    if chip is not None and chip[1].upper() == "DAVIS":
        if chip[2] not in _DAVIS_SIZES:
            raise InputError(f"{path}: a DAVIS{chip[2]}; supported are DAVIS {', '.join(_DAVIS_SIZES)}")
        size = _DAVIS_SIZES[chip[2]]
        polar = (address >> 31 == 0) & (address >> 10 & 1 == 0)
        if others := int(np.count_nonzero(~polar)):
            findings.append(Finding(Remedy.NOTED, f"{others:,} samples of frames, triggers and the inertial sensor"))
        address, ticks = address[polar], ticks[polar]
        x, y, on = address >> 12 & 0x3FF, address >> 22 & 0x1FF, address >> 11 & 1
    else:
        x, y, on = address >> 1 & 0x7F, address >> 8 & 0x7F, 1 - (address & 1)
    t_us = ticks + np.concatenate([[0], np.cumsum(np.diff(ticks) < -(1 << 31))]) * (1 << 32) if len(ticks) else ticks
    columns = (size[0] - 1 - x.astype(np.int32), size[1] - 1 - y.astype(np.int32), on.astype(np.uint8))
    return RawColumns("AEDAT 2.0", t_us, *columns, unit="us", unit_is_certain=True, size=size, findings=findings)


def _read_3(data: bytes, path: Path) -> RawColumns:
    start = _after_header(data)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    findings = []
    while start < len(data):
        if start + 28 > len(data):
            findings.append(Finding(Remedy.LOST, f"all after byte {start:,}: a packet's header cut short"))
            break
        kind, _, size, _, overflow, _, number, _ = struct.unpack_from("<hhiiiiii", data, start)
        end = start + 28 + size * number
        if size <= 0 or number < 0 or end > len(data) or overflow < 0:
            findings.append(Finding(Remedy.LOST, f"all after byte {start:,}: a packet cut short or damaged"))
            break
        if kind == _POLARITY_EVENTS and size == 8:
            events = np.frombuffer(data, "<u4", 2 * number, start + 28).reshape(-1, 2)
            valid = events[events[:, 0] & 1 == 1]
            parts.append((valid[:, 0], valid[:, 1].astype(np.int64) + (overflow << 31)))
        start = end
    if not parts:
        raise InputError(f"{path}: an AEDAT 3 file without polarity events")
    address, t_us = (np.concatenate(column) for column in zip(*parts, strict=True))
    x, y, on = address >> 17 & 0x7FFF, address >> 2 & 0x7FFF, (address >> 1 & 1).astype(np.uint8)
    return RawColumns("AEDAT 3.1", t_us, x, y, on, unit="us", unit_is_certain=True, findings=findings)
