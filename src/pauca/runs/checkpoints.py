"""Checkpoints of a training, each a folder that is whole or not there at all.

A checkpoint is written by `torch.distributed.checkpoint` under a hidden name, by every rank its part, sealed with
the checksums of its files, and only then renamed. One that is no longer wanted is first renamed and then removed. So a
process may be killed at any moment.
"""

import json
import os
import shutil
import warnings
from ast import literal_eval
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pauca.errors import ConfigError, PaucaError
from pauca.renamed import text_with_new_names
from pauca.runs import sha256_of, write_text
from pauca.runs.processes import OtherStopped, Stopped, count_ranks, gather, own_rank, wait_for_all

_SEAL = "checksums.json"
_ORIGIN = "origin.json"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], origin: dict[str, str], keep: int = 2) -> Path:
    """Write the state after a step, then remove all but the latest `keep` checkpoints.

    Of several ranks all must call it.

    Args:
        folder: holds the checkpoints.
        step: names this one.
        state: nested dictionaries of tensors and plain values; tensors may be distributed.
        origin: what the state depends on (settings, data), for `load_checkpoint` to compare.
        keep: at least 1.

    Raises:
        PaucaError: it could not be written (a full disk); earlier checkpoints are untouched.
    """
    with alone_is_fine():
        return write_checkpoint(folder, step, state, origin, keep)


