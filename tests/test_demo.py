import pytest

from pauca import cli, demo
from pauca.systems import System


def test_a_system_that_is_not_installed_is_said_to_be_so(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "SYSTEMS", {"no_such": System("", "pauca[moe]")})
    page = demo.run_demo(tmp_path, quiet=True).read_text()
    assert "pip install &#x27;pauca[moe]&#x27;" in page


def test_a_file_in_the_place_of_its_folder_is_said_before_the_work(tmp_path, capsys):
    (tmp_path / "demo").write_text("")
    assert cli.main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert "is a file and not a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_ends_with_the_path_of_its_report(tmp_path, capsys):
    assert cli.main(["demo", "--out", str(tmp_path / "demo"), "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {tmp_path / 'demo' / 'report.html'}"
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "Few events" in page
    assert page.count("data:image/png;base64,") >= 2
