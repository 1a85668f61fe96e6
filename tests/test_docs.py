"""What the pages promise: everything public is documented."""

import importlib
from pathlib import Path

import pytest

import pauca

DOCS = Path(__file__).parent.parent / "docs"


ROOMS = {"moe": ["ops", "layer", "parallel", "models", "data", "training", "plan"]}  # each with a face of its own


@pytest.mark.parametrize("system", ["events", "fewshot", "moe"])
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
