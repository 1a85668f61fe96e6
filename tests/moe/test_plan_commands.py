import json

import pytest

from pauca import cli

SMALL = ["moe", "plan", "--model", "mixtral-8x7b", "--gpus", "16", "--pp", "2", "--ep", "8"]


def test_plan_is_a_table_for_people_and_a_chart(tmp_path, capsys):
    chart = tmp_path / "plan.png"
    assert cli.main([*SMALL, "--out", str(chart)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mixtral-8x7b: 46.7 B parameters, 12.9 B active"
    assert max(map(len, lines)) <= 100
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert cli.main([*SMALL, "--out", str(chart)]) != 0  # not replaced unasked
    assert "--force" in capsys.readouterr().err


def test_plan_in_json_obeys_the_assumptions(capsys):
    assert cli.main([*SMALL, "--json", "--optimizer-bytes", "8", "--reserved-gb", "0"]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert set(plans) == {"bf16", "fp8", "fp4"}
    assert plans["fp4"]["memory"]["reserved"] == 0
    assert plans["fp4"]["way"]["layout"] == {"gpus": 16, "pp": 2, "ep": 8}
    assert cli.main([*SMALL, "--json", "--reserved-gb", "0"]) == 0
    usual = json.loads(capsys.readouterr().out)
    assert usual["fp4"]["memory"]["optimizer"] == pytest.approx(1.5 * plans["fp4"]["memory"]["optimizer"], rel=1e-6)


def test_a_size_of_the_library_can_be_planned(capsys):
    assert cli.main(["moe", "plan", "--model", "toy", "--gpus", "1", "--tokens", "512"]) == 0
    assert "toy: 0.3 M parameters" in capsys.readouterr().out


def test_the_model_of_a_training_can_be_planned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("".join(f"{number} plus {number} is {2 * number}. " for number in range(400)))
    train = ["moe", "train", "--data", "text.txt", "--out", "mine", "--context", "32", "--batch-size", "1"]
    assert cli.main([*train, "--steps", "1", "--device", "cpu", "--quiet"]) == 0
    capsys.readouterr()
    for model in ("mine/config.yaml", "mine"):
        assert cli.main(["moe", "plan", "--model", model, "--gpus", "1", "--tokens", "512"]) == 0
        assert capsys.readouterr().out.startswith("mine: 0.3 M parameters")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--model", "gpt"], 2, "unknown model 'gpt'"),
        (["--model", "mixtral-8x7b", "--memory", "lots"], 2, "memory must be a size"),
        (["--model", "mixtral-8x7b", "--pp", "3"], 2, "PP 3 does not divide the 8 GPUs"),
        (["--model", "mixtral-8x7b", "--gpus", "1"], 1, "does not fit 1 GPU(s) of 80 GB"),
        (["--model", "mixtral-8x7b", "--out", "plan.txt"], 2, "pictures are written as"),
        (
            ["--model", "mixtral-8x7b", "--tokens", "2048", "--context", "4096"],
            2,
            "no whole number of sequences of 4,096",
        ),
        (["--model", "mixtral-8x7b", "--context", "65536"], 2, "longer than the 32,768 tokens that mixtral-8x7b has"),
        (["--model", "mixtral-8x7b", "--imbalance", "0.5"], 2, "imbalance must be at least 1, got 0.5"),
    ],
)
def test_what_cannot_be_planned_is_one_line(capsys, words, code, message):
    assert cli.main(["moe", "plan", *words]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
