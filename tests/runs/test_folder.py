import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import yaml

from pauca.errors import ConfigError, InputError
from pauca.runs import Run


@dataclass(frozen=True)
class Config:
    steps: int = 10
    rate: float = 0.1


def test_a_run_folder_says_how_to_repeat_it(tmp_path):
    run = Run.create(tmp_path / "first", Config(), command="pauca fewshot train")
    assert yaml.safe_load(run.config_path.read_text()) == {"steps": 10, "rate": 0.1}
    machine = json.loads((run.path / "machine.json").read_text())
    assert machine["command"] == "pauca fewshot train"
    assert machine["packages"]["numpy"] == np.__version__


def test_metrics_are_plain_json_lines(tmp_path):
    run = Run.create(tmp_path / "run", Config())
    run.log(step=1, loss=np.float32(0.5))
    run.log(step=2, loss=math.nan)
    run.log(step=3, loss=np.array([1.0, np.inf]))
    assert [(line["step"], line["loss"]) for line in run.metrics()] == [(1, 0.5), (2, "nan"), (3, [1.0, "inf"])]
    assert "NaN" not in run.metrics_path.read_text()


def test_a_damaged_line_of_metrics_is_named(tmp_path):
    run = Run.create(tmp_path / "run", Config())
    run.log(loss=1.0)
    with run.metrics_path.open("ab") as file:
        file.write(b"\0\xff\0\n")  # as a power cut leaves it
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 2 is damaged .*; remove it"):
        list(run.metrics())


def test_nothing_is_overwritten_without_force(tmp_path):
    run = Run.create(tmp_path / "run", Config())
    run.log(step=1)
    with pytest.raises(InputError, match="holds a run already; continue it with --resume"):
        Run.create(tmp_path / "run", Config())
    assert len(list(run.metrics())) == 1
    assert not list(Run.create(tmp_path / "run", Config(), force=True).metrics())


def test_force_leaves_no_checkpoint_of_the_earlier_run_to_resume_from(tmp_path):
    run = Run.create(tmp_path / "run", Config())
    (run.checkpoints / "last.safetensors").write_bytes(b"old")
    Run.create(tmp_path / "run", Config(steps=11), force=True)
    assert not [*run.checkpoints.iterdir()]


def test_a_run_that_lacks_a_new_field_goes_on_with_its_default(tmp_path):
    run = Run.create(tmp_path / "run", Config())
    run.config_path.write_text("steps: 10\n")
    Run.create(tmp_path / "run", Config(), resume=True)
    with pytest.raises(ConfigError, match=r"started with `rate: 0\.1` and is resumed with `rate: 0\.2`"):
        Run.create(tmp_path / "run", Config(rate=0.2), resume=True)


def test_resume_wants_the_same_config(tmp_path):
    Run.create(tmp_path / "run", Config()).log(step=1)
    assert len(list(Run.create(tmp_path / "run", Config(), resume=True).metrics())) == 1
    with pytest.raises(ConfigError, match="started with `steps: 10` and is resumed with `steps: 11`"):
        Run.create(tmp_path / "run", Config(steps=11), resume=True)
