import errno
import json
import select
import subprocess
import sys

import pytest

import pauca
from pauca import cli
from pauca.errors import DeviceError, InputError


def test_overview_names_every_system_and_verb(capsys):
    assert cli.main([]) == 0
    overview = capsys.readouterr().out
    for name in [*cli.SYSTEMS, *cli.COMMANDS]:
        assert f"\n  {name}" in overview


def test_a_mistyped_option_is_answered_with_options_as_they_are_typed(capsys):
    assert cli.main(["events", "align", "a.npz", "--imges", "3"]) == 2
    said = capsys.readouterr().err
    assert "Perhaps you meant: --images INT how many" in said
    assert " in pauca events align --help; --image PATH" in said
    assert cli.main(["fewshot", "train", "--epsiodes", "3"]) == 2
    assert " in pauca fewshot compare --help, in pauca fewshot eval --help" in capsys.readouterr().err
    assert cli.main(["moe", "plan", "--mdoel", "x"]) == 2
    said = capsys.readouterr().err
    assert "Missing from pauca moe plan: --model STR" in said
    assert "Unrecognized options: --mdoel x." in said


@pytest.mark.parametrize("name", ["ENOSPC", "EFBIG"])
def test_a_full_disk_is_no_unexpected_error(name, monkeypatch, capsys):
    def full(_):
        raise OSError(getattr(errno, name), "no room", "here/a.csv")

    monkeypatch.setattr(cli, "_dispatch", full)
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("pauca: here/a.csv: could not be written (no room); make room, and run it again")


def test_a_deleted_folder_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().err == "pauca: the current folder was deleted; change to another one\n"
    assert cli.main(["--version"]) == 0


def test_wrong_usage_is_2(capsys):
    assert cli.main(["nonsense"]) == 2
    assert "unknown command 'nonsense'; there are: events" in capsys.readouterr().err
    assert cli.main(["doctor", "--no-such-option"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("pauca: Unrecognized options: ")
    assert "--no-such-option. For full helptext" in said  # sentences of their own
    assert said.count("\n") == 1
    assert cli.main(["demo", "--seed", "x"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("pauca: ")
    assert "seed" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a.txt: no such file"), 2, "pauca: a.txt: no such file\n"),
        (DeviceError("needs\n  a GPU"), 2, "pauca: needs a GPU\n"),
        (ZeroDivisionError("oops"), 1, "pauca: unexpected error: ZeroDivisionError: oops (--debug shows where)\n"),
    ],
)
def test_an_error_is_one_line(monkeypatch, capsys, error, code, line):
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "COMMANDS", {"fail": fail, "doctor": cli.doctor})
    assert cli.main(["fail"]) == code
    assert capsys.readouterr().err == line
    assert cli.main(["fail", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_a_missing_extra_says_what_to_install(monkeypatch, capsys):
    def no_torch(name: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cli, "import_module", no_torch)
    assert cli.main(["fewshot", "train"]) == 1
    assert capsys.readouterr().err == (
        "pauca: `pauca fewshot` needs torch, which is not installed: pip install 'pauca[fewshot]'\n"
    )


def test_doctor_as_json(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert {"machine", "packages", "systems"} <= {check["group"] for check in checks}
    assert all(check["remedy"] for check in checks if not check["available"])


def test_a_reader_that_has_gone_is_no_error():
    """As in `pauca ... | head`."""
    command = [sys.executable, "-m", "pauca.cli", "doctor", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")


@pytest.mark.skipif(not hasattr(select, "poll"), reason="this system has no poll")
def test_another_pipe_that_breaks_is_an_error():
    lines = (
        "from pauca import cli",
        "def fail(): raise BrokenPipeError(32, 'Broken pipe')",
        "cli.COMMANDS['doctor'] = fail",
        "raise SystemExit(cli.main(['doctor']))",
    )
    found = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    assert found.returncode == 1
    assert found.stderr.startswith("pauca: unexpected error: BrokenPipeError")


def test_the_package_is_a_command_too():
    found = subprocess.run([sys.executable, "-m", "pauca", "--version"], capture_output=True, text=True, check=True)
    assert found.stdout == f"pauca {pauca.__version__}\n"
