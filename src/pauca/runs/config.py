"""Config dataclasses to YAML and back: the file, the command-line flag and the Python argument are one thing."""

from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from pauca.errors import ConfigError

Config = TypeVar("Config")


def to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as plain dicts, lists, strings and numbers."""
    return {field.name: _plain(getattr(config, field.name)) for field in fields(config)}


def to_yaml(config: Any) -> str:
    """A config dataclass as YAML text, in the order of its fields."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def from_dict(kind: type[Config], values: dict[str, Any], where: str = "config") -> Config:
    """Build the dataclass `kind` from plain values.

    Raises:
        ConfigError: an unknown or missing field or a value of the wrong type, named with its place.
    """
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind) if field.init]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ConfigError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(names)}")
    built = {name: _typed(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        return kind(**built)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error


def from_yaml(kind: type[Config], path: Path) -> Config:
    """Read the dataclass `kind` from a YAML file.

    Raises:
        ConfigError: no such file, no valid YAML, or fields that do not fit; the message names file and field.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `field: value` lines, found {type(values).__name__}")
    return from_dict(kind, values, str(path))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _typed(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _first_that_fits(arguments, value, where)
    if hint is Any:
        return value
    if origin is Literal:
        if value in arguments:
            return value
    elif hint in (NoneType, None):
        if value is None:
            return None
    elif is_dataclass(hint) and isinstance(value, dict):
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    elif origin in (tuple, list) and isinstance(value, list):
        item_hints = arguments if origin is tuple and arguments[-1:] != (...,) else arguments[:1] * len(value)
        if len(item_hints) == len(value):
            return origin(_typed(item, v, where) for item, v in zip(item_hints, value, strict=True))
    elif origin is dict and isinstance(value, dict):
        return {key: _typed(arguments[1], item, where) for key, item in value.items()}
    elif isinstance(hint, type):
        return _scalar(hint, value, where)
    raise ConfigError(f"{where}: expected {_name(hint)}, got {value!r}")


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if issubclass(hint, Enum) and value in [member.value for member in hint]:
        return hint(value)
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise ConfigError(f"{where}: expected {_name(hint)}, got {value!r}")


def _first_that_fits(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    for hint in hints:
        try:
            return _typed(hint, value, where)
        except ConfigError:
            continue
    raise ConfigError(f"{where}: expected {' or '.join(map(_name, hints))}, got {value!r}")


def _name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    return getattr(hint, "__name__", str(hint)) if not get_args(hint) else str(hint)
