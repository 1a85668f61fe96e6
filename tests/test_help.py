"""What `--help` says of every verb: each option in words that can be understood alone."""

import inspect
import re
from collections.abc import Iterator, Mapping
from importlib import import_module

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


def test_help_names_the_parts_that_there_are():
    text = inspect.getsource(ModelConfig)
    assert [name for name in (*BACKBONES, *BASE_LEARNERS) if name not in text] == []


def _options(documentation: str) -> dict[str, str]:
    """The arguments of a docstring, and what is said of each in one line."""
    _, _, text = documentation.partition("Args:\n")
    text = text.split("\n\n")[0]
    parts = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in parts}
