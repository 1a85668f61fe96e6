"""What belongs to the repository: an output of a command that was committed by mistake is found here."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {".ci", "benchmarks", "docs", "examples", "src", "tests"}
FILES = {".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md"}
FILES |= {"constraints.txt", "mkdocs.yml", "pyproject.toml"}


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.check_output(["git", "-c", f"safe.directory={ROOT}", "ls-files"], cwd=ROOT, text=True)
    return [Path(line) for line in listed.splitlines()]


def test_nothing_stands_in_the_root_that_does_not_belong_there(tracked):
    found = {(path.parts[0], len(path.parts) > 1) for path in tracked}
    assert found == {(name, True) for name in FOLDERS} | {(name, False) for name in FILES}


def test_data_and_weights_stay_outside(tracked):
    """They come from the folder of data; pictures of the docs are the largest files."""
    large = {str(path) for path in tracked if (ROOT / path).exists() and (ROOT / path).stat().st_size > 500_000}
    assert large == set()
