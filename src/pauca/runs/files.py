"""Writing files so that nothing is ever lost or half written."""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from pauca.errors import InputError, PaucaError


def check_can_write(path: Path, force: bool = False) -> None:
    """Refuse early, before long work, what `atomic_write` would refuse after it.

    Raises:
        InputError: `path` exists and `force` is not set, or its folder can be neither written nor made.
    """
    if path.exists() and not force:
        raise InputError(
            f"{path}: exists already; choose another name, or replace it with --force (in Python force=True)"
        )
    for parent in path.parents:
        if parent.exists():
            if not parent.is_dir():
                raise InputError(f"{path}: cannot be written, because {parent} is a file and not a folder")
            if not _takes_files(parent):
                raise InputError(f"{path}: cannot be written, because you may not write to {parent}; choose another")
            return


def _takes_files(folder: Path) -> bool:
    """Whether a folder can be made in this one: permissions alone do not tell for /proc, root, or a read-only disk."""
    probe = folder / f".{uuid4().hex[:8]}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


@contextmanager
def atomic_write(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step, on failure it is removed.

    Readers therefore see the old file or the new one, never a part, even if the process is killed.

    Raises:
        InputError: `path` exists and `force` is not set.
        PaucaError: the disk refuses (full, read-only); what was there before is untouched.
    """
    check_can_write(path, force)
    # The suffix stays last: libraries such as numpy and matplotlib choose the format by it.
    temporary = path.with_name(f".{path.stem}.{uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _usual_mode(temporary)
        yield temporary
        temporary.chmod(mode)  # some libraries write by way of a file that nobody else may read
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise PaucaError(f"{path}: could not be written ({error.strerror or error}); nothing was replaced") from error
    finally:
        with suppress(OSError):  # a read-only disk refuses this too; the error above says why
            temporary.unlink(missing_ok=True)


def _usual_mode(path: Path) -> int:
    """The permissions of a new file, which the umask decides."""
    path.touch()
    mode = path.stat().st_mode & 0o777
    path.unlink()
    return mode


def write_text(path: Path, text: str, force: bool = False) -> None:
    """Write `text` to `path` atomically (see `atomic_write`)."""
    with atomic_write(path, force) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Any, indent: int | None = None) -> str:
    """Plain values as JSON, whose readers know neither NaN nor infinity: null stands for a number that there is not."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
