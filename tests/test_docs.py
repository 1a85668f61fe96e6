"""What the pages promise: everything public is documented."""

import importlib
import re
from pathlib import Path

import pytest

import pauca

DOCS = Path(__file__).parent.parent / "docs"


ROOMS = {"moe": ["ops", "layer", "parallel", "models", "data", "training", "plan"]}  # each with a face of its own


@pytest.mark.parametrize("system", ["events", "fewshot", "moe", "recognize"])
def test_everything_public_has_its_place_in_the_api(system):
    page = (DOCS / system / "api.md").read_text(encoding="utf-8")
    paths = [line.removeprefix("::: ") for line in page.splitlines() if line.startswith("::: ")]
    documented = {path.rsplit(".", 1)[-1] for path in paths}
    public = set(getattr(pauca, system).__all__)
    for room in ROOMS.get(system, []):
        path = f"pauca.{system}.{room}"
        public |= set(importlib.import_module(path).__all__)
        if path in paths:  # a page of all that the room shows
            documented |= set(importlib.import_module(path).__all__)
    assert documented - {"plots"} == public


def test_the_api_of_moe_shows_faces():
    faces = {"pauca.moe", *(f"pauca.moe.{room}" for room in ROOMS["moe"])}
    for line in (DOCS / "moe" / "api.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("::: "):
            assert line.removeprefix("::: ").rsplit(".", 1)[0] in faces, line


def test_a_training_step_is_eight_files_that_exist():
    page = (DOCS / "design.md").read_text(encoding="utf-8")
    table = page.partition("| file | what it does in a step |")[2].split("\n\n")[0]
    files = re.findall(r"^\| `(\S+\.py)` \| (?:`(?:(\w+)[`.])?)?", table, re.MULTILINE)
    assert len(files) == 8
    for name, meant in files:
        source = (DOCS.parent / "src" / "pauca" / "moe" / name).read_text(encoding="utf-8")
        assert not meant or f"class {meant}(" in source or f"class {meant}:" in source, name


@pytest.mark.parametrize(
    "page", ["index.md", "design.md", *(f"moe/{path.name}" for path in (DOCS / "moe").glob("*.md"))]
)
def test_lines_are_short_enough_to_review(page):
    """Prose; a table's row is one line, and code is as it was printed."""
    code = False
    for number, line in enumerate((DOCS / page).read_text(encoding="utf-8").splitlines(), 1):
        code = code ^ line.lstrip().startswith("```")
        assert code or len(line) <= 120 or line.startswith("|"), f"{page}:{number}"


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_snippets_are_spelled_as_mkdocs_reads_them(page):
    """A formatter took `--8<--` in a block of Python for an expression, and the page showed that line, not the file."""
    for line in page.read_text(encoding="utf-8").splitlines():
        assert not line.startswith("--8") or re.fullmatch(r'--8<-- "[^"]+"', line), line


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_blocks_begin_as_the_site_reads_them(page):
    """Two words after the ticks are no block: one of a tutorial turned the rest of its page inside out."""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            assert re.fullmatch(r" *```(\w*|\{( \.\w+)+ \})", line), f"{page}:{number}: {line}"


def test_the_readme_shows_what_the_benchmark_of_peers_printed():
    measured = (DOCS / "moe" / "measured.md").read_text(encoding="utf-8")
    section = measured.partition("## Beside other people's experts")[2].partition("\n## ")[0]
    times, kept = (_rows(section.partition(title)[2]) for title in ("| balanced: forward", "| kept, KiB"))
    shown = _rows(
        (DOCS.parent / "README.md").read_text(encoding="utf-8").partition("| forward + backward, ms / kept")[2]
    )
    assert len(shown) == len(times) == len(kept) == 6
    for row, ms, memory in zip(shown, times, kept, strict=True):
        expected = [f"{a} / {b.split()[0]}" for a, b in zip(ms[2:6], memory[2:6], strict=True)]
        assert row == [ms[0], *expected]


def _rows(text: str) -> list[list[str]]:
    """The cells of a table whose title line `text` begins in."""
    lines = text.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
