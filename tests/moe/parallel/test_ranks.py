"""Ranks that do not fit together, answer late or die: an error that says so, within the timeout, and no hang."""

import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import pauca.moe
from pauca.errors import ConfigError, PaucaError
from pauca.moe.layer.moe import MoE
from pauca.moe.layer.recipe import Recipe
from pauca.moe.parallel import ranks as ranks_module
from pauca.moe.parallel.model import parallelize

HIDDEN = 32


def _layer(recipe: Recipe | None = None, experts: int = 4, top_k: int = 2, seed: int = 0) -> MoE:
    torch.manual_seed(seed)
    return MoE(HIDDEN, 32, experts, top_k, recipe=Recipe.fp4() if recipe is None else recipe)


def _mesh(name: str = "ep") -> DeviceMesh:
    return init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=(name,))


def _message(work: Callable[[], object]) -> tuple[str, str, float]:
    """The error's type and words, and after how many seconds it came."""
    start = time.monotonic()
    try:
        work()
    except PaucaError as error:
        return type(error).__name__, str(error), time.monotonic() - start
    return "nothing", "", time.monotonic() - start


def _differing(rank: int) -> dict[str, tuple[str, str, float]]:
    mesh, first = _mesh(), rank == 0
    messages = {
        "recipe": _message(lambda: parallelize(_layer(Recipe.fp4() if first else Recipe.fp8()), mesh)),
        "top_k": _message(lambda: parallelize(_layer(top_k=1 + rank), mesh)),
        "seed": _message(lambda: parallelize(_layer(seed=rank), mesh)),
        "layers": _message(lambda: parallelize(torch.nn.ModuleDict({f"block{rank}": _layer()}), mesh)),
    }
    original = ranks_module.code_digest
    ranks_module.code_digest = lambda: f"version {rank}"
    messages["code"] = _message(lambda: parallelize(_layer(), mesh))
    ranks_module.code_digest = original

    layer, x = parallelize(_layer(), mesh), torch.randn(5, HIDDEN)
    if not first:
        layer.experts.recipe = replace(Recipe.fp4(), scale_rule="floor")
    messages["recipe, later"] = _message(lambda: layer(x))
    layer.experts.recipe = Recipe.fp4()
    with torch.set_grad_enabled(first):
        messages["mode"] = _message(lambda: layer(x))
    messages["the same again"] = _message(lambda: layer(x).sum().backward())
    twins = parallelize(torch.nn.ModuleList([_layer(), _layer()]), mesh)
    messages["layer"] = _message(lambda: twins[rank](x))
    return messages


def test_ranks_that_differ_all_say_in_what(together):
    ranks = together(_differing, 2)
    for rank, messages in enumerate(ranks):
        for what, words in (
            ("recipe", f"rank {1 - rank} has layer '', recipe: Recipe(precision="),
            ("top_k", f"has layer '', top_k: {2 - rank} where rank {rank} has {1 + rank};"),
            ("layers", "'block"),
            ("seed", f"rank {1 - rank} has layer '', checksum of the router"),
            ("code", f"rank {1 - rank} has code: version {1 - rank} where rank {rank} has version {rank}"),
            ("recipe, later", "run another layer, recipe or mode"),
            ("layer", "run another layer, recipe or mode"),
            ("mode", f"rank(s) {1 - rank} run another layer, recipe or mode (training, no_grad) than rank {rank}"),
        ):
            kind, message, _ = messages[what]
            assert kind == "PaucaError", what
            assert words in message, what
        assert messages["the same again"][0] == "nothing"


def _impossible(rank: int) -> list[tuple[str, str, float]]:
    mesh, layer = _mesh(), _layer()
    divided = parallelize(_layer(), mesh)
    return [
        _message(lambda: parallelize(_layer(experts=5), mesh)),
        _message(lambda: parallelize(torch.nn.Linear(3, 3), mesh)),
        _message(lambda: parallelize(layer, _mesh("dp"))),
        _message(lambda: parallelize(divided, mesh)),
        _message(lambda: parallelize(_layer(Recipe.fp8()), mesh, dispatch="mxfp4")),
    ]


def test_models_and_meshes_that_cannot_be_divided_are_refused(together):
    words = (
        "5 experts cannot be divided evenly by 2 ranks: choose a number of ranks that divides them",
        "Linear has no pauca.moe.MoE layer",
        "the mesh needs a dimension named 'ep', got ('dp',)",
        "call parallelize once",
        "tokens of the fp8 recipe travel in bf16 or fp8, not 'mxfp4'",
    )
    for messages in together(_impossible, 2):
        for (kind, message, _), expected in zip(messages, words, strict=True):
            assert kind == ConfigError.__name__
            assert expected in message


def _left_alone(rank: int, dies: bool, phase: str) -> tuple[str, str, float]:
    layer, x = parallelize(_layer(), _mesh()), torch.randn(5, HIDDEN)
    y = layer(x) if phase == "backward" else None
    if rank == 1:
        if dies:
            os._exit(0)
        time.sleep(4)
        return "late", "", 0.0
    return _message(lambda: layer(x) if y is None else y.sum().backward())


@pytest.mark.parametrize(("dies", "phase"), [(True, "forward"), (True, "backward"), (False, "backward")])
def test_a_rank_whose_peer_died_or_is_late_says_so_within_the_timeout(dies, phase, together):
    ((kind, message, seconds),) = together(_left_alone, 2, dies, phase, timeout_s=2, only=0)
    assert kind == "OtherStopped"
    # Gloo says how long it waited where it ends a message, and not where it closes the pair of ranks.
    reason = "has; that one says why" if dies else "did not answer (for 2 s|in time)"
    assert re.search(f"rank 0 stops, because another rank {reason}", message), message
    assert seconds < 3.5


def _failing_beside_the_dead(rank: int) -> tuple[str, str, float]:
    mesh = _mesh()
    if rank == 1:
        os._exit(0)
    return _message(lambda: parallelize(_layer(experts=5), mesh))


def test_an_error_of_one_s_own_is_said_though_another_rank_has_died(together):
    """It was hidden by the other's silence, which was to say why."""
    ((kind, message, _),) = together(_failing_beside_the_dead, 2, timeout_s=5, only=0)
    assert kind == "ConfigError"
    assert "5 experts cannot be divided evenly" in message


@pytest.mark.parametrize("name", ["parallel/ranks.py", "layer/passes.py", "ops/kernels/swiglu.py", "plots.py"])
def test_the_digest_is_of_all_rooms(tmp_path, name):
    same, other = tmp_path / "same", tmp_path / "other"
    for copy in (same, other):
        shutil.copytree(Path(pauca.moe.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / name).open("a") as file:
        file.write("#")
    assert ranks_module.code_digest() == ranks_module.code_digest(same) != ranks_module.code_digest(other)
