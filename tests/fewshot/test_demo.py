"""The demonstration runs as a whole, here with few steps, and beats guessing."""

import dataclasses

import pytest

from pauca.fewshot import demo
from pauca.runs import Report


@pytest.mark.slow
def test_demo_beats_guessing_and_fills_the_report(tmp_path, monkeypatch):
    short = dataclasses.replace(demo.TRAINING, steps=25)
    result = demo.run_demo(training=short, episodes=100)
    monkeypatch.setattr(demo, "run_demo", lambda seed, quiet: result)
    report = Report("demo")
    demo.add_to_report(report, tmp_path, seed=0, quiet=True)
    report.save(tmp_path / "report.html")
    for accuracy in (result.evaluations[5].accuracy, result.pixels[5].accuracy):
        assert accuracy.mean - accuracy.half_width > 0.2
        assert str(accuracy) in (tmp_path / "report.html").read_text()
    assert (tmp_path / "model.safetensors").exists()
