"""What the pages promise: everything public is documented."""

from pathlib import Path

import pytest

import pauca

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("system", ["events", "fewshot", "moe"])
def test_everything_public_has_its_place_in_the_api(system):
    page = (DOCS / system / "api.md").read_text(encoding="utf-8")
    documented = {line.rsplit(".", 1)[-1] for line in page.splitlines() if line.startswith("::: ")}
    assert documented - {"plots"} == set(getattr(pauca, system).__all__)
