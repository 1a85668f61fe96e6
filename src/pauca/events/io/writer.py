"""Recordings to files, at once or chunk by chunk; a file is whole or not there at all."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pauca.choices import check_choices
from pauca.errors import ConfigError, InputError
from pauca.events.given import check_kinds, expect, path_of
from pauca.events.io.encoders import DatEncoder, Hdf5Encoder, NpzEncoder, RawEncoder, TextEncoder
from pauca.events.io.encoders.base import About, Encoder
from pauca.events.io.encoders.hdf5 import Compression
from pauca.events.io.encoders.prophesee import RawEncoding
from pauca.events.io.reader import ReadConfig, open_events
from pauca.events.io.stream import EventStream
from pauca.events.recording import ReadReport, Recording, recording_of
from pauca.events.types import Events
from pauca.runs import atomic_write, check_can_write


@dataclass(frozen=True)
class WriteConfig:
    """How a recording is written, where a format leaves a choice."""

    encoding: RawEncoding = "evt3"
    """Encoding of a RAW file: evt3 or evt2."""
    compression: Compression = "gzip"
    """Compression of HDF5 files: gzip, which everybody reads; blosc, which is faster and needs hdf5plugin; or none."""

    def __post_init__(self) -> None:
        check_kinds(self)
        check_choices(self)


@dataclass(frozen=True)
class Conversion:
    """What became of a file."""

    path: Path  # what was written
    report: ReadReport  # of the reading: what was repaired
    notes: tuple[str, ...]  # what the format could not hold as it was

    def summary(self) -> str:
        """One line for people."""
        told = "; ".join((*(str(finding) for finding in self.report.findings), *self.notes))
        return f"{self.report.path} -> {self.path}: {self.report.kept:,} events" + (f"; {told}" if told else "")


_ENCODERS: dict[str, Callable[[Path, WriteConfig], Encoder]] = {
    ".txt": lambda path, config: TextEncoder(path, table=False, compressed=False),
    ".csv": lambda path, config: TextEncoder(path, table=True, compressed=False),
    ".txt.gz": lambda path, config: TextEncoder(path, table=False, compressed=True),
    ".csv.gz": lambda path, config: TextEncoder(path, table=True, compressed=True),
    ".npz": lambda path, config: NpzEncoder(path),
    ".h5": lambda path, config: Hdf5Encoder(path, config.compression),
    ".hdf5": lambda path, config: Hdf5Encoder(path, config.compression),
    ".raw": lambda path, config: RawEncoder(path, config.encoding),
    ".dat": lambda path, config: DatEncoder(path),
}

ENDINGS = tuple(_ENCODERS)
"""Endings of files that can be written; they say the format."""


def ending_of(path: Path) -> str:
    """The ending that says the format, or an empty one.

    >>> ending_of(Path("boxes.rotation.txt.gz"))
    '.txt.gz'
    """
    name = path.name.lower()
    return max((ending for ending in ENDINGS if name.endswith(ending)), key=len, default="")


def check_target(path: Path, force: bool = False) -> None:
    """Refuse early what `write` and `convert` would refuse after long work.

    Raises:
        InputError: another ending, a file that exists, or a folder that takes none.
    """
    if not ending_of(path):
        raise InputError(f"{path}: recordings are written as {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    check_can_write(path, force)


def write(
    path: str | Path,
    recording: Recording | Events | EventStream,
    *,
    config: WriteConfig = WriteConfig(),
    force: bool = False,
) -> Path:
    """Write a recording in one step: the file is whole or not there at all.

    Args:
        path: .npz and .h5 (or .hdf5) hold all of it, bit for bit; HDF5 has DSEC's layout, which other tools read. Text
            (.txt, .csv, both also .gz), .raw and .dat hold the events alone; `convert` says what was left out.
        recording: what to write; events alone will do, and what `open_events` returned is written chunk by chunk. The
            report is not kept.
        config: how, where the format leaves a choice.
        force: replace a file that exists.

    Raises:
        InputError: another ending, the file exists and `force` is not set, or the format cannot hold these events.
    """
    path = path_of(path)
    if not isinstance(recording, EventStream):
        recording = recording_of(recording)
    check_target(path, force)
    chunks = recording if isinstance(recording, EventStream) else [recording.events]
    _write(path, chunks, recording, expect(config, WriteConfig), force)
    return path


def convert(
    source: str | Path,
    target: str | Path,
    reading: ReadConfig = ReadConfig(),  # noqa: B008 - frozen
    *,
    config: WriteConfig = WriteConfig(),
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Conversion:
    """Write a recording in another format, chunk by chunk: memory does not grow with the file.

    Args:
        source: what `read` reads.
        target: what `write` writes.
        reading: how the source is read.
        config: how the target is written.
        force: replace a file that exists.
        progress: called with how many more events are done with.

    Raises:
        InputError: as `read` and `write`; nothing is left behind.
    """
    source, target = path_of(source), path_of(target)
    check_target(target, force)
    stream = open_events(source, reading)

    def chunks() -> Iterable[Events]:
        for chunk in stream:
            yield chunk
            if progress is not None:
                progress(len(chunk))

    notes = _write(target, chunks(), stream, expect(config, WriteConfig), force)
    assert stream.report is not None  # the stream has come to its end
    return Conversion(target, stream.report, tuple(notes))


def _write(path: Path, chunks: Iterable[Events], about: About, config: WriteConfig, force: bool) -> list[str]:
    with atomic_write(path, force) as temporary:
        encoder = _ENCODERS[ending_of(path)](temporary, config)
        try:
            for chunk in chunks:
                with _named(path):
                    encoder.write(chunk)
            with _named(path):
                encoder.finish(about)
        finally:
            encoder.close()
    return encoder.notes


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What a format cannot hold is said of the file that is written, not of the one that stands for it meanwhile."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def check_write_config(config: WriteConfig, ending: str) -> None:
    """Refuse settings of another format than the one that is written.

    Raises:
        ConfigError: which names the setting.
    """
    if config.encoding != WriteConfig.encoding and ending != ".raw":
        raise ConfigError(f"--encoding {config.encoding} is for .raw, and {ending} is written")
    if config.compression != WriteConfig.compression and ending not in (".h5", ".hdf5"):
        raise ConfigError(f"--compression {config.compression} is for .h5, and {ending} is written")
