"""Where things of `pauca.moe` lie: rooms, one above the other, that import downwards alone."""

import ast
from importlib import import_module
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
TOP = {"__init__", "commands", "demo", "plots", "reports"}


def test_every_file_has_a_room():
    assert {path.stem for path in HOME.glob("*.py")} == TOP  # five files at most
    assert {path.parent.name for path in HOME.glob("*/__init__.py")} == set(BELOW)


@pytest.mark.parametrize("room", BELOW)
def test_rooms_import_downwards(room):
    for path in (HOME / room).rglob("*.py"):
        upwards = _rooms_imported(path) - BELOW[room] - {room}
        assert not upwards, f"{path.relative_to(HOME)} imports {', '.join(sorted(upwards))}"


OLD_FACE = [
    "Assumptions",
    "BpeTokenizer",
    "ByteTokenizer",
    "DataConfig",
    "Diverged",
    "END",
    "Experts",
    "Format",
    "FormatLosses",
    "Fp8Tensor",
    "Granularity",
    "GroupedQueryAttention",
    "KeptFormats",
    "LMConfig",
    "LMLosses",
    "LM_SIZES",
    "LatentAttention",
    "LayersConfig",
    "Layout",
    "MoE",
    "MoELM",
    "MoEViT",
    "ModelShape",
    "MxFp4Tensor",
    "ParallelExperts",
    "ParallelLayout",
    "Permutation",
    "Plan",
    "PlanTask",
    "Precision",
    "Rates",
    "Recipe",
    "Recomputation",
    "Recompute",
    "RecomputePolicy",
    "Router",
    "RouterConfig",
    "RouterLoad",
    "Routing",
    "SHAPES",
    "ScaleRule",
    "TokenData",
    "TokenFile",
    "Tokenizer",
    "TrainConfig",
    "TrainResult",
    "TrainStep",
    "Trainer",
    "ViTConfig",
    "Way",
    "WireBytes",
    "apply_experts",
    "auxiliary_loss",
    "average_gradients",
    "clip_gradients",
    "convert",
    "diagnose",
    "find_plans",
    "format_losses",
    "frozen_weights",
    "kept_bytes",
    "kept_formats",
    "load_checkpoint",
    "load_model",
    "load_optimizer_state",
    "load_tokenizer",
    "model_shape",
    "ops",
    "optimizer_state",
    "parallelise",
    "prepare_tokens",
    "prepare_weights",
    "quantisation_health",
    "router_loads",
    "save_checkpoint",
    "save_model",
    "sort_by_expert",
    "train",
    "unconvert",
    "update_biases",
    "wire_bytes",
]


@pytest.mark.parametrize("name", OLD_FACE)
def test_names_of_version_0_1_can_be_imported_as_before(name):
    if name in pauca.moe.__all__:
        assert hasattr(pauca.moe, name)
        return
    with pytest.warns(DeprecationWarning, match=rf"pauca\.moe\.{name} is now pauca\.(moe|runs)\S*;") as caught:
        value = getattr(pauca.moe, name)
    place, _, new = str(caught[0].message).split(" is now ")[1].split(";")[0].rpartition(".")
    assert new in getattr(import_module(place), "__all__", [new])
    assert value is getattr(import_module(place), new)


def test_faces_are_small_and_true():
    assert len(pauca.moe.__all__) <= 35
    for room in BELOW:
        face = import_module(f"pauca.moe.{room}")
        assert all(hasattr(face, name) for name in face.__all__), room
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        pauca.moe.nonsense  # noqa: B018


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