def write_checkpoint(
    folder: Path, step: int, state: dict[str, Any], origin: dict[str, str], keep: int, group: Any = None
) -> Path:
    """What `save_checkpoint` does, by messages of a group of all ranks if it is given: for a thread beside others'."""
    saver, _, failed = _torchs()
    path = folder / f"step-{step:08d}"
    temporary = folder / f".{path.name}"
    if own_rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed while it wrote
    wait_for_all(group)
    try:
        saver.save(state, checkpoint_id=temporary, process_group=group)
        if own_rank() == 0:
            write_text(temporary / _ORIGIN, json.dumps(origin, indent=1))
        wait_for_all(group)
        _seal(temporary, group)
        if own_rank() == 0:
            _replace(temporary, path)
            for old in checkpoints(folder)[:-keep]:
                _remove(old)
    except OtherStopped:
        raise
    except (OSError, failed, PaucaError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        signal = next((inner for inner in _chain(error) if isinstance(inner, Stopped)), None)
        if signal is not None:  # by a scheduler, say: nothing is wrong with the disk
            raise Stopped(f"{path}: was being written ({signal}); {_what_is_left(folder)}") from error
        raise PaucaError(f"{path}: could not be written ({_reason(error)}); {_what_is_left(folder, True)}") from error
    wait_for_all(group)
    return path


def _torchs() -> tuple[Any, Any, type[BaseException]]:
    """What torch has for checkpoints: how to save, how to load, what fails. With it come 50 MB, for training alone."""
    from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
    from torch.distributed.checkpoint.api import CheckpointException

    return state_dict_saver, state_dict_loader, CheckpointException


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step-*"))


def load_checkpoint(path: Path, state: dict[str, Any], origin: dict[str, str]) -> None:
    """Fill `state`, of the same structure as was saved, from a checkpoint.

    Raises:
        PaucaError: a file is missing or damaged.
        ConfigError: the checkpoint comes from other settings or data than `origin` says; the first difference is named.
    """
    _, loader, failed = _torchs()
    _check_seal(path)
    _check_origin(path, origin)
    try:
        with alone_is_fine():
            loader.load(state, checkpoint_id=path)
    except (OSError, failed, RuntimeError, ValueError) as error:
        raise PaucaError(f"{path}: does not fit this training ({_reason(error)}); start a new run") from error


def read_part(path: Path, name: str) -> Any:
    """One plain value of the state in a checkpoint, whatever training it belongs to.

    Raises:
        PaucaError: a file is missing or damaged, or there is no such part.
    """
    _, loader, failed = _torchs()
    _check_seal(path)
    state: dict[str, Any] = {name: None}
    try:
        with alone_is_fine():
            loader.load(state, checkpoint_id=path)
    except (OSError, failed, RuntimeError, ValueError) as error:
        raise PaucaError(f"{path}: holds no {name} ({_reason(error)})") from error
    return state[name]


def clean_up(folder: Path) -> None:
    """Remove what killed processes have left half written or half removed."""
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def alone_is_fine() -> Iterator[None]:
    """Silences torch's warning that a single process saves for itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def _seal(folder: Path, group: Any = None) -> None:
    """Write the checksums of all files, of which each rank reads its share."""
    files = sorted(folder.iterdir())
    shares = gather({path.name: sha256_of(path) for path in files[own_rank() :: count_ranks()]}, group)
    if own_rank() == 0:
        checksums = {name: checksum for share in shares for name, checksum in share.items()}
        write_text(folder / _SEAL, json.dumps(checksums, indent=1))


def _check_seal(path: Path) -> None:
    damage = next(filter(None, gather(_damage(path))), "")  # so that no rank waits for one that has stopped
    if damage:
        raise PaucaError(f"{path}: {damage}; remove that folder to go on from {_before(path)}")


def _damage(path: Path) -> str:
    """What is wrong with the files of which this rank reads the checksums, in words."""
    try:
        checksums = json.loads((path / _SEAL).read_text(encoding="utf-8"))
        for name in sorted(checksums)[own_rank() :: count_ranks()]:
            if sha256_of(path / name) != checksums[name]:
                return f"{name} is damaged (another checksum than was written)"
    except (OSError, ValueError) as error:
        return f"is not whole ({_reason(error)})"
    return ""


def _check_origin(path: Path, origin: dict[str, str]) -> None:
    stored = json.loads(text_with_new_names((path / _ORIGIN).read_text(encoding="utf-8")))
    for name in sorted({*stored, *origin}):
        if not _agree(_read(stored.get(name)), _read(origin.get(name))):
            raise ConfigError(
                f"{path}: was written with {name} {stored.get(name)}, but now {name} is {origin.get(name)}; restore "
                "it, or start a new run"
            )


def _read(text: str | None) -> Any:
    """A setting as it was before it was written; the text itself where that cannot be read as one."""
    try:
        return None if text is None else literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _agree(stored: Any, now: Any) -> bool:
    """Whether settings are the same, but for those that an earlier version did not have, where these are off or 0."""
    if isinstance(stored, dict) and isinstance(now, dict):
        return all(_agree(stored.get(name), now.get(name)) for name in {*stored, *now})
    return stored == now or (stored is None and now in (False, 0.0))


def _replace(temporary: Path, path: Path) -> None:
    if path.exists():
        _remove(path)
    temporary.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the new name, too, is to survive a power cut
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    hidden = path.with_name(f".{path.name}.old")
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _before(path: Path) -> str:
    earlier = [other.name for other in checkpoints(path.parent) if other.name < path.name]
    return earlier[-1] if earlier else "the beginning"


def _what_is_left(folder: Path, is_full: bool = False) -> str:
    left, space = checkpoints(folder), "free space and " if is_full else ""
    if not left:
        return f"there is no earlier one; {space}start again"
    return f"{left[-1].name} is whole; {space}go on from it with --resume (in Python resume=True)"


def _reason(error: BaseException) -> str:
    """Why, in one line: what the operating system said, however deep it is wrapped, or the innermost error."""
    for inner in _chain(error):
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
    return str([*_chain(error)][-1]).strip().split("\n")[0]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those inside it; checkpointing keeps what went wrong in each rank in `failures`."""
    yield error
    inside = [failure[0] for failure in getattr(error, "failures", {}).values()]
    for inner in (*inside, error.__cause__ or error.__context__):
        if isinstance(inner, BaseException):
            yield from _chain(inner)
