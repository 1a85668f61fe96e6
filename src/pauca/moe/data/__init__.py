"""Text as tokens: tokenizers, and memory-mapped files that are drawn as batches."""

from pauca.moe.data.prepare import DataConfig, prepare_tokens
from pauca.moe.data.token_files import TokenData, TokenFile
from pauca.moe.data.tokenizers import END, BpeTokenizer, ByteTokenizer, Tokenizer, load_tokenizer

__all__ = [
    "END",
    "BpeTokenizer",
    "ByteTokenizer",
    "DataConfig",
    "TokenData",
    "TokenFile",
    "Tokenizer",
    "load_tokenizer",
    "prepare_tokens",
]
