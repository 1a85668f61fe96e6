"""`pauca recognize`: folders of recordings in, names, pages and numbers out; what is wrong is one line."""

import csv
import json
import shutil

import pytest

from pauca import cli, events

from .scenes import CLASSES, recording


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two recordings of each thing to learn from, one to ask about."""
    root = tmp_path_factory.mktemp("recordings")
    for label in range(CLASSES):
        for part, numbers in (("support", range(2)), ("query", range(2, 3))):
            for number in numbers:
                events.write(root / part / f"thing {label}" / f"{number}.npz", recording(label, number))
    return root


def _run(*words) -> int:
    return cli.main(["recognize", *map(str, words)])


def test_recordings_are_named_in_a_table_and_on_a_page(folders, tmp_path, capsys):
    out = tmp_path / "names.csv"
    assert _run("predict", "--support", folders / "support", "--query", folders / "query", "--out", out) == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert len(rows) == CLASSES
    assert sum(row["file"].startswith(row["label"]) for row in rows) >= CLASSES - 1
    page = out.with_suffix(".html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "named 4 recordings" in capsys.readouterr().out
    again = "predict", "--support", folders / "support", "--query", folders / "query", "--out", out
    assert _run(*again) == 2
    assert "--force" in capsys.readouterr().err


def test_one_recording_is_named_too(folders, tmp_path):
    out = tmp_path / "names.csv"
    one = folders / "query" / "thing 1" / "2.npz"
    assert _run("predict", "--support", folders / "support", "--query", one, "--out", out, "--quiet") == 0
    assert [row["label"] for row in csv.DictReader(out.read_text().splitlines())] == ["thing 1"]


def test_recordings_that_cannot_be_used_are_told_and_the_others_named(folders, tmp_path, capsys):
    asked, out = tmp_path / "asked", tmp_path / "names.csv"
    good = events.read(folders / "query" / "thing 1" / "2.npz")
    for name, given in (("a", good.events[:0]), ("b", good.events[:30]), ("c", good.events)):
        events.write(asked / f"{name}.npz", events.Recording(given))
    (asked / "d.npz").write_bytes(b"PK nothing")
    words = "predict", "--support", folders / "support", "--out", out, "--quiet", "--query"
    assert _run(*words, asked) == 1
    told = capsys.readouterr().err.splitlines()
    for line, said in zip(told, ("a.npz: holds no", "b.npz: 30 events", "d.npz: damaged", "3 of 4"), strict=True):
        assert said in line
    assert [row["file"] for row in csv.DictReader(out.read_text().splitlines())] == ["c.npz"]
    (asked / "c.npz").unlink()
    assert _run(*words, asked, "--force") == 2
    assert "none of the 3 recordings" in capsys.readouterr().err


def test_what_was_learned_has_a_name_by_which_it_is_known_again(folders, tmp_path, capsys):
    assert _run("fit", folders / "support", "--out", tmp_path / "things.bin") == 2
    assert "kept in a .safetensors file" in capsys.readouterr().err
    assert not (tmp_path / "things.bin").exists()


def test_what_was_learned_is_kept_in_a_file(folders, tmp_path, capsys):
    learned, named = tmp_path / "things.safetensors", {}
    assert _run("fit", folders / "support", "--out", learned, "--framing", "sensor", "--quiet") == 0
    one = folders / "query" / "thing 1"
    for source, name in ((learned, "file"), (folders / "support", "folder")):
        out = tmp_path / f"{name}.csv"
        words = "predict", "--support", source, "--query", one, "--out", out, "--framing", "sensor", "--quiet"
        assert _run(*words) == 0
        named[name] = out.read_text()
    assert named["file"] == named["folder"]
    (tmp_path / "images.safetensors").write_text("")
    assert (
        _run("predict", "--support", tmp_path / "images.safetensors", "--query", one, "--out", tmp_path / "x.csv") == 2
    )
    assert "not a readable safetensors file" in capsys.readouterr().err


def test_an_evaluation_compares_with_and_without_alignment(folders, tmp_path, capsys):
    out = tmp_path / "run"
    words = "eval", "--support", folders / "support", "--query", folders / "query", "--out", out
    assert _run(*words, "--json", "--quiet") == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers == json.loads((out / "evaluation.json").read_text())
    assert numbers["recordings"] == CLASSES
    assert numbers["aligned"]["mean"] >= 0.75
    assert "green where it" in (out / "report.html").read_text()
    assert (out / "config.yaml").exists()


def test_a_played_recording_is_named(folders, capsys):
    played = folders / "query" / "thing 0" / "2.npz"
    words = "live", played, "--support", folders / "support", "--speed", 100, "--confidence", 0.3
    assert _run(*words, "--quiet") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["label"] == "thing 0"
    assert lines[0]["probability"] >= 0.3


def test_examples_are_named_by_their_place_or_by_support(folders, tmp_path, capsys):
    support, query = folders / "support", folders / "query" / "thing 1"
    for number, named in enumerate(((support,), ("--support", support))):
        learned = tmp_path / f"{number}.safetensors"
        assert _run("fit", *named, "--out", learned, "--quiet") == 0
        assert _run("predict", learned, "--query", query, "--out", tmp_path / f"{number}.csv", "--quiet") == 0
        assert _run("eval", *named, "--query", folders / "query", "--out", tmp_path / f"{number}", "--quiet") == 0
    assert (tmp_path / "0.csv").read_text() == (tmp_path / "1.csv").read_text()
    assert (tmp_path / "0/evaluation.json").read_text() == (tmp_path / "1/evaluation.json").read_text()
    for verb in (["fit"], ["predict", "--query", query], ["eval", "--query", query]):
        assert _run(*verb, support, "--support", support) == 2
        assert "examples are named twice; leave one out" in capsys.readouterr().err
        assert _run(*verb) == 2
        assert "no examples are named; give their folder" in capsys.readouterr().err


def test_what_is_wrong_with_folders_is_one_line(folders, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    loose = tmp_path / "loose"
    events.write(loose / "a.npz", recording(0, 0))
    text = tmp_path / "text" / "cup"
    text.mkdir(parents=True)
    (text / "notes.md").write_text("no recording")
    for support, said in [
        (tmp_path / "none", "no such file or folder"),
        (tmp_path / "empty", "holds no recordings"),
        (loose, "lies in no folder that names what it shows"),
        (tmp_path / "text", "notes.md"),
    ]:
        assert _run("predict", "--support", support, "--query", folders / "query", "--quiet") == 2
        assert said in capsys.readouterr().err.splitlines()[-1]


def test_what_a_file_cannot_do_otherwise_is_refused_and_reject_is_obeyed(folders, tmp_path, capsys):
    learned, query = tmp_path / "things.safetensors", folders / "query"
    assert _run("fit", folders / "support", "--out", learned, "--quiet") == 0
    words = "predict", "--support", learned, "--query", query, "--quiet"
    for options, said in [(("--model", "pixels"), "--model"), (("--views", 2), "options of pictures")]:
        assert _run(*words, *options) == 2
        assert f"leave out {said}" in capsys.readouterr().err
    assert _run(*words, "--reject", 0.9, "--out", tmp_path / "names.csv") == 0
    assert "unknown" in [row["label"] for row in csv.DictReader((tmp_path / "names.csv").read_text().splitlines())]


def test_too_few_recordings_to_reject_anything_are_said_in_one_line(folders, tmp_path, capsys):
    learned, query = tmp_path / "things.safetensors", folders / "query"
    assert _run("fit", folders / "support", "--out", learned, "--reject", 0.01, "--quiet") == 0
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith(
        "warning: nothing is rejected: to call no more than 0.01 of known recordings unknown takes 99"
    )
    assert "images" not in said
    words = "predict", learned, "--query", query, "--quiet", "--out", tmp_path / "names.csv"
    assert _run(*words) == 0
    assert capsys.readouterr().err.splitlines() == [said]
    assert _run(*words, "--force", "--reject", 0.02) == 0
    assert "unknown takes 49 recordings" in capsys.readouterr().err.splitlines()[-1]


def test_copies_are_told_in_a_line_by_every_verb(folders, tmp_path, capsys):
    copied, learned = tmp_path / "copied", tmp_path / "things.safetensors"
    shutil.copytree(folders / "support", copied)
    shutil.copy(copied / "thing 0" / "0.npz", copied / "thing 0" / "9.npz")
    query = folders / "query"
    for words in (
        ("fit", copied, "--out", learned),
        ("predict", learned, "--query", query, "--out", tmp_path / "a.csv"),
        ("eval", copied, "--query", query, "--out", tmp_path / "run"),
    ):
        assert _run(*words, "--quiet") == 0
        for line in (told := capsys.readouterr().err.splitlines()):
            assert line.startswith("warning: ")
        assert any("1 of 9 recordings is a copy of another of the same class" in line for line in told)


def test_a_stream_that_ends_too_soon_says_so(folders, tmp_path, caplog, capsys):
    stream = recording(0, 2).events
    for name, count in (("few", 20), ("short", 300)):
        events.write(tmp_path / f"{name}.npz", events.Recording(stream[:count]))
    words = "--support", folders / "support", "--speed", 100, "--quiet"
    assert _run("live", tmp_path / "few.npz", *words) == 2
    assert "few.npz: 20 events are too few to recognize anything" in capsys.readouterr().err
    assert _run("live", tmp_path / "short.npz", *words, "--confidence", 0.999) == 0
    assert "short.npz: ended before the evidence sufficed" in caplog.text


def test_a_folder_without_recordings_is_said(folders, tmp_path, caplog):
    shutil.copytree(folders / "support", tmp_path / "support")
    for name in ("cat", ".git"):
        (tmp_path / "support" / name).mkdir()
    assert _run("fit", tmp_path / "support", "--out", tmp_path / "things.safetensors", "--quiet") == 0
    [said] = [record.getMessage() for record in caplog.records]
    assert said == f"{tmp_path}/support/cat: holds no recordings and is no thing; put some there, or remove the folder"


def test_a_link_to_nothing_is_named(folders, tmp_path, capsys):
    shutil.copytree(folders / "query", tmp_path / "query")
    for place in (tmp_path / "query", tmp_path / "query" / "thing 0"):
        (place / "gone.npz").symlink_to(tmp_path / "nothing.npz")
    words = "predict", folders / "support", "--query", tmp_path / "query", "--out", tmp_path / "names.csv", "--quiet"
    assert _run(*words) == 1
    told = capsys.readouterr().err.splitlines()
    assert [f"{place}gone.npz: no such file" in line for place, line in zip(("query/", "thing 0/"), told, strict=False)]
    assert "2 of 6 recordings cannot be named" in told[-1]


def test_a_label_without_examples_is_said(folders, tmp_path, caplog):
    events.write(tmp_path / "query" / "cat" / "0.npz", recording(0, 2))
    words = "eval", "--support", folders / "support", "--query", tmp_path / "query", "--out", tmp_path / "run"
    assert _run(*words, "--quiet") == 0
    assert "cat: no example has this label" in caplog.text
