"""Tokenizers: text to integers and back, as bytes or byte pairs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt

from pauca.errors import ConfigError, InputError

END = "<|endoftext|>"
"""Ends a document: between files, and inside a file that holds several."""


@runtime_checkable
class Tokenizer(Protocol):
    """Text to integers and back."""

    vocabulary: int
    end: int
    """The token that ends a document."""

    def encode(self, documents: Sequence[str]) -> list[UInt[np.ndarray, "n"]]:
        """Tokens of each document, without the one that ends it."""
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; bytes that are no UTF-8 (a cut character) become U+FFFD."""
        ...


class ByteTokenizer:
    """The bytes of UTF-8; a document ends with byte 0, which text does not contain."""

    vocabulary = 256
    end = 0

    def encode(self, documents: Sequence[str]) -> list[UInt[np.ndarray, "n"]]:
        return [np.frombuffer(text.encode(), np.uint8) for text in documents]

    def decode(self, tokens: Iterable[int]) -> str:
        return bytes(tokens).decode(errors="replace")


class BpeTokenizer:
    """Byte pairs, merged as they were most frequent in the training text (package `tokenizers`)."""

    def __init__(self, text: str) -> None:
        """`text` is what `to_json` gave."""
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_str(text)
        self.vocabulary: int = self._tokenizer.get_vocab_size()
        end = self._tokenizer.token_to_id(END)
        if end is None:
            raise InputError(f"the tokenizer has no token {END}, which ends a document; use BpeTokenizer.train")
        self.end: int = end

    @classmethod
    def train(cls, documents: Iterable[str], vocabulary: int) -> "BpeTokenizer":
        """Learn merges until there are `vocabulary` tokens: 256 bytes, the end of a document, and pairs."""
        import tokenizers

        if vocabulary < 257:
            raise ConfigError(
                f"a byte-pair vocabulary has at least 257 tokens, got {vocabulary}; 256 means plain bytes"
            )
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[END],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(documents, trainer)
        return cls(tokenizer.to_str())

    def to_json(self) -> str:
        return self._tokenizer.to_str(pretty=True)

    def encode(self, documents: Sequence[str]) -> list[UInt[np.ndarray, "n"]]:
        return [np.array(found.ids, np.uint32) for found in self._tokenizer.encode_batch(documents)]

    def decode(self, tokens: Iterable[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a run or of a folder of tokens: byte pairs if it holds a tokenizer.json, else bytes."""
    path = Path(folder) / "tokenizer.json"
    if not path.exists():
        return ByteTokenizer()
    try:
        return BpeTokenizer(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"{path}: is not a tokenizer ({error}); restore it, or tokenize anew") from error
