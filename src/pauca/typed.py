"""The options that the command at hand was given, by name: one that is given at its default is not one left out."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pauca.errors import ConfigError, InputError

_names: ContextVar[Mapping[str, int]] = ContextVar("names", default=MappingProxyType({}))  # and how many times


@contextmanager
def typed(words: Sequence[str]) -> Iterator[None]:
    """While a command with these words runs, `is_typed` knows its options."""
    flags = (re.match(r"--(?:no-)?([\w-]+)", word) for word in words)
    token = _names.set(Counter(match[1].replace("-", "_") for match in flags if match))
    try:
        yield
    finally:
        _names.reset(token)


def is_typed(name: str) -> bool:
    """Whether the command was given the option of a field of this name; never so where no command runs."""
    return name in _names.get()


def is_given(name: str, value: Any, usual: Any) -> bool:
    """Whether a field was given: on the command line, or with another value than its default."""
    return is_typed(name) or value != usual


def require_once(*names: str) -> None:
    """Refuse options of many values that are given more than once, of which the last would replace those before.

    Raises:
        InputError: the first such option.
    """
    for name in names:
        if _names.get().get(name, 0) > 1:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} is given more than once; name all of its values after one --{flag}")


def named_once(examples: Path | None, support: Path | None) -> Path:
    """The examples, which are named by their place or by `--support`.

    Raises:
        ConfigError: they are named in both ways, or in none.
    """
    if examples is not None and support is not None:
        raise ConfigError(f"{examples} --support {support}: examples are named twice; leave one out")
    if (found := examples or support) is None:
        raise ConfigError("no examples are named; give their folder")
    return found
