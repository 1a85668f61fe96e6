"""The tutorials' commands run, and print what the pages say but for numbers."""

import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted([*DOCS.glob("*/tutorial.md"), DOCS / "events" / "recordings.md"])


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=[f"{page.parent.name}-{page.stem}" for page in PAGES])
def test_a_tutorial_prints_what_it_says(page):
    done = subprocess.run(
        [sys.executable, str(DOCS / "tutorials.py"), str(page), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
