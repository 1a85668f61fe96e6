"""Numbers that no setting should take."""

import dataclasses
import math
import typing
from collections.abc import Collection, Sequence


def wrong_numbers(
    settings: Sequence[typing.Any], endless: Collection[tuple[str, str]] = ()
) -> list[tuple[typing.Any, str, float]]:
    """Fields of config dataclasses with a value that each must refuse: no number, negative, or infinite, but for
    `endless` (class and field by name)."""
    found = []
    for config in settings:
        kinds = typing.get_type_hints(type(config))
        for field in dataclasses.fields(config):
            kind, name = kinds[field.name], type(config).__name__
            if kind in (float, float | None):
                found += [(config, field.name, value) for value in (math.nan, -math.inf, -1.0)]
                found += [(config, field.name, math.inf)] * ((name, field.name) not in endless)
            elif kind in (int, int | None):
                found.append((config, field.name, -1))
    return found
