"""Bytes that a layer's routed experts keep for backward, per token, by the allocator.

    python benchmarks/moe_memory.py [--json PATH]

For each shape, recipe and recompute mode: memory allocated after forward, less before, less the output. The layer's own
input is not counted (whatever made it may keep it anyway); the BF16 recipe keeps it under `activation` and `experts`.
`formula` is `pauca.moe.kept_bytes`; what exceeds it is the routing. `peak` is the most that was
allocated above the start during forward and backward, the gradients included. The specification's figures are for
`none`: BF16 208, FP8 138, FP4 20.7 at DeepSeek-V3's shape; BF16 73.5, FP8 53.9 at the 16B shape.
"""

import argparse
from pathlib import Path

import torch

from moe_shapes import SHAPES, Shape, StraightforwardLayer, machine, routing, show, tensors, write_json
from pauca.moe import Recipe, Recompute, kept_bytes
from pauca.moe.layer import apply_experts

RECIPES = {
    "bf16": Recipe.bf16(),
    "fp8": Recipe.fp8(),
    "fp8, z in fp8": Recipe.fp8(kept_z="fp8"),
    "fp4, z in bf16": Recipe.fp4(kept_z="bf16"),
    "fp4, z in fp8": Recipe.fp4(kept_z="fp8"),
    "fp4": Recipe.fp4(),
    "fp4, FC2 input kept": Recipe.fp4(keep_fc2_input=True),
}
RECOMPUTES: tuple[Recompute, ...] = ("none", "activation", "experts")


def measure(shape: Shape) -> list[dict]:
    x, gate_up, down, dy = tensors(shape)
    ids, probabilities = routing(shape, balanced=True)
    probabilities.requires_grad_()
    layer = StraightforwardLayer(ids, shape.experts)

    def ours(text: str, recompute: Recompute):
        return lambda: apply_experts(x, gate_up, down, ids, probabilities, text, recompute)

    cases = [("straightforward bf16", "none", None, lambda: layer(x, gate_up, down, probabilities))]
    sizes = {name: getattr(shape, name) for name in ("tokens", "top_k", "experts", "hidden", "width")}
    for name, recipe in RECIPES.items():
        for recompute in RECOMPUTES:
            formula = kept_bytes(recipe, recompute, **sizes)
            cases.append((name, recompute, formula, ours(recipe.to_json(), recompute)))

    results = []
    for name, recompute, formula, forward in cases:
        forward().backward(dy)  # compiles, and fills the caches that stay
        x.grad = gate_up.grad = down.grad = probabilities.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        y = forward()
        kept = torch.cuda.memory_allocated() - before - y.nbytes
        y.backward(dy)
        peak = torch.cuda.max_memory_allocated() - before
        del y
        x.grad = gate_up.grad = down.grad = probabilities.grad = None
        results.append(
            {
                "shape": shape.name,
                "recipe": name,
                "recompute": recompute,
                "kept_kib_per_token": kept / shape.tokens / 1024,
                "formula_kib_per_token": None if formula is None else formula / shape.tokens / 1024,
                "peak_gib": peak / 2**30,
            }
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(machine())
    results = []
    for shape in SHAPES.values():
        rows = measure(shape)
        columns = ("recipe", "recompute", "kept", "formula", "peak GiB")
        show(f"{shape.name}: KiB kept per token", columns, [list(row.values())[1:] for row in rows])
        results += rows
    write_json(arguments.json, results)


if __name__ == "__main__":
    main()
