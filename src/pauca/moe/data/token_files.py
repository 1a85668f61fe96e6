"""Text as tokens: bytes or byte pairs, kept in memory-mapped files, drawn as batches that depend on (seed, step) alone.

A folder of tokens holds `train.bin` and `validation.bin` (little-endian integers and nothing else), `tokens.json` (how
many, of what, with checksums of the sources and of the files) and, for byte pairs, `tokenizer.json`.
"""

import gzip
import hashlib
import json
import lzma
import shutil
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from jaxtyping import Int64, UInt
from torch import Tensor

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.moe.data.tokenizers import END, BpeTokenizer, ByteTokenizer, Tokenizer, load_tokenizer
from pauca.runs import sha256_of

_SUFFIXES = (".txt", ".md", ".py")
_COMPRESSED = {".xz": lzma.open, ".gz": gzip.open}
# Tests are not written to be read, caches and installed packages are not of the standard library.
_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class DataConfig:
    """What text to learn from, and as which tokens."""

    sources: tuple[str, ...] = ()
    """Text files (.txt, .md, .py, also .xz or .gz of them; any other name is read as plain text), folders of such, or
    one folder of tokens that an earlier run has made. Without any, the Python standard library's own sources."""
    validation: tuple[str, ...] = ()
    """Files or folders to validate on. Without any, `validation_share` of the sources."""
    validation_share: float = 0.05
    """Share of the documents, evenly spread, that is held out for validation. Where the documents are too few for that,
    the end of the text is held out (a byte-pair vocabulary has then seen it)."""
    vocabulary: int = 256
    """Different tokens: 256 are the bytes, more are byte pairs learned from the training text."""

    def __post_init__(self) -> None:
        if not 0 <= self.validation_share <= 0.5:
            raise ConfigError(f"validation_share {self.validation_share}: give a share from 0 to 0.5")
        if self.vocabulary < 256:
            raise ConfigError(f"vocabulary {self.vocabulary}: 256 (bytes) is the smallest")


