"""Findings and reports in words and numbers."""

import json

import pytest

from pauca.events.io import Finding, ReadReport, Remedy
from pauca.events.recording import in_words


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (Finding(Remedy.DROPPED, "bad lines", 1, "line 7"), "dropped 1 bad lines (line 7)"),
        (Finding(Remedy.DROPPED, "bad lines", 1200, "line 7"), "dropped 1,200 bad lines (first: line 7)"),
        (Finding(Remedy.LOST, "all after damage"), "lost all after damage"),
        (Finding(Remedy.NOTED, "polarity -1/1 read as 0/1"), "polarity -1/1 read as 0/1"),
    ],
)
def test_findings_in_words(finding, words):
    assert str(finding) == words
    assert in_words([finding]) == (words,)


@pytest.mark.parametrize(
    ("remedy", "clean"),
    [(Remedy.DROPPED, False), (Remedy.LOST, False), (Remedy.REPAIRED, False), (Remedy.NOTED, True)],
)
def test_what_is_clean(remedy, clean):
    report = ReadReport("a.txt", "text", 10, 9, (Finding(remedy, "something", 1, "line 2"),))
    assert report.clean == clean
    assert report.count(remedy) == 1


def test_report_without_findings():
    report = ReadReport("a.txt", "text", 1234, 1234)
    assert report.clean
    assert report.summary() == "a.txt: 1,234 of 1,234 events (text); nothing to repair"
    assert json.loads(json.dumps(report.as_dict())) == {
        "path": "a.txt",
        "format": "text",
        "found": 1234,
        "kept": 1234,
        "findings": [],
    }
