"""The part of the demo: it ends with a table and a gallery."""

import pytest

from pauca.recognize import demo
from pauca.runs import Report


@pytest.mark.slow
def test_the_demo_shows_what_alignment_adds(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_CHARACTERS", 3)
    report = Report("demo")
    demo.add_to_report(report, tmp_path, seed=0, quiet=True)
    report.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "15 recordings of 3 things" in page
    assert page.count("data:image/png;base64,") == 1
