"""Fields that had another name in an earlier version: given, read and stored by both names."""

import json
from dataclasses import dataclass, field, replace

import pytest

from pauca import cli
from pauca.errors import ConfigError
from pauca.fewshot.data.scan import ScanReport
from pauca.moe.layer import RouterConfig
from pauca.moe.models import LMConfig
from pauca.moe.plan import Assumptions
from pauca.renamed import flag_with_new_name, formerly, text_with_new_names
from pauca.runs import from_dict, from_yaml, to_yaml


@formerly(flavour="flavor")
@dataclass(frozen=True)
class Sweet:
    sugar: float = 1.0
    flavor: str = "mint"


@dataclass(frozen=True)
class Box:
    sweet: Sweet = field(default_factory=Sweet)
    others: tuple[Sweet, ...] = ()


def test_old_name_builds_and_reads_with_a_warning():
    with pytest.warns(DeprecationWarning, match="Sweet.flavour is now Sweet.flavor; the old name goes with"):
        sweet = Sweet(2.0, flavour="lime")  # pyright: ignore[reportCallIssue]
    assert sweet == Sweet(2.0, "lime")
    with pytest.warns(DeprecationWarning, match="flavor"):
        assert sweet.flavour == "lime"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.warns(DeprecationWarning, match="flavor"):
        assert replace(sweet, flavour="plum") == Sweet(2.0, "plum")  # pyright: ignore[reportCallIssue]


def test_stored_configs_are_read_by_old_names_wherever_they_stand(tmp_path):
    expected = Box(Sweet(flavor="lime"), (Sweet(3.0, "plum"),))
    old = to_yaml(expected).replace("flavor", "flavour")
    (tmp_path / "config.yaml").write_text(old, encoding="utf-8")
    assert from_yaml(Box, tmp_path / "config.yaml") == expected
    assert from_dict(Sweet, {"flavour": "lime"}) == expected.sweet
    with pytest.raises(ConfigError, match="flavours"):
        from_dict(Box, {"sweet": {"flavours": "lime"}})


def test_what_a_checkpoint_notes_is_compared_by_new_names():
    old = json.dumps({"model.sweet": str({"sugar": 1.0, "flavour": "the flavour"})})
    assert json.loads(text_with_new_names(old)) == {"model.sweet": "{'sugar': 1.0, 'flavor': 'the flavour'}"}


@pytest.mark.parametrize(
    ("word", "today"),
    [
        ("--flavour", "--flavor"),
        ("--flavour=a=b", "--flavor=a=b"),
        ("--no-flavour", "--no-flavor"),
        ("--flavours", "--flavours"),
        ("flavour", "flavour"),
        ("-flavour", "-flavour"),
    ],
)
def test_flags_of_the_command_line(word, today):
    assert flag_with_new_name(word) == today


def test_names_of_version_0_1():
    with pytest.warns(DeprecationWarning, match="the old name goes"):
        assert RouterConfig(normalise=False) == RouterConfig(normalize=False)  # pyright: ignore[reportCallIssue]
    with pytest.warns(DeprecationWarning, match="the old name goes"):
        assert Assumptions(optimiser_bytes=8).optimizer_bytes == 8  # pyright: ignore[reportCallIssue]
    assert not from_dict(LMConfig, {"router": {"normalise": False, "scale": 2.5}}).router.normalize
    assert isinstance(vars(ScanReport)["unlabelled"], property)


def test_plan_takes_the_old_flag(capsys):
    answers = []
    for flag in ("--optimizer-bytes=20", "--optimiser-bytes=20", "--batch-tokens=4096"):
        assert cli.main(["moe", "plan", "--model", "toy", "--gpus", "1", flag, "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1] != answers[2]
