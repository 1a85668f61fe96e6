import json
import re

import pytest

from pauca import cli
from pauca.moe import Recipe, kept_bytes


def test_kept_is_a_table_for_people(capsys):
    assert cli.main(["moe", "kept"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["recipe", "none", "activation", "experts"]
    # KiB a token at DeepSeek-V3's shape: see docs/moe/measured.md, where 29.4 are allocated with FC2's input.
    assert [line.split()[:2] for line in lines[-2:]] == [["fp4", "20.8"], ["paper", "29.3"]]


def test_kept_in_bytes_is_what_the_library_says(capsys):
    sizes = {"hidden": 2048, "width": 1408, "experts": 64, "top_k": 6, "tokens": 4096}
    words = [word for name, size in sizes.items() for word in (f"--{name.replace('_', '-')}", str(size))]
    assert cli.main(["moe", "kept", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fp8"]["activation"] == kept_bytes(Recipe.fp8(), "activation", **sizes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hidden", "100"], "hidden must be a multiple of"),
        (["--width", "0"], "width must be a multiple of"),
        (["--tokens", "0"], "tokens 0, top_k 8 and experts 8 must be at least one"),
    ],
)
def test_impossible_sizes_are_one_line(capsys, words, message):
    assert cli.main(["moe", "kept", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("verb", ["kept", "plan", "train", "sample"])
def test_the_help_of_an_option_can_be_understood_alone(verb, capsys):
    assert cli.main(["moe", verb, "--help"]) == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    options = re.split(r" --?[a-z][a-z0-9-]* ", words)[2:]
    assert len(options) >= 6
    for text in options:
        text = re.sub(r"^(\[?(INT|FLOAT|STR|PATH)\b[^ ]*( \[STR \.\.\.\]\])? |\{\S+\} )", "", text)
        assert not re.match(r"(of|likewise|also|that|this|how many there)\b", text, re.IGNORECASE), text
        assert len(text.split()) > 3, text
