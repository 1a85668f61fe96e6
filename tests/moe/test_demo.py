"""The demonstration runs as a whole, here with few steps on little text."""

import dataclasses

import pytest

from pauca.moe import demo
from pauca.moe.data.prepare import DataConfig, prepare_tokens
from pauca.runs import Report


@pytest.fixture
def data(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("few, but ripe. " * 400)
    return prepare_tokens(DataConfig(sources=(str(text),)), tmp_path / "tokens")


def test_all_recipes_learn_from_the_same_start_and_the_report_says_how_well(data, tmp_path, monkeypatch):
    model = dataclasses.replace(demo.MODEL, layers=1, context=32)
    training = dataclasses.replace(demo.TRAINING, steps=12, batch_size=2, validation_batches=1)
    result = demo.run_demo(data, model=model, training=training)
    monkeypatch.setattr(demo, "run_demo", lambda data, seed, quiet: result)
    monkeypatch.setattr(demo, "prepare_tokens", lambda config, folder: data)
    report = Report("demo")
    demo.add_to_report(report, tmp_path, seed=0, quiet=True)
    report.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for name in ("bf16", "fp8", "fp4"):
        assert result.losses[name][0] == pytest.approx(result.losses["bf16"][0], rel=0.02)
        assert result.validation[name] < result.losses[name][0] - 1
        assert f"{result.validation[name]:.4f}" in page
    assert "208.8" in page  # KiB a token of DeepSeek-V3's layer in BF16: docs/moe/measured.md, less its routing
