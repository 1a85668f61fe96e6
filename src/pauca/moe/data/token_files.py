"""Text as tokens: bytes or byte pairs, kept in memory-mapped files, drawn as batches that depend on (seed, step) alone.

A folder of tokens holds `train.bin` and `validation.bin` (little-endian integers and nothing else), `tokens.json` (how
many, of what, with checksums of the sources and of the files) and, for byte pairs, `tokenizer.json`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt
from torch import Tensor

from pauca.errors import InputError
from pauca.moe.data.tokenizers import Tokenizer, load_tokenizer
from pauca.runs import sha256_of


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
    def open(cls, folder: str | Path) -> "TokenData":
        """Open a folder that `prepare_tokens` made.

        Raises:
            InputError: a file is missing, or differs from what was written.
        """
        folder = Path(folder)
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


def checksum_of(path: Path) -> str:
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
    if not path.exists():
        raise InputError(f"{path}: is missing; remove {folder} and tokenize anew")
    if checksum_of(path) != facts["checksum"]:
        raise InputError(
            f"{path}: has changed since it was written (another checksum); remove {folder} and tokenize anew"
        )
    return TokenFile(path, np.memmap(path, np.dtype(facts["type"]), mode="r"), facts["checksum"])
