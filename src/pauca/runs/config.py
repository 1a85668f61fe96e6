"""Config dataclasses to YAML and back: the file, the flag and the Python argument are one thing."""

from dataclasses import asdict
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import dacite
import yaml

from pauca.errors import ConfigError, PaucaError
from pauca.renamed import renamed_kinds, with_new_names
from pauca.typed import is_given

Config = TypeVar("Config")


def to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as plain dicts, lists, strings and numbers."""
    return {name: _plain(value) for name, value in asdict(config).items()}


def to_yaml(config: Any) -> str:
    """A config dataclass as YAML text, in the order of its fields."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def from_dict(kind: type[Config], values: dict[str, Any], where: str = "config") -> Config:
    """Build the dataclass `kind` from plain values, `where` naming their origin in errors.

    Raises:
        ConfigError: an unknown or missing field or a value of the wrong type, named with its place.
    """
    today = {kind: partial(_today, kind) for kind in renamed_kinds()}
    rules = dacite.Config(strict=True, cast=[Path, Enum, tuple], type_hooks=today | {float: _as_number})
    try:
        return dacite.from_dict(kind, with_new_names(kind, values), rules)  # type: ignore[type-var]
    except (dacite.DaciteError, ValueError, PaucaError) as error:
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
        raise ConfigError(f"{path}: expected lines of `field: value`, found {type(values).__name__}")
    return from_dict(kind, values, str(path))


def check_obeyed(stored: dict[str, Any], given: dict[str, Any], usual: dict[str, Any] | None, where: Path) -> None:
    """Refuse an option that is given beside a config file and that the file, which decides, says otherwise.

    Args:
        stored: what the file says, as `to_dict` gives it.
        given: what was asked for, defaults included.
        usual: the defaults: an option that has its own counts as not given, unless the command line has it. Without
            any, all counts as given.
        where: the file, for the message.

    Raises:
        ConfigError: the first such option, with both values.
    """
    for name, value in given.items():
        if isinstance(value, dict):
            check_obeyed(stored[name], value, None if usual is None else usual[name], where)
        elif value != stored[name] and (usual is None or is_given(name, value, usual[name])):
            raise ConfigError(
                f"{where}: the run was started with {name} {stored[name]}, not {value}; leave the option out, or start "
                "a new run without this file"
            )


def _today(kind: type, values: Any) -> Any:
    return with_new_names(kind, values) if isinstance(values, dict) else values


def _as_number(value: Any) -> Any:
    """1 or 0 for what an earlier version wrote as all or nothing (`true` or `false`), and is a share now."""
    return float(value) if isinstance(value, bool) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
