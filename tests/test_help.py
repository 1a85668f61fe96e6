"""What `--help` says of every verb: each option in words that can be understood alone."""

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import get_type_hints

import pytest

from pauca import cli
from pauca.fewshot import BACKBONES, BASE_LEARNERS
from pauca.fewshot.network import ModelConfig
from pauca.systems import SYSTEMS


def _verbs(commands: Mapping, name: str) -> Iterator[tuple[str, object]]:
    for verb, command in commands.items():
        yield from _verbs(command, f"{name} {verb}") if isinstance(command, Mapping) else [(f"{name} {verb}", command)]


def _all_verbs() -> dict[str, object]:
    found = dict(_verbs(cli.COMMANDS, ""))
    for system in SYSTEMS:
        found |= dict(_verbs(import_module(f"pauca.{system}.commands").COMMANDS, system))
    return found


VERBS = _all_verbs()


def _is_config(annotation: object) -> bool:
    return is_dataclass(annotation) and isinstance(annotation, type)


def _configs() -> list[type]:
    """The dataclasses whose fields are options of a verb, and those within them."""
    found: dict[type, None] = {}
    waiting = [hint for function in VERBS.values() for hint in get_type_hints(function).values()]
    while waiting:
        kind = waiting.pop(0)
        if _is_config(kind) and kind not in found:
            found[kind] = None
            waiting += get_type_hints(kind).values()
    return list(found)


CONFIGS = _configs()


@pytest.mark.parametrize("name", VERBS)
def test_every_option_can_be_understood_alone(name):
    """It is there, says more than its name, ends in a full stop, and does not send the reader to another verb."""
    function = VERBS[name]
    said = _options(inspect.getdoc(function) or "")
    assert said.keys() == inspect.signature(function).parameters.keys()
    for option, words in said.items():
        assert len(words.split()) > 2, f"{option}: {words}"
        assert words.endswith("."), f"{option}: {words}"
        assert not re.search(r"\bas (for|in|of) \w+[.;,]", words), f"{option}: {words}"


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_every_field_can_be_understood_alone(kind):
    said = _fields(kind)
    shown = {field.name for field in fields(kind) if field.init and not _is_config(get_type_hints(kind)[field.name])}
    assert shown <= said.keys()
    for name in shown:
        words = said[name]
        assert len(words.split()) > 2, f"{name}: {words}"
        assert words.endswith((".", ".)")), f"{name}: {words}"
        assert not re.match(r"(Of|That) |.*\bas (for|in|of) \w+[.;,]", words), f"{name}: {words}"


def test_a_flag_that_turns_something_off_says_so():
    """The flag is all that help shows beside the words: "--no-align: align the events" says the opposite."""
    on = [(name, _options(inspect.getdoc(f) or ""), _parameters(f)) for name, f in VERBS.items()]
    on += [(kind.__name__, _fields(kind), {field.name: field.default for field in fields(kind)}) for kind in CONFIGS]
    wrong = [
        f"{place} {name}: {words[name]}"
        for place, words, defaults in on
        for name, default in defaults.items()
        if default is True and f"--no-{name.replace('_', '-')}" not in words[name]
    ]
    assert wrong == []


def _parameters(function: object) -> dict[str, object]:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def test_help_names_the_parts_that_there_are():
    text = inspect.getsource(ModelConfig)
    parts = [*BACKBONES.items(), *BASE_LEARNERS.items()]
    own = [name for name, part in parts if part.__module__.startswith("pauca.fewshot.")]
    assert len(own) > 10
    assert [name for name in own if name not in text] == []


def _fields(kind: type) -> dict[str, str]:
    """What stands under each field of a dataclass, and under those of the classes that it extends."""
    found = {}
    for base in reversed(kind.__mro__[:-1]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for node, after in itertools.pairwise(definition.body):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                found[ast.unparse(node.target)] = " ".join(str(ast.literal_eval(after.value)).split())
    return found


def _options(documentation: str) -> dict[str, str]:
    """The arguments of a docstring, and what is said of each in one line."""
    _, _, text = documentation.partition("Args:\n")
    text = text.split("\n\n")[0]
    parts = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in parts}
