"""Where things of `pauca.moe` lie: rooms, one above the other, that import downwards alone."""

import ast
from pathlib import Path

import pytest

import pauca.moe

HOME = Path(pauca.moe.__file__).parent

# What each room may import, besides itself. The files that lie in no room are the top floor.
BELOW = {
    "ops": set(),
    "data": set(),
    "layer": {"ops"},
    "parallel": {"ops", "layer"},
    "models": {"ops", "layer"},
    "training": {"ops", "layer", "parallel", "models", "data"},
    "plan": {"ops", "layer", "parallel", "models"},
}
TOP = {"__init__", "commands", "demo", "plots"}


def test_every_file_has_a_room():
    assert {path.stem for path in HOME.glob("*.py")} == TOP
    assert {path.parent.name for path in HOME.glob("*/__init__.py")} == set(BELOW)


@pytest.mark.parametrize("room", BELOW)
def test_rooms_import_downwards(room):
    for path in (HOME / room).rglob("*.py"):
        upwards = _rooms_imported(path) - BELOW[room] - {room}
        assert not upwards, f"{path.relative_to(HOME)} imports {', '.join(sorted(upwards))}"


@pytest.mark.parametrize("room", [*BELOW, "top"])
def test_files_of_a_room_import_in_no_circle(room):
    paths = [HOME / f"{name}.py" for name in sorted(TOP)] if room == "top" else sorted((HOME / room).rglob("*.py"))
    arrows = {_module(path): set(_imported(path)) for path in paths if path.name != "__init__.py"}
    waiting = {module: targets & arrows.keys() for module, targets in arrows.items()}
    while waiting:
        free = {module for module, targets in waiting.items() if not targets & waiting.keys()}
        assert free, f"a circle among {', '.join(sorted(waiting))}"
        waiting = {module: targets for module, targets in waiting.items() if module not in free}


def _rooms_imported(path: Path) -> set[str]:
    """The rooms and top files from which a file imports; "__init__" for a name of the face."""
    found = set()
    for name in _imported(path):
        place, _, rest = name.partition("pauca.moe")
        if not place and rest:
            first = rest.lstrip(".").split(".")[0]
            found.add(first if first in BELOW or first in TOP else "__init__")
    return found


def _imported(path: Path) -> list[str]:
    """Modules, and names that may be modules, which a file imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import, which this test does not follow"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
            if node.module not in ("pauca", "pauca.moe"):
                names.append(str(node.module))
    return names


def _module(path: Path) -> str:
    return ".".join(["pauca", "moe", *path.relative_to(HOME).with_suffix("").parts])
