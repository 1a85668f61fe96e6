"""The import rules of the house: systems stand alone, and light imports stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pauca

SOURCE = Path(pauca.__file__).parent
SYSTEMS = ["events", "fewshot", "moe"]


@pytest.mark.parametrize("module", ["pauca", "pauca.cli", "pauca.events", "pauca.events.commands"])
def test_light_imports_load_neither_torch_nor_matplotlib(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'triton', 'matplotlib') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_never_imports_another(system):
    others = [f"pauca.{other}" for other in [*SYSTEMS, "recognize"] if other != system]
    for path in (SOURCE / system).rglob("*.py"):
        for name in _imported(path):
            assert not name.startswith(tuple(others)), f"{path.relative_to(SOURCE)} imports {name}"


@pytest.mark.parametrize("system", SYSTEMS)
def test_methods_do_not_import_commands(system):
    for path in (SOURCE / system).rglob("*.py"):
        if path.name not in ("commands.py", "demo.py"):
            assert f"pauca.{system}.commands" not in _imported(path), path


def _imported(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names
