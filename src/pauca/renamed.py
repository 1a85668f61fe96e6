"""Fields of config classes that had another name in an earlier version: both names work for one version.

`@formerly(normalise="normalize")` above a dataclass lets it be built by the old name and read by it, with a
`DeprecationWarning`. Stored configs, checkpoints and flags of the command line that use old names are read as well.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

Kind = TypeVar("Kind", bound=type)

_FIELDS: dict[type, dict[str, str]] = {}


def formerly(**new_names: str) -> Callable[[Kind], Kind]:
    """Let a dataclass know its fields by their old names too, each given with the new one."""

    def decorate(kind: Kind) -> Kind:
        build = kind.__init__

        @wraps(build)
        def init(self: Any, *values: Any, **named: Any) -> None:
            for old in new_names.keys() & named.keys():
                _warn(kind, old, new_names[old])
            build(self, *values, **with_new_names(kind, named))

        _FIELDS[kind] = new_names
        kind.__init__ = init
        for old, new in new_names.items():
            setattr(kind, old, property(_reader(kind, old, new)))
        return kind

    return decorate


def renamed_kinds() -> list[type]:
    """The classes that have fields with old names."""
    return list(_FIELDS)


def with_new_names(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a class's fields by today's names; a value by an old name counts more (as in `replace`)."""
    new_names = _FIELDS.get(kind, {})
    old = {new_names[name]: value for name, value in values.items() if name in new_names}
    return {name: value for name, value in values.items() if name not in new_names} | old


def text_with_new_names(text: str) -> str:
    """What a checkpoint notes about its settings (dictionaries as Python prints them), by today's names."""
    for old, new in _all().items():
        text = text.replace(f"'{old}': ", f"'{new}': ")
    return text


def flag_with_new_name(word: str) -> str:
    """A word of the command line, where it is the flag of a renamed field, by today's name."""
    match = re.fullmatch(r"--(no-)?([\w-]+)(=.*)?", word, re.DOTALL)
    new = _all().get(match[2].replace("-", "_")) if match else None
    return word if not match or not new else f"--{match[1] or ''}{new.replace('_', '-')}{match[3] or ''}"


def _all() -> dict[str, str]:
    return {old: new for new_names in _FIELDS.values() for old, new in new_names.items()}


def _reader(kind: type, old: str, new: str) -> Callable[[Any], Any]:
    def read(self: Any) -> Any:
        _warn(kind, old, new)
        return getattr(self, new)

    return read


def _warn(kind: type, old: str, new: str) -> None:
    message = f"{kind.__name__}.{old} is now {kind.__name__}.{new}; the old name goes with version 0.3"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
