"""The verbs of `pauca moe`: parse, call the library, show."""

from __future__ import annotations

import json
from typing import Annotated

from tyro.conf import arg

from pauca import moe

_RECIPES = {
    "bf16": moe.Recipe.bf16(),
    "fp8": moe.Recipe.fp8(),
    "fp8, z in fp8": moe.Recipe.fp8(kept_z="fp8"),
    "fp4, z in bf16": moe.Recipe.fp4(kept_z="bf16"),
    "fp4, z in fp8": moe.Recipe.fp4(kept_z="fp8"),
    "fp4": moe.Recipe.fp4(),
}
_MODES: tuple[moe.Recompute, ...] = ("none", "activation", "experts")


def kept(
    hidden: int = 7168,
    width: int = 2048,
    experts: int = 8,
    top_k: int = 8,
    tokens: int = 4096,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Say what the experts of one layer keep for backward, for each recipe and recompute mode.

    The defaults are DeepSeek-V3's layer with 8 of its experts on a GPU.

    Args:
        hidden: channels of a token.
        width: channels inside one expert.
        experts: routed experts on one GPU.
        top_k: experts that each token is routed to.
        tokens: tokens that these experts serve in one pass.
        as_json: machine-readable output, in bytes.
    """
    sizes = {"tokens": tokens, "top_k": top_k, "experts": experts, "hidden": hidden, "width": width}
    found = {
        name: {mode: moe.kept_bytes(recipe, mode, **sizes) for mode in _MODES} for name, recipe in _RECIPES.items()
    }
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"KiB kept per token (MiB for {tokens:,} tokens), by what is recomputed")
    print(f"{'recipe':<16}" + "".join(f"{mode:>20}" for mode in _MODES))
    for name, by_mode in found.items():
        cells = (f"{kept / tokens / 1024:.1f} ({kept / 2**20:,.0f})" for kept in by_mode.values())
        print(f"{name:<16}" + "".join(f"{cell:>20}" for cell in cells))


COMMANDS = {"kept": kept}
