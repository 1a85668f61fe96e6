"""What quantizing weights once per change saves: forward + backward of several passes and a step, by shape and recipe.

    python benchmarks/moe_accumulation.py [--shapes NAME ...] [--passes 1 2 4 8] [--json PATH]
    python benchmarks/moe_accumulation.py --tiny        # on a CPU, to see that it runs; no times

A step is so many passes, forward and backward, of a bank of experts with FP32 weights, and then AdamW (fused). The time
is of a step without AdamW's, over its passes, eager. "once" is `quantize_once`, its looks at the weights included.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

import moe_shapes
from moe_peers import SHAPES, TINY
from moe_shapes import Shape, machine, milliseconds, routing, show, write_json
from pauca.moe import Experts, Recipe, quantize_once

WAYS = {
    "bf16": (Recipe.bf16(), False),
    "fp8": (Recipe.fp8(), False),
    "fp4": (Recipe.fp4(), False),
    "fp4, once": (Recipe.fp4(), True),
}


def step_of(shape: Shape, recipe: Recipe, once: bool, passes: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """A step, and its AdamW alone."""
    torch.manual_seed(0)
    with torch.device(moe_shapes.DEVICE):
        experts = Experts(shape.hidden, shape.width, shape.experts, recipe)
        x = torch.randn(shape.tokens, shape.hidden, dtype=torch.bfloat16).requires_grad_()
        dy = torch.randn_like(x)
    ids, probabilities = routing(shape, balanced=True)
    optimizer = torch.optim.AdamW(experts.parameters(), fused=True)
    if once:
        quantize_once(experts, optimizer)

    def step() -> None:
        for number in range(passes):
            if number == 0:
                optimizer.zero_grad()
            experts(x, ids, probabilities).backward(dy)
            x.grad = None
        optimizer.step()

    def adamw() -> None:
        optimizer.step()

    return step, adamw


def time_of(shape: Shape, recipe: Recipe, once: bool, passes: int) -> float:
    """Milliseconds a pass."""
    step, adamw = step_of(shape, recipe, once, passes)
    whole = milliseconds(step, repeats=10)
    return (whole - milliseconds(adamw, repeats=10)) / passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), metavar="NAME")
    parser.add_argument("--passes", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--tiny", action="store_true", help="small sizes on a CPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.tiny:
        moe_shapes.DEVICE = "cpu"
        for recipe, once in WAYS.values():
            step_of(TINY, recipe, once, passes=2)[0]()
        print("every way runs")
        return
    print(machine(), flush=True)
    results = []
    for name in options.shapes:
        for passes in options.passes:
            times = {way: time_of(SHAPES[name], *how, passes) for way, how in WAYS.items()}
            row = {"shape": name, "passes": passes, **times}
            results.append(row | {"bf16 / once": times["bf16"] / times["fp4, once"]})
            print(results[-1], flush=True)
            write_json(options.json, results)
            torch.cuda.empty_cache()
    show("milliseconds a pass, without AdamW", list(results[0]), [list(row.values()) for row in results])


if __name__ == "__main__":
    main()
