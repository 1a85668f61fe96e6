"""`pauca moe train` and `pauca moe sample`, as they are typed."""

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from pauca.cli import main
from pauca.moe import MoELM
from pauca.moe.training.trainer import Trainer, TrainStep
from pauca.runs import lock_folder

SMALL = "--recipe bf16 --context 32 --batch-size 4 --steps 4 --validate-every 2 --checkpoint-every 2 --log-every 1"


@pytest.fixture
def text(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{number} plus {number} is {2 * number}. " for number in range(400)))
    return path


def pauca(words: str) -> int:
    return main(["moe", *words.split(), "--device", "cpu"])


def said(capsys) -> str:
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_a_run_folder_holds_everything(text, capsys):
    assert pauca(f"train --data {text} {SMALL}") == 0
    run = Path("runs/moe/toy-bf16")
    assert "report: runs/moe/toy-bf16/report.html" in capsys.readouterr().out
    page = (run / "report.html").read_text()
    assert page.count("<img") == 3
    assert "text.txt" in page
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["data"]["sources"] == [str(text)]
    assert settings["model"]["recipe"]["precision"] == "bf16"
    assert settings["model"]["context"] == 32
    assert settings["train"]["steps"] == 4
    assert json.loads((run / "sources.json").read_text()).keys() == {str(text)}
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "best.safetensors",
        "step-00000002",
        "step-00000004",
    ]


@pytest.mark.parametrize("config", ["runs/moe/toy-bf16/config.yaml", "runs/moe/toy-bf16"])
def test_a_config_repeats_a_run(text, config):
    assert pauca(f"train --data {text} {SMALL} --quiet") == 0
    assert main(["moe", "train", "--config", config, "--out", "runs/moe/again", "--quiet"]) == 0
    weights = [Path(f"runs/moe/{name}/checkpoints/best.safetensors").read_bytes() for name in ("toy-bf16", "again")]
    assert weights[0] == weights[1]
    assert len(list(Path("runs/moe/tokens").iterdir())) == 1


def test_a_config_refuses_what_it_would_not_obey(text, capsys):
    assert pauca(f"train --data {text} {SMALL} --quiet") == 0
    again = "train --config runs/moe/toy-bf16/config.yaml --out runs/moe/again --quiet"
    assert pauca(f"{again} --steps 5") == 2
    assert "toy-bf16/config.yaml: the run was started with steps 4, not 5; leave the option out" in said(capsys)
    assert pauca(f"{again} --steps 4") == 0


def test_a_run_is_neither_overwritten_nor_mixed_up(text, capsys):
    assert pauca(f"train --data {text} {SMALL} --quiet") == 0
    assert pauca(f"train --data {text} {SMALL} --quiet") == 2
    assert "holds a run already; continue it with --resume" in said(capsys)
    assert pauca(f"train --data {text} {SMALL} --quiet --resume --learning-rate 1") == 2
    assert "started with learning_rate 0.003, not 1.0; leave the option out" in said(capsys)
    assert pauca(f"train --data {text} {SMALL} --quiet --resume") == 0
    text.write_text("Something else. " * 100)
    assert pauca(f"train --data {text} {SMALL} --quiet --resume") == 2
    assert "text.txt: has changed since the run began" in said(capsys)
    assert pauca(f"train --data {text} {SMALL} --quiet --force") == 0
    assert pauca("train --resume --out elsewhere") == 2
    assert "elsewhere: holds no run to go on with" in said(capsys)


def test_a_run_goes_on_with_other_settings_that_decide_nothing_that_is_learned(text, capsys):
    config = Path("runs/moe/toy-bf16/config.yaml")
    assert pauca(f"train --data {text} {SMALL} --quiet") == 0
    before = config.read_text()
    again = f"train --data {text} {SMALL} --quiet --resume"
    anew = "--no-graph --no-shard --gather bf16 --log-every 2 --recompute experts --recompute-attention"
    assert pauca(f"{again} {anew}") == 0
    assert config.read_text() == before
    for form in ("    graph: true\n", "    gather: fp32\n"):  # a run from before there were these settings
        assert form[2:] in before
        config.write_text(before.replace(form[2:], ""))
        assert pauca(f"{again} {anew}") == 0
    assert pauca(f"{again} --passes 2") == 2
    assert "started with passes 1, not 2" in said(capsys)


def test_a_size_and_a_recipe_are_compared_with_a_run_even_where_they_are_the_defaults(text, capsys):
    assert pauca(f"train --data {text} {SMALL} --quiet") == 0
    again = "train --out runs/moe/toy-bf16 --resume --quiet"
    assert pauca(f"{again} --recipe fp4") == 2
    assert "started with precision bf16, not fp4" in said(capsys)
    config = Path("runs/moe/toy-bf16/config.yaml")
    assert pauca(f"{again} --size toy --recipe bf16") == 0  # its context is another than the size's
    config.write_text(config.read_text().replace("  experts: 8\n", "  experts: 4\n"))
    assert pauca(f"{again} --size toy") == 2
    assert "started with experts 4, not 8" in said(capsys)


