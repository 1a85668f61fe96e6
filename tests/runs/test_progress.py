from pauca.runs import Progress, progress


def test_logs_get_plain_lines_with_rate_and_remaining_time(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with Progress("align", total=4, unit="packets") as bar:
        bar.advance(1, note="0.5x")
    line = capsys.readouterr().err
    assert line.startswith("align: 1/4 packets, ")
    assert "s left 0.5x" in line
    assert "\x1b" not in line


def test_quiet_is_quiet(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with Progress("align", total=2, quiet=True) as bar:
        bar.advance(2)
    assert capsys.readouterr() == ("", "")