@dataclass(frozen=True)
class TokenFile:
    """Tokens in a memory-mapped file."""

    path: Path
    tokens: UInt[np.ndarray, "n"]
    checksum: str

    def __len__(self) -> int:
        return len(self.tokens)

    def check_context(self, context: int) -> None:
        """Refuse a text that holds no whole window of context + 1 tokens."""
        if len(self) <= context:
            raise InputError(
                f"{self.path}: {len(self)} tokens are too few for one context of {context} and its next token; "
                "give more text or a shorter context"
            )

    def batch(
        self, seed: int, first: int, count: int, context: int
    ) -> tuple[Int64[Tensor, "count context"], Int64[Tensor, "count context"]]:
        """Windows `first` to `first + count` of an endless, shuffled reading, and the same windows one token later.

        Each epoch cuts the text anew, at a random offset, and visits every window once in random order. The result is a
        function of the arguments alone: ranks take different `first`, and a resumed run goes on where it stopped.
        """
        self.check_context(context)
        # One window fewer than fit leaves room for the offset; a text of one window has no choice.
        windows = max(1, (len(self) - 1) // context - 1)
        slack = len(self) - windows * context
        starts = []
        for number in range(first, first + count):
            epoch, place = divmod(number, windows)
            offset, order = _epoch(seed, epoch, windows, slack)
            starts.append(offset + context * int(order[place]))
        return self._windows(starts, context)

    def even_batches(
        self, batches: int, count: int, context: int
    ) -> Iterator[tuple[Int64[Tensor, "b context"], Int64[Tensor, "b context"]]]:
        """At most `batches` times `count` windows spread evenly over the text, without overlap: for validation."""
        self.check_context(context)
        starts = np.arange((len(self) - 1) // context) * context
        if len(starts) > batches * count:
            starts = starts[np.linspace(0, len(starts) - 1, batches * count).round().astype(np.int64)]
        for first in range(0, len(starts), count):
            yield self._windows(starts[first : first + count].tolist(), context)

    def _windows(self, starts: Sequence[int], context: int) -> tuple[Tensor, Tensor]:
        windows = np.stack([self.tokens[start : start + context + 1] for start in starts]).astype(np.int64)
        both = torch.from_numpy(windows)
        return both[:, :-1], both[:, 1:]


_EPOCHS: dict[tuple[int, int, int, int], tuple[int, np.ndarray]] = {}


def _epoch(seed: int, epoch: int, windows: int, slack: int) -> tuple[int, np.ndarray]:
    """Where an epoch's first window starts, and the order of its windows; the latest two epochs are remembered."""
    key = (seed, epoch, windows, slack)
    if key not in _EPOCHS:
        while len(_EPOCHS) >= 2:
            del _EPOCHS[next(iter(_EPOCHS))]
        generator = np.random.default_rng([seed, epoch])
        _EPOCHS[key] = int(generator.integers(slack)), generator.permutation(windows)
    return _EPOCHS[key]


@dataclass(frozen=True)
class TokenData:
    """A folder of tokens: what to train on and what to validate on."""

    folder: Path
    train: TokenFile
    validation: TokenFile | None
    tokenizer: Tokenizer
    bytes_per_token: float
    """Mean length of a token in the validation text, or in all text where there is none: loss / ln 2 / this is bits
    per byte."""
    sources: dict[str, str]
    """The text files and their checksums."""

    @classmethod
    def open(cls, folder: Path) -> "TokenData":
        """Open a folder that `prepare_tokens` made.

        Raises:
            InputError: a file is missing, or differs from what was written.
        """
        facts = _read_facts(folder)
        parts = {name: _open_part(folder, name, part) for name, part in facts["files"].items()}
        measured = facts["files"].get("validation", facts["files"]["train"])
        return cls(
            folder,
            parts["train"],
            parts.get("validation"),
            load_tokenizer(folder),
            measured["bytes"] / measured["count"],
            facts["sources"],
        )

    def check_sources(self, earlier: dict[str, str]) -> None:
        """Refuse text that is not what it was, by the `sources` of an earlier time.

        Raises:
            InputError: the first file that has changed, come or gone.
        """
        for name in {**earlier, **self.sources}:
            if earlier.get(name) != self.sources.get(name):
                change = "has changed" if name in earlier and name in self.sources else "has come or gone"
                raise InputError(f"{name}: {change} since the run began; restore what was there, or start a new run")


def prepare_tokens(config: DataConfig, cache: Path) -> TokenData:
    """Tokenize text into a folder below `cache`, named after what is in the text, or open the one that is there.

    Where the only source is itself a folder of tokens, that one is opened and nothing is written.

    Raises:
        InputError: a source is missing, empty, damaged or not UTF-8; a token file has changed since it was written.
        PaucaError: the disk is full.
    """
    if len(config.sources) == 1 and (Path(config.sources[0]) / "tokens.json").exists():
        return TokenData.open(Path(config.sources[0]))
    files = {"train": _files(config.sources)}
    if config.validation:
        files["validation"] = _files(config.validation)
    checksums = {part: [_checksum(path) for _, path in named] for part, named in files.items()}
    content = json.dumps([checksums, config.validation_share, config.vocabulary])
    folder = cache / hashlib.sha256(content.encode()).hexdigest()[:16]
    if not folder.exists():
        _make_folder(config, files, folder)
    names = [name for named in files.values() for name, _ in named]
    together = [checksum for of_part in checksums.values() for checksum in of_part]
    return replace(TokenData.open(folder), sources=dict(zip(names, together, strict=True)))


def _make_folder(config: DataConfig, files: dict[str, list[tuple[str, Path]]], folder: Path) -> None:
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        _write_tokens(config, files, temporary)
        if not folder.exists():  # another run has made it meanwhile
            temporary.rename(folder)
    except OSError as error:
        raise PaucaError(
            f"{folder}: could not be written ({error.strerror or error}); free space, and repeat"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_documents(path: Path, blank_is_fine: bool = False) -> Iterator[str]:
    """The documents of a text file, decompressed; empty ones are left out.

    Args:
        path: of the file.
        blank_is_fine: a file without text holds no document, and is no mistake.

    Raises:
        InputError: no such file, nothing in it, damaged compression, or no text in UTF-8 (line and byte are named).
    """
    try:
        with _COMPRESSED.get(path.suffix, open)(path, "rb") as file:
            data = file.read()
        text = data.decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: byte {error.start} (line {line}) is not UTF-8; convert the file, for example with iconv"
        ) from error
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the compressed file is damaged ({error}); fetch it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    place = data.find(0)  # valid in UTF-8, but no text, and what ends a document where tokens are bytes
    if place >= 0:
        line = data.count(b"\n", 0, place) + 1
        raise InputError(
            f"{path}: byte {place} (line {line}) is NUL, which no text contains; leave a binary file out, convert "
            "UTF-16 with iconv, or remove such bytes with tr -d '\\0'"
        )
    documents = [document for document in text.split(END) if document.strip()]
    if not documents and not blank_is_fine:
        raise InputError(f"{path}: holds no text; leave it out")
    yield from documents


def _files(sources: Sequence[str]) -> list[tuple[str, Path]]:
    """All text files, each with the name by which its checksum is known."""
    if not sources:
        root = Path(sysconfig.get_path("stdlib"))
        found = [path for path in root.rglob("*.py") if not _NOT_LIBRARY & set(path.relative_to(root).parts)]
        named = sorted((path.relative_to(root).as_posix(), path) for path in found)
        # _sysconfigdata holds how this very Python was built.
        return [(name, path) for name, path in named if path.stat().st_size and not name.startswith("_sysconfigdata")]
    files = []
    for source in map(Path, sources):
        if source.is_dir():
            below = sorted(path for path in source.rglob("*") if path.is_file() and _is_text(path))
            if not below:
                raise InputError(f"{source}: no text files below it; they are known by {', '.join(_SUFFIXES)}")
            files += [(str(path), path) for path in below if path.stat().st_size]
        elif source.is_file():
            files.append((str(source), source))
        else:
            raise InputError(f"{source}: no such file or folder of text")
    return files


def _is_text(path: Path) -> bool:
    name = path.with_suffix("") if path.suffix in _COMPRESSED else path
    return name.suffix in _SUFFIXES


def _write_tokens(config: DataConfig, files: dict[str, list[tuple[str, Path]]], folder: Path) -> None:
    for part, named in files.items():
        if next(_documents(named, config), None) is None:
            sources = config.validation if part == "validation" else config.sources
            raise InputError(f"{', '.join(sources)}: there is no text in there; all files are blank")
    tokenizer: Tokenizer = ByteTokenizer()
    if config.vocabulary > 256:
        documents = (doc for doc, held_out in _documents(files["train"], config) if not held_out)
        tokenizer = BpeTokenizer.train(documents, config.vocabulary)
        (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    writers = {name: _Writer(folder / f"{name}.bin", tokenizer) for name in ("train", "validation")}
    for part, named in files.items():
        for document, held_out in _documents(named, config):
            writers["validation" if held_out else part].add(document)
    for writer in writers.values():
        writer.flush()
    if not config.validation and not writers["validation"].count:
        writers["train"].move_end(writers["validation"], config.validation_share)
    facts = {
        "vocabulary": tokenizer.vocabulary,
        "files": {name: writer.facts() for name, writer in writers.items() if writer.count},
        "sources": {name: _checksum(path) for named in files.values() for name, path in named},
    }
    (folder / "tokens.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _documents(files: list[tuple[str, Path]], config: DataConfig) -> Iterator[tuple[str, bool]]:
    """The documents of files, each with whether it is held out for validation: every so many-th."""
    share = 0.0 if config.validation else config.validation_share
    every = round(1 / share) if share else 0
    number = 0
    for name, path in files:
        named = name in config.sources or name in config.validation  # else found in a folder
        for document in read_documents(path, blank_is_fine=not named):
            number += 1
            yield document, bool(every) and number % every == 0


class _Writer:
    """Tokenizes documents, many at a time, to the end of a file."""

    _CHARACTERS = 1 << 24  # tokenized at once: byte pairs are found in parallel

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        self.path, self.tokenizer = path, tokenizer
        self.type = np.dtype("<u2" if tokenizer.vocabulary <= 1 << 16 else "<u4")
        self.count = self.bytes = self._characters = 0
        self._waiting: list[str] = []

    def add(self, document: str) -> None:
        self._waiting.append(document)
        self._characters += len(document)
        if self._characters > self._CHARACTERS:
            self.flush()

    def flush(self) -> None:
        with self.path.open("ab") as file:
            for text, tokens in zip(self._waiting, self.tokenizer.encode(self._waiting), strict=True):
                file.write(np.append(tokens, [self.tokenizer.end]).astype(self.type).tobytes())
                self.count += len(tokens) + 1
                self.bytes += len(text.encode())
        self._waiting, self._characters = [], 0

    def move_end(self, other: "_Writer", share: float) -> None:
        """Move the last `share` of the tokens to the other, empty, file."""
        moved = round(share * self.count)
        left = self.count - moved
        other.path.write_bytes(np.fromfile(self.path, self.type, offset=left * self.type.itemsize).tobytes())
        with self.path.open("r+b") as file:
            file.truncate(left * self.type.itemsize)
        other.bytes = round(self.bytes * moved / self.count)
        self.bytes -= other.bytes
        self.count, other.count = left, moved

    def facts(self) -> dict[str, object]:
        return {
            "count": self.count,
            "bytes": self.bytes,
            "type": self.type.str,
            "checksum": _checksum(self.path),
        }


def _checksum(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read_facts(folder: Path) -> dict:
    path = folder / "tokens.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); remove the folder and tokenize anew") from error


def _open_part(folder: Path, name: str, facts: dict) -> TokenFile:
    path = folder / f"{name}.bin"
    if _checksum(path) != facts["checksum"]:
        raise InputError(
            f"{path}: has changed since it was written (another checksum); remove {folder} and tokenize anew"
        )
    return TokenFile(path, np.memmap(path, np.dtype(facts["type"]), mode="r"), facts["checksum"])