def test_a_vocabulary_that_was_learned_may_be_asked_for_again(text, capsys):
    pytest.importorskip("tokenizers")
    words = f"train --data {text} {SMALL} --quiet --vocabulary 300"
    assert pauca(words) == 0
    assert pauca(f"{words} --resume") == 0
    assert pauca(f"{words.replace('300', '256')} --resume") == 2
    assert "started with vocabulary 300, not 256" in said(capsys)


def test_texts_are_named_after_one_option(text, capsys):
    """The last --data replaced those before it."""
    assert pauca(f"train --data {text} --data other.txt {SMALL}") == 2
    assert "--data is given more than once; name all of its values after one --data" in said(capsys)


def test_a_text_of_fewer_tokens_than_asked_for_is_told(text, capsys):
    assert pauca(f"train --data {text} {SMALL} --steps 1 --vocabulary 5000") == 0
    assert " different tokens, where 5,000 were asked for" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--vocabulary 300", "of a vocabulary of 256, and divided; leave --vocabulary out"),
        ("--validation-share 0.05", "leave --validation-share out"),
        ("--validation text.txt", "has its own to validate on, and takes no other text (text.txt)"),
    ],
)
def test_tokens_that_are_made_refuse_what_would_make_others(text, capsys, options, message):
    """They were passed over without a word."""
    assert pauca(f"train --data {text} {SMALL} --steps 1 --quiet") == 0
    (tokens,) = Path("runs/moe/tokens").iterdir()
    assert pauca(f"train --data {tokens} {SMALL} --out runs/moe/other --quiet {options}") == 2
    assert message in said(capsys)
    assert not Path("runs/moe/other").exists()
    config = Path("runs/moe/toy-bf16/config.yaml")  # of a run that began so
    written = config.read_text().replace("- text.txt", f"- {tokens}").replace(f"- {text}", f"- {tokens}")
    config.write_text(written.replace("validation: []", "validation: [text.txt]"))
    assert pauca(f"train --resume --steps 1 --quiet --out {config.parent}") == 2
    assert "To go on with a run that began so, make it `validation: []` in its config.yaml" in said(capsys)
    config.write_text(written)
    assert pauca(f"train --resume --steps 1 --quiet --out {config.parent}") == 0
    assert pauca(f"train --data {tokens} {SMALL} --steps 1 --out runs/moe/other --quiet --vocabulary 256") == 0


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ("--data a.jsonl", "holds JSON lines"),
        ("--data text.txt text.txt", "is named twice for training"),
        ("--data . --validation text.txt", "is text to train on and to validate on"),
    ],
)
def test_a_run_of_text_that_is_refused_now_says_how_to_go_on(text, capsys, monkeypatch, options, refusal):
    """It was refused as a new one is, though its options cannot be changed."""
    Path("a.jsonl").write_text('{"text": "hello"}\n' * 400)
    with monkeypatch.context() as patch:
        for check in ("refuse_records", "refuse_repeated"):
            patch.setattr(f"pauca.moe.data.prepare.{check}", lambda *_: None)  # as it was
        assert pauca(f"train {options} {SMALL} --out old --quiet") == 0
    assert pauca("train --out old --resume --quiet") == 2
    told = said(capsys)
    assert refusal in told
    (tokens,) = Path("tokens").iterdir()
    assert f"To go on with a run that began so, make it `sources: [{tokens}]` and `validation: []` in its " in told
    path = Path("old/config.yaml")
    config = yaml.safe_load(path.read_text())
    config["data"] |= {"sources": [str(tokens)], "validation": []}
    path.write_text(yaml.safe_dump(config))
    Path("old/metrics.jsonl").write_text("")
    shutil.rmtree("old/checkpoints/step-00000004")
    assert pauca("train --out old --resume --quiet") == 0
    assert "validation_loss" in Path("old/metrics.jsonl").read_text()


def test_refused_settings_leave_nothing_and_cost_no_earlier_run(text, capsys):
    assert pauca(f"train --data {text} {SMALL} --quiet") == 0
    before = {path: path.read_bytes() for path in Path("runs/moe/toy-bf16").rglob("*") if path.is_file()}
    for wrong, message in (
        ("--context 0", "context of a model must be positive, got 0"),
        ("--vocabulary 0", "vocabulary 0: 256 (bytes) is the smallest"),
        ("--context 100000", "too few for one context of 100000"),
        ("--validation none.txt", "none.txt: no such file"),
        ("--steps 0", "steps of training must be at least 1"),
        ("--context 32 --batch-size 3 --passes 2", "cannot be shared evenly"),
        ("--minutes 0", "minutes 0.0: give a time above 0"),
    ):
        assert pauca(f"train --data {text} {SMALL} {wrong} --quiet --force") == 2, wrong
        assert message in capsys.readouterr().err
        assert {path: path.read_bytes() for path in Path("runs/moe/toy-bf16").rglob("*") if path.is_file()} == before
    assert pauca("train --data none.txt --out runs/moe/new") == 2
    assert pauca(f"train --data {text} {SMALL} --out runs/moe/new --minutes 0") == 2
    assert not Path("runs/moe/new").exists()


