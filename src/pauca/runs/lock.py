"""One process at a time writes to a run folder."""

from __future__ import annotations

import errno
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pauca.errors import InputError, PaucaError

NAME = ".lock"
_held: set[tuple[int, Path]] = set()  # process and folder: a forked process inherits this, and no lock

# What a file system says that has no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Keep a folder to this process, which may lock it again within; reading it stays free.

    The lock belongs to the operating system: it ends with the process, however that ends, and not with a file that a
    killed process left behind.

    Raises:
        InputError: another process has the folder; the message names it. Or it is a file, or a folder cannot be made.
        PaucaError: the disk refuses.
    """
    path = path.resolve()
    is_new = not path.exists()
    ours = (os.getpid(), path)
    if ours in _held:
        yield
        return
    file = _locked_file(path)
    _held.add(ours)
    try:
        yield
    finally:
        _held.discard(ours)
        # Removed while it is still locked: who waits to open it makes a new one.
        with suppress(OSError):
            (path / NAME).unlink()
            if is_new:
                path.rmdir()  # unless something was written
        os.close(file)


def _locked_file(path: Path) -> int:
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file, but a run is a folder; choose another name")
    while True:
        try:
            path.mkdir(parents=True, exist_ok=True)
            file = os.open(path / NAME, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            kind = PaucaError if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) else InputError
            raise kind(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
        if not _lock(file):
            holder = _holder(file)
            os.close(file)
            raise InputError(f"{path}: {holder} is writing there; wait until it ends, or choose another folder")
        with suppress(OSError):
            if os.fstat(file).st_ino == (path / NAME).stat().st_ino:
                break
        os.close(file)  # another process has removed it between our opening and our locking
    os.ftruncate(file, 0)
    word = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M")}
    os.write(file, json.dumps(word).encode())
    return file


def _lock(file: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS
    return True


def _holder(file: int) -> str:
    try:
        word = json.loads(os.read(file, 1000))
        return f"process {word['pid']} on {word['host']} (since {word['since']})"
    except (OSError, ValueError, KeyError):
        return "another process"
