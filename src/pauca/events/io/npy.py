"""NPY files of one structured array: what `numpy.save` makes of a buffer of Metavision, dv-processing or tonic."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pauca.errors import InputError
from pauca.events.adapters import FIELDS
from pauca.events.io.source import Block, Source, TimeUnit, holds_plain
from pauca.events.recording import Finding, Remedy

MAGIC = b"\x93NUMPY"

_BLOCK_EVENTS = 1 << 20


def open_npy(path: Path, time_unit: TimeUnit | None) -> Source:
    """Open an NPY recording.

    Args:
        path: holds one event an element, with fields `t`, `x`, `y`, `p` or the names that other libraries give them
            (see `as_events`). Times are seconds where they have fractions, else microseconds.
        time_unit: unit of the times; None as above.

    Raises:
        InputError: where the file is damaged, or its array has no such fields.
    """
    shape, dtype, start = _header(path)
    if dtype.names is None or len(shape) != 1:
        raise InputError(
            f"{path}: an array of {dtype} of shape {shape} does not say what its columns are; save one with fields t, "
            "x, y, p, or arrays t, x, y, p as NPZ (numpy.savez)"
        )
    names = {role: [name for name in known if name in dtype.names] for role, known in FIELDS.items()}
    if lacking := [FIELDS[role][0] for role, found in names.items() if len(found) != 1]:
        raise InputError(
            f"{path}: fields {', '.join(dtype.names)} leave open what {', '.join(lacking)} is; expected t, x, y, p"
        )
    fields = {role[:1]: found[0] for role, found in names.items()}
    kinds = {role: dtype[name].kind for role, name in fields.items()}
    findings, in_name = [], fields["t"] == "t_us"
    if kinds["t"] != "f" and not time_unit and not in_name:
        findings.append(Finding(Remedy.NOTED, "times are whole numbers: taken as microseconds"))
    there = min(shape[0], (path.stat().st_size - start) // max(1, dtype.itemsize))
    if there < shape[0]:
        findings.append(
            Finding(Remedy.LOST, f"events behind byte {start + there * dtype.itemsize:,} (cut short)", shape[0] - there)
        )

    def blocks(_: list[Finding]) -> Iterator[Block]:
        events = np.memmap(path, dtype, "r", start, (there,)) if there else np.empty(0, dtype)
        for first in range(0, there, _BLOCK_EVENTS):
            some = events[first : first + _BLOCK_EVENTS]
            yield Block(*(np.array(some[fields[role]]) for role in "txyp"))

    return Source(
        "npy",
        blocks,
        unit=time_unit or ("s" if kinds["t"] == "f" and not in_name else "us"),
        unit_is_certain=time_unit is not None or in_name,
        plain=holds_plain(kinds),
        findings=findings,
    )


def holds_something_else(path: Path) -> bool:
    """Whether an NPY file can be read and is no recording: labels of one, for instance."""
    try:
        shape, dtype, _ = _header(path)
    except InputError:
        return False
    return len(shape) != 1 or not all(set(known) & set(dtype.names or ()) for known in FIELDS.values())


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    try:
        with path.open("rb") as file:
            one = np.lib.format.read_magic(file) == (1, 0)
            read = np.lib.format.read_array_header_1_0 if one else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            if dtype.hasobject:
                raise ValueError("it holds Python objects")
            return shape, dtype, file.tell()
    except Exception as error:  # numpy parses headers as Python: flipped bits raise anything
        raise InputError(f"{path}: damaged, cannot be read as NPY ({str(error)[:160]}); copy it again") from None