def test_a_file_is_no_run_folder(text, capsys):
    assert pauca(f"train --data {text} {SMALL} --quiet --out {text}") == 2
    assert "text.txt: is a file, but a run is a folder; choose another name" in said(capsys)


def test_a_divergence_ends_with_1_and_a_report(text, capsys):
    wild = "--steps 30 --learning-rate 1000 --clip 1e9 --warmup 0 --batch-size 4 --context 32 --log-every 1"
    assert pauca(f"train --data {text} --recipe bf16 {wild} --quiet") == 1
    message = said(capsys)
    assert "checkpoint" in message
    assert "loss" in message
    assert "The training stopped before its end: step " in Path("runs/moe/toy-bf16/report.html").read_text()


def test_an_interrupted_training_says_what_is_left(text, capsys, monkeypatch):
    def interrupted(self: Trainer) -> TrainStep:
        if self.steps_done == 3:
            raise KeyboardInterrupt
        return take(self)

    take = Trainer.step
    monkeypatch.setattr(Trainer, "step", interrupted)
    assert pauca(f"train --data {text} {SMALL} --quiet") == 130
    left = "interrupted; the last good checkpoint is runs/moe/toy-bf16/checkpoints/step-00000002"
    assert said(capsys) == f"pauca: {left}\n"
    assert left in Path("runs/moe/toy-bf16/report.html").read_text()


def test_a_few_bits_run_reports_what_its_formats_lose(text):
    assert pauca(f"train --data {text} {SMALL.replace('bf16', 'fp4')} --steps 1 --kept-z fp8 --quiet") == 0
    page = Path("runs/moe/toy-fp4/report.html").read_text()
    assert "What the formats lose" in page
    assert page.count("<img") == 4


def test_samples_go_on_from_the_prompt_and_repeat(text, capsys):
    assert pauca(f"train --data {text} {SMALL} --vocabulary 300 --quiet") == 0
    assert Path("runs/moe/toy-bf16/tokenizer.json").exists()
    capsys.readouterr()
    outputs = []
    for options in ("", "", "--seed 1", "--temperature 0 --top-k 3"):
        assert (
            main(["moe", "sample", "runs/moe/toy-bf16", "--prompt", "7 plus ", "--count", "8", *options.split()]) == 0
        )
        outputs.append(capsys.readouterr().out)
    assert all(output.startswith("7 plus ") for output in outputs)
    assert outputs[0] == outputs[1]
    assert outputs[0] != outputs[2]
    assert main(["moe", "sample", "runs/moe/toy-bf16"]) == 0
    assert main(["moe", "sample", "runs/moe/toy-bf16", "--prompt", "7 \udcff"]) == 2
    assert "the prompt is not UTF-8 from character 3 on" in capsys.readouterr().err
    pairs = Path("runs/moe/toy-bf16/tokenizer.json")
    assert pauca(f"train --data {text} {SMALL} --steps 1 --out runs/moe/bytes --quiet") == 0
    shutil.copy(pairs, "runs/moe/bytes")
    assert main(["moe", "sample", "runs/moe/bytes", "--count", "1"]) == 2
    assert "runs/moe/bytes: the tokenizer knows tokens that its model does not" in capsys.readouterr().err
    pairs.unlink()  # which leaves bytes
    capsys.readouterr()
    assert main(["moe", "sample", "runs/moe/toy-bf16", "--temperature", "10"]) == 2
    assert "runs/moe/toy-bf16: the model knows tokens that its tokenizer does not" in said(capsys)


def test_a_sample_ends_with_its_document(text, capsys, monkeypatch):
    assert pauca(f"train --data {text} {SMALL} --quiet") == 0
    capsys.readouterr()
    going_on = torch.tensor([[*b"7 plus 7", 0, *b"another document"]])
    monkeypatch.setattr(MoELM, "generate", lambda *_, **__: going_on)
    assert pauca("sample runs/moe/toy-bf16 --prompt 7") == 0
    assert capsys.readouterr().out == "7 plus 7\n"


def test_samples_need_a_trained_model_and_room(text, capsys):
    assert pauca("sample runs/moe/none") == 2
    assert "runs/moe/none: holds no trained model" in said(capsys)
    assert pauca(f"train --data {text} {SMALL} --quiet") == 0
    assert pauca("sample runs/moe/toy-bf16 --count 100") == 2
    assert "the model's context holds 32" in said(capsys)


def test_a_folder_in_which_another_process_trains_is_refused(text, capsys):
    assert pauca(f"train --data {text} {SMALL} --quiet") == 0
    locked, done = multiprocessing.Event(), multiprocessing.Event()

    def hold() -> None:
        with lock_folder(Path("runs/moe/toy-bf16")):
            locked.set()
            done.wait(60)

    other = multiprocessing.get_context("fork").Process(target=hold)
    other.start()
    assert locked.wait(60)
    for how in ("--resume", "--force"):
        assert pauca(f"train --data {text} {SMALL} --quiet {how}") == 2
        assert f"runs/moe/toy-bf16: process {other.pid} on " in said(capsys)
    done.set()
    other.join()
    assert pauca(f"train --data {text} {SMALL} --quiet --resume") == 0
