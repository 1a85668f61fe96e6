"""Text into a folder of tokens, once for each text: tokenized, split, written whole or not at all."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.moe.data.text_files import read_documents, refuse_records, refuse_repeated, text_files
from pauca.moe.data.token_files import TokenData, checksum_of
from pauca.moe.data.tokenizers import BpeTokenizer, ByteTokenizer, Tokenizer


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
        for name in ("sources", "validation"):
            if isinstance(value := getattr(self, name), str):  # whose letters would be taken for names
                raise ConfigError(f"{name} must be a tuple of names, such as ({value!r},), got {value!r}")
        if not 0 <= self.validation_share <= 0.5:
            raise ConfigError(f"validation_share {self.validation_share}: give a share from 0 to 0.5")
        if self.vocabulary < 256:
            raise ConfigError(f"vocabulary {self.vocabulary}: 256 (bytes) is the smallest")


def prepare_tokens(config: DataConfig, cache: str | Path) -> TokenData:
    """Tokenize text into a folder below `cache`, named after what is in the text, or open the one that is there.

    Where the only source is itself a folder of tokens, that one is opened and nothing is written.

    Raises:
        InputError: a source is missing, empty, damaged, not UTF-8 or named twice; a token file has changed since it was
            written.
        ConfigError: text to validate on beside a folder of tokens.
        PaucaError: the disk is full.
    """
    if len(config.sources) == 1 and (Path(config.sources[0]) / "tokens.json").exists():
        if config.validation:
            raise ConfigError(
                f"{config.sources[0]}: a folder of tokens has its own to validate on, and takes no other text "
                f"({config.validation[0]}); leave that out, or give the text that the tokens were made of. To go on "
                "with a run that began so, make it `validation: []` in its config.yaml"
            )
        return TokenData.open(Path(config.sources[0]))
    files = {"train": text_files(config.sources)}
    if config.validation:
        files["validation"] = text_files(config.validation)
    checksums = {part: [checksum_of(path) for _, path in named] for part, named in files.items()}
    content = json.dumps([checksums, config.validation_share, config.vocabulary])
    folder = Path(cache) / hashlib.sha256(content.encode()).hexdigest()[:16]
    _refuse_texts(config, files, folder)
    if not folder.exists():
        _make_folder(config, files, folder)
    names = [name for named in files.values() for name, _ in named]
    together = [checksum for of_part in checksums.values() for checksum in of_part]
    return replace(TokenData.open(folder), sources=dict(zip(names, together, strict=True)))


def _refuse_texts(config: DataConfig, files: dict[str, list[tuple[str, Path]]], folder: Path) -> None:
    """Refuse texts that are none, or one twice; with a way on where their tokens were made before that was refused."""
    named = set(map(Path, (*config.sources, *config.validation)))
    try:
        for _, path in (one for part in files.values() for one in part):
            if path in named:
                refuse_records(path)
        if config.sources:  # the standard library may hold links
            refuse_repeated(*([path for _, path in files.get(part, [])] for part in ("train", "validation")))
    except InputError as error:
        if not folder.exists():
            raise
        raise InputError(
            f"{error}. To go on with a run that began so, make it `sources: [{folder}]` and `validation: []` in its "
            "config.yaml: its tokens are there"
        ) from error


def _make_folder(config: DataConfig, files: dict[str, list[tuple[str, Path]]], folder: Path) -> None:
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        _write_tokens(config, files, temporary)
        if not folder.exists():  # another run has made it meanwhile
            temporary.rename(folder)
    except OSError as error:
        raise PaucaError(
            f"{folder}: could not be written ({error.strerror or error}); free space there, or choose another --out "
            "(in Python cache)"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_tokens(config: DataConfig, files: dict[str, list[tuple[str, Path]]], folder: Path) -> None:
    for part, named in files.items():
        if next(_pieces(named, config), None) is None:
            sources = config.validation if part == "validation" else config.sources
            raise InputError(f"{', '.join(sources)}: there is no text in there; all files are blank")
    tokenizer: Tokenizer = ByteTokenizer()
    if config.vocabulary > 256:
        pieces = (piece.text for piece in _pieces(files["train"], config) if not piece.held_out)
        tokenizer = BpeTokenizer.train(pieces, config.vocabulary)
        (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    writers = {name: _Writer(folder / f"{name}.bin", tokenizer) for name in ("train", "validation")}
    for part, named in files.items():
        for piece in _pieces(named, config):
            writers["validation" if piece.held_out else part].add(piece)
    for writer in writers.values():
        writer.flush()
    if not config.validation and not writers["validation"].count:
        writers["train"].move_end(writers["validation"], config.validation_share)
    facts = {
        "vocabulary": tokenizer.vocabulary,
        "files": {name: writer.facts() for name, writer in writers.items() if writer.count},
        "sources": {name: checksum_of(path) for named in files.values() for name, path in named},
    }
    (folder / "tokens.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


class _Piece(NamedTuple):
    """A document, or a part of a long one."""

    text: str
    ends: bool  # its document
    held_out: bool  # for validation


def _pieces(files: list[tuple[str, Path]], config: DataConfig) -> Iterator[_Piece]:
    """The documents of files, of which every so many-th is held out."""
    share = 0.0 if config.validation else config.validation_share
    every = round(1 / share) if share else 0
    number = 0
    for name, path in files:
        named = name in config.sources or name in config.validation  # else found in a folder
        for text, ends in read_documents(path, blank_is_fine=not named):
            yield _Piece(text, ends, bool(every) and (number + 1) % every == 0)
            number += ends


class _Writer:
    """Tokenizes documents, many at a time, to the end of a file."""

    _CHARACTERS = 1 << 24  # tokenized at once: byte pairs are found in parallel

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        self.path, self.tokenizer = path, tokenizer
        self.type = np.dtype("<u2" if tokenizer.vocabulary <= 1 << 16 else "<u4")
        self.count = self.bytes = self._characters = 0
        self._waiting: list[_Piece] = []

    def add(self, piece: _Piece) -> None:
        self._waiting.append(piece)
        self._characters += len(piece.text)
        if self._characters > self._CHARACTERS:
            self.flush()

    def flush(self) -> None:
        with self.path.open("ab") as file:
            found = self.tokenizer.encode([piece.text for piece in self._waiting])
            for piece, tokens in zip(self._waiting, found, strict=True):
                ended = np.append(tokens, [self.tokenizer.end] * piece.ends).astype(self.type)
                file.write(ended.tobytes())
                self.count += len(ended)
                self.bytes += len(piece.text.encode())
        self._waiting, self._characters = [], 0

    def move_end(self, other: "_Writer", share: float) -> None:
        """Move the last `share` of the tokens to the other, empty, file."""
        moved = round(share * self.count)
        left = self.count - moved
        with self.path.open("r+b") as file:
            file.seek(left * self.type.itemsize)
            with other.path.open("wb") as target:
                shutil.copyfileobj(file, target)
            file.truncate(left * self.type.itemsize)
        other.bytes = round(self.bytes * moved / self.count)
        self.bytes -= other.bytes
        self.count, other.count = left, moved

    def facts(self) -> dict[str, object]:
        return {
            "count": self.count,
            "bytes": self.bytes,
            "type": self.type.str,
            "checksum": checksum_of(self.path),
        }
