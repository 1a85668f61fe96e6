from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest

from pauca.errors import ConfigError
from pauca.runs import check_obeyed, from_dict, from_yaml, to_dict, to_yaml


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ConfigError(f"rate: must not be negative, got {self.rate}")


@dataclass(frozen=True)
class Outer:
    out: Path = Path("runs")
    mode: Literal["a", "b"] = "a"
    color: Color = Color.RED
    size: tuple[int, int] = (240, 180)
    limit: float | None = None
    inner: Inner = field(default_factory=Inner)


def test_yaml_round_trip_keeps_every_type(tmp_path):
    config = Outer(Path("x/y"), "b", Color.BLUE, (3, 4), 2.5, Inner(0.25))
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert from_yaml(Outer, path) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modes": "a"}, "modes"),
        ({"mode": "c"}, 'mode.*\'c\'|"mode".*"c"'),
        ({"size": [1, 2, 3]}, "size"),
        ({"inner": {"rate": "fast"}}, r"inner\.rate.*float.*fast"),
        ({"inner": {"rate": -1.0}}, "must not be negative"),
        ({"color": "green"}, "green"),
    ],
)
def test_a_wrong_field_is_named(values, message):
    with pytest.raises(ConfigError, match=f"run.yaml: .*{message}"):
        from_dict(Outer, values, "run.yaml")


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", ""])
def test_a_file_that_is_no_config_is_named(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml: "):
        from_yaml(Outer, path)


def test_an_option_beside_a_file_must_say_what_the_file_says():
    stored, usual, where = to_dict(Outer(mode="b", inner=Inner(0.5))), to_dict(Outer()), Path("config.yaml")
    for agreeing in (Outer(), Outer(mode="b"), Outer(inner=Inner(0.5))):
        check_obeyed(stored, to_dict(agreeing), usual, where)
    with pytest.raises(ConfigError, match=r"config\.yaml: the run was started with rate 0\.5, not 0\.2; leave"):
        check_obeyed(stored, to_dict(Outer(inner=Inner(0.2))), usual, where)
