"""What a few large channels cost an expert layer in FP4, and what helps: scale rules, FP8, or rotating the input.

    python benchmarks/moe_outliers.py [--factors 1 5 20 100] [--json PATH]
    python benchmarks/moe_outliers.py --time        # on a GPU: what rotating takes, at six models' shapes

8 experts of width 256 on 512 channels, of which 4 are `factor` times the rest; top 2, 2,048 tokens. Relative errors of
the output, of FC1's weight gradient and of the input's gradient, from BF16 weights and tokens in FP64. Times are of
CUDA graphs of forward and backward.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from moe_peers import SHAPES
from moe_shapes import captured, machine, milliseconds, routing, show, write_json
from pauca.moe import Experts, Recipe

HIDDEN, WIDTH, EXPERTS, TOP_K, TOKENS = 512, 256, 8, 2, 2048
WAYS = {
    "fp4": Recipe.fp4(),
    "fp4, scale best of two": replace(Recipe.fp4(), scale_rule="best"),
    "fp4, rotated": replace(Recipe.fp4(), rotate=True),
    "fp8": Recipe.fp8(),
}


def exact(experts: Experts, x: Tensor, ids: Tensor, weights: Tensor, dy: Tensor) -> list[Tensor]:
    """Output and gradients in FP64, one expert after the other."""
    x, gate_up = x.double().requires_grad_(), experts.gate_up.detach().double().requires_grad_()
    down, y = experts.down.detach().double(), torch.zeros(x.shape, dtype=torch.float64)
    for expert in range(EXPERTS):
        token, choice = (ids == expert).nonzero(as_tuple=True)
        gate, up = (x[token] @ gate_up[expert].T).chunk(2, 1)
        out = torch.nn.functional.silu(gate) * up @ down[expert].T
        y = y.index_add(0, token, weights[token, choice, None].double() * out)
    dx, d_gate_up = torch.autograd.grad(y, [x, gate_up], dy.double())
    return [y.detach(), d_gate_up, dx]


def errors(factor: float) -> dict[str, list[float]]:
    torch.manual_seed(0)
    experts = Experts(HIDDEN, WIDTH, EXPERTS)
    x, dy = torch.randn(2, TOKENS, HIDDEN).bfloat16().float()
    x[:, 7::128] *= factor
    ids, weights = torch.rand(TOKENS, EXPERTS).argsort(1)[:, :TOP_K], torch.rand(TOKENS, TOP_K).softmax(1)
    with torch.no_grad():
        for weight in experts.parameters():
            weight.copy_(weight.bfloat16())
    wanted, found = exact(experts, x, ids, weights, dy), {}
    for name, recipe in WAYS.items():
        experts.recipe = recipe
        experts.zero_grad()
        leaf = x.clone().requires_grad_()
        y = experts(leaf, ids, weights)
        y.backward(dy)
        results = [y.detach(), experts.gate_up.grad, leaf.grad]
        found[name] = [float((a.double() - b).norm() / b.norm()) for a, b in zip(results, wanted, strict=True)]
    return found


def times(name: str) -> dict[str, float]:
    shape, found = SHAPES[name], {}
    ids, weights = routing(shape, balanced=True)
    for way in ("fp4", "fp4, rotated"):
        torch.manual_seed(0)
        with torch.device("cuda"):
            experts = Experts(shape.hidden, shape.width, shape.experts, WAYS[way]).bfloat16()
            x = torch.randn(shape.tokens, shape.hidden, dtype=torch.bfloat16).requires_grad_()
            dy = torch.randn_like(x)

        def both(experts: Experts = experts, x: Tensor = x, dy: Tensor = dy) -> None:
            torch.autograd.grad(experts(x, ids, weights), [x, *experts.parameters()], dy)

        found[way] = milliseconds(captured(both), repeats=10)
        torch.cuda.empty_cache()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--factors", nargs="+", type=float, default=[1, 5, 20, 100])
    parser.add_argument("--time", action="store_true", help="what rotating takes on a GPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(machine(), flush=True)
    if options.time:
        rows = [{"shape": name} | times(name) for name in SHAPES]
        show("forward + backward, ms", list(rows[0]), [list(row.values()) for row in rows])
    else:
        rows = [{"factor": f, "way": way} | dict(zip(("y", "dw", "dx"), each, strict=True))
                for f in options.factors for way, each in errors(f).items()]  # fmt: skip
        show("relative error", list(rows[0]), [list(row.values()) for row in rows])
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
