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
def test_light_imports_load_nothing_that_few_need(module):
    heavy = ("torch", "triton", "matplotlib", "PIL", "h5py", "hdf5plugin", "rosbags", "rerun", "distributed")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_verbs_of_fewshot_start_without_scikit_learn():
    """It brings scipy.stats along: 55 MB and most of a second, for the estimator alone."""
    heavy = ("sklearn", "scipy.stats", "scipy.optimize", "matplotlib", "transformers", "timm", "onnx")
    code = f"import sys, pauca.cli, pauca.fewshot.commands; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_what_is_imported_late_is_listed_all_the_same():
    code = "import sys, pauca.fewshot as f; print({*f.__all__} - {*dir(f)}, 'sklearn' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set() False"


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_never_imports_another(system):
    others = [f"pauca.{other}" for other in [*SYSTEMS, "recognize"] if other != system]
    for path in (SOURCE / system).rglob("*.py"):
        for name in _imported(path):
            assert not name.startswith(tuple(others)), f"{path.relative_to(SOURCE)} imports {name}"


def test_recognize_uses_the_faces_of_the_others_alone():
    """What stands in their rooms may move; some rooms have a face."""
    allowed = {"pauca.events", "pauca.fewshot", "pauca.moe"}
    allowed |= {
        "pauca.events.live",
        "pauca.fewshot.base_learners",
        "pauca.fewshot.commands",
        "pauca.fewshot.data",
        "pauca.fewshot.reports",
    }
    for path in (SOURCE / "recognize").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.startswith(tuple(f"pauca.{system}" for system in SYSTEMS)):
                assert module in allowed, f"{path.relative_to(SOURCE)} imports from {module}"


@pytest.mark.parametrize("system", [*SYSTEMS, "recognize"])
def test_methods_do_not_import_commands(system):
    for path in (SOURCE / system).rglob("*.py"):
        if path.name not in ("commands.py", "demo.py"):
            assert f"pauca.{system}.commands" not in _imported(path), path


@pytest.mark.parametrize("part", [*SYSTEMS, "runs"])
def test_rooms_and_files_import_in_no_circle(part):
    """A room is a folder, or a file that lies in none. Imports inside functions count, so that they hide no circle."""
    modules = {_module(path): path for path in (SOURCE / part).rglob("*.py")}
    rooms: dict[str, set[str]] = {}
    files: dict[str, set[str]] = {}
    for module, path in modules.items():
        targets = {name for name in _modules_imported(path, modules) if name in modules} - {module}
        room = _room(module)
        rooms.setdefault(room, set()).update({_room(target) for target in targets} - {room})
        if path.name != "__init__.py":
            files[module] = {target for target in targets if modules[target].name != "__init__.py"}
    _require_no_circle(rooms)
    _require_no_circle(files)


def _module(path: Path) -> str:
    return ".".join(["pauca", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")


def _room(module: str) -> str:
    """`layer` of `pauca.moe.layer.router`; the system's own face is a room, too."""
    return [*module.split("."), "its face"][2]


def _modules_imported(path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules that a file imports: of `from a import b` that is b if b is a module, and else a."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for block in [node for node in ast.walk(tree) if isinstance(node, ast.If)]:
        if ast.unparse(block.test) == "TYPE_CHECKING":  # runs nowhere
            block.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else str(node.module) for name in names}
    return found


def test_a_circle_is_found():
    with pytest.raises(AssertionError, match="a circle among b, c"):
        _require_no_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()})


def _require_no_circle(arrows: dict[str, set[str]]) -> None:
    """Take away what imports nothing that is left, and then what nothing imports: nothing must remain."""
    waiting = {name: targets & arrows.keys() for name, targets in arrows.items()}
    while free := {name for name, targets in waiting.items() if not targets & waiting.keys()}:
        waiting = {name: targets for name, targets in waiting.items() if name not in free}
    while above := waiting.keys() - set().union(*waiting.values()):
        waiting = {name: targets for name, targets in waiting.items() if name not in above}
    assert not waiting, f"a circle among {', '.join(sorted(waiting))}"


def _imported(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names
