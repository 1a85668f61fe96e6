"""A setting that is one of a few values refuses another one as soon as it is given, in Python, too."""

import dataclasses
import importlib
import inspect
from copy import copy
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from pauca.choices import check_choices
from pauca.errors import ConfigError

SYSTEMS = ("events", "fewshot", "moe", "recognize")


def _settings():
    """Each field with named values of each public dataclass that has defaults for all."""
    for system in SYSTEMS:
        face = importlib.import_module(f"pauca.{system}")
        for name, kind in inspect.getmembers(face, inspect.isclass):
            if not dataclasses.is_dataclass(kind) or not name.endswith("Config"):
                continue
            if any(f.default is f.default_factory is dataclasses.MISSING for f in dataclasses.fields(kind)):
                continue
            for field, hint in get_type_hints(kind).items():
                if any(get_origin(part) is Literal for part in (hint, *get_args(hint))):
                    yield pytest.param(kind, field, id=f"{system}.{name}.{field}")


@pytest.mark.parametrize(("kind", "field"), [*_settings()])
def test_every_setting_refuses_a_word_that_is_none(kind, field):
    config = copy(kind())
    object.__setattr__(config, field, "nonsense")  # the tests' own check of types would be first in __init__
    with pytest.raises(ConfigError, match="nonsense"):
        config.__post_init__()


class _Mixed:
    plain: Literal["a", "b"]
    perhaps: Literal["a"] | None
    number: float | Literal["auto"]
    text: str | Literal["auto"]

    def __init__(self, **given: object) -> None:
        self.__dict__ |= {"plain": "a", "perhaps": None, "number": "auto", "text": "auto"} | given
        check_choices(self)


@pytest.mark.parametrize("given", [{"plain": "b"}, {"perhaps": "a"}, {"number": 0.5}, {"text": "anything"}])
def test_what_is_allowed_is_taken(given):
    assert _Mixed(**given)


@pytest.mark.parametrize("given", [{"plain": None}, {"plain": 3}, {"perhaps": "b"}, {"number": "half"}])
def test_what_is_not_allowed_is_told_with_what_is(given):
    ((name, value),) = given.items()
    with pytest.raises(ConfigError, match=f"{name} {value!r} is not known; choose '"):
        _Mixed(**given)
