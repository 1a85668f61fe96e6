"""Settings that take one of a few values: another one is refused where it is given, not later or never."""

from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pauca.errors import ConfigError


def check_choices(config: Any) -> None:
    """Refuse what is none of the values that the annotations of a dataclass name.

    The command line refuses them by itself; this is for `__post_init__`, and so for Python. Of an annotation that
    allows other types too, words alone are checked.

    Raises:
        ConfigError: a field has another value; the message says which ones there are.
    """
    for name, (values, alone) in _choices(type(config)).items():
        given = getattr(config, name)
        is_plain = alone and isinstance(given, bool | int | float | None)  # a recording, say: told where it is used
        if (is_plain or isinstance(given, str)) and given not in values:
            words = " or ".join(map(repr, values))
            raise ConfigError(f"{name} {given!r} is not known; choose {words}")


@cache
def _choices(kind: type) -> dict[str, tuple[tuple[Any, ...], bool]]:
    """The values of each field that names some, and whether nothing else is allowed."""
    found = {}
    for name, hint in get_type_hints(kind).items():
        parts = (hint,) if get_origin(hint) is Literal else get_args(hint)
        named = [value for part in parts if get_origin(part) is Literal for value in get_args(part)]
        others = [part for part in parts if get_origin(part) is not Literal]
        if named and str not in others:
            nothing = [None] if type(None) in others else []
            found[name] = ((*named, *nothing), len(others) == len(nothing))
    return found
