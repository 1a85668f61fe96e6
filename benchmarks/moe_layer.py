"""Time of the routed experts of one layer, forward and with backward, for each recipe, beside a plain BF16 layer.

    python benchmarks/moe_layer.py [--shapes deepseek-v3 16b] [--profile RECIPE] [--json PATH]

The peer is BF16 on torch's grouped product, with index_select, compiled SwiGLU and index_add; it gets its routing
sorted beforehand, ours sorts within the time. Floors: operations of the products over the rate of one large dense
product in the same format, plus bytes of everything else (conversions, SwiGLU, gathers, sums, weights) over the
bandwidth of a copy, both measured in the same run. Times are of CUDA graphs, and of eager calls, where the host may
be the slower one. FP8 and FP4 quantize the weights in every forward and backward, except where the line says
otherwise (gradient accumulation under `frozen_weights`).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from moe_shapes import (
    SHAPES,
    Shape,
    StraightforwardLayer,
    captured,
    machine,
    milliseconds,
    routing,
    show,
    tensors,
    write_json,
)
from pauca.moe import Recipe
from pauca.moe.layer import apply_experts, prepare_weights
from pauca.moe.layer.permutation import row_bound

RECIPES = {
    "bf16": Recipe.bf16(),
    "fp8": Recipe.fp8(),
    "fp4": Recipe.fp4(),
    "fp4, z in bf16": Recipe.fp4(kept_z="bf16"),
    "fp4, exact sums": Recipe(precision="fp4", kept_z="mxfp4", keep_fc2_input=False, fast_accumulate=False),
}
MXFP4 = 17 / 32  # bytes per element


def ceilings() -> dict[str, float]:
    """Copy bandwidth in bytes/ms (read and written) and dense product rates in operations/ms."""
    source = torch.randint(256, (2**31,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / milliseconds(lambda: target.copy_(source))
    del source, target
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in "ab")
    a8, b8, scale = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn), torch.ones(n, 1, device="cuda")

    def fp8() -> torch.Tensor:
        return torch._scaled_mm(a8, b8.t(), scale, scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True)

    return {"copy": copy, "bf16": 2 * n**3 / milliseconds(lambda: a @ b), "fp8": 2 * n**3 / milliseconds(fp8)}


def bytes_beside_products(shape: Shape, recipe: Recipe) -> tuple[float, float]:
    """Of forward and of backward: every matrix that a step besides the products reads or writes, once per step."""
    rows = row_bound(shape.copies, shape.experts)
    x, x_rows, h_rows = shape.tokens * shape.hidden, rows * shape.hidden, rows * shape.width
    combine = 2 * x_rows + 2 * x
    if recipe.precision == "bf16":
        gather = 2 * x + 2 * x_rows
        return gather + 4 * h_rows + 2 * h_rows + combine, gather + 4 * h_rows + 2 * h_rows + 4 * h_rows + combine
    kept = {"bf16": 2.0, "fp8": 1.0, "mxfp4": MXFP4}
    stored = MXFP4 if recipe.precision == "fp4" else 1.0
    z = 2 * h_rows
    keep_z = {"bf16": 0.0, "fp8": 2 + 1.0, "mxfp4": MXFP4}[recipe.kept_z] * z  # in MXFP4, with SwiGLU's read
    weights = (2 + 1) * shape.weights
    forward = (2 + stored) * x + (stored + 1) * x_rows + keep_z + 2 * z + h_rows + combine + weights
    dy = (2 + 1) * x + 2 * x_rows + 2 * x_rows  # quantize, gather, transpose
    swiglu = kept[recipe.kept_z] * z + 2 * h_rows + 3 * z  # z's gradient is written, read and written transposed
    fc2_input = (2 if recipe.keep_fc2_input else 3) * h_rows
    backward = dy + swiglu + fc2_input + (stored + 1) * x_rows + combine + weights
    return forward, backward


def measure(shape: Shape, balanced: bool, rates: dict[str, float]) -> list[dict]:
    x, gate_up, down, dy = tensors(shape)
    ids, probabilities = routing(shape, balanced)
    probabilities.requires_grad_()
    layer = StraightforwardLayer(ids, shape.experts)

    def ours(recipe: Recipe, prepared: Sequence[torch.Tensor] = ()):
        text = recipe.to_json()
        return lambda: apply_experts(x, gate_up, down, ids, probabilities, text, "none", prepared)

    cases = {"straightforward bf16": (Recipe.bf16(), lambda: layer(x, gate_up, down, probabilities))}
    cases |= {name: (recipe, ours(recipe)) for name, recipe in RECIPES.items()}
    prepared = prepare_weights(gate_up.detach(), down.detach())
    cases |= {
        f"{name}, weights quantized before": (recipe, ours(recipe, prepared))
        for name, recipe in (("fp8", Recipe.fp8()), ("fp4", Recipe.fp4()))
    }

    leaves = (x, gate_up, down, probabilities)
    results = []
    for name, (recipe, forward) in cases.items():

        def both(forward=forward) -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(forward(), leaves, dy)

        forward_bytes, backward_bytes = bytes_beside_products(shape, recipe)
        rate = rates["bf16" if recipe.precision == "bf16" else "fp8"]
        floor = shape.operations / rate + forward_bytes / rates["copy"]
        results.append(
            {
                "shape": shape.name,
                "routing": "balanced" if balanced else "zipf",
                "recipe": name,
                "forward_ms": milliseconds(captured(forward)),
                "forward_floor_ms": floor,
                "both_ms": milliseconds(captured(both)),
                "both_floor_ms": floor + 2 * shape.operations / rate + backward_bytes / rates["copy"],
                "both_eager_ms": milliseconds(both),
            }
        )
        torch.cuda.empty_cache()
    peer = results[0]["both_ms"]
    return [result | {"speedup": peer / result["both_ms"]} for result in results]


def profile(shape: Shape, recipe: Recipe) -> None:
    """Kernels of three forwards and backwards, by time on the GPU."""
    x, gate_up, down, dy = tensors(shape)
    ids, probabilities = routing(shape, balanced=True)
    probabilities.requires_grad_()

    def both() -> None:
        x.grad = gate_up.grad = down.grad = probabilities.grad = None
        apply_experts(x, gate_up, down, ids, probabilities, recipe.to_json()).backward(dy)

    both()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as trace:
        for _ in range(3):
            both()
        torch.cuda.synchronize()
    kernels = sorted(trace.key_averages(), key=lambda k: -k.device_time_total)
    rows = [(k.device_time_total / 3000, k.count // 3, k.key[:90]) for k in kernels if k.device_time_total > 15]
    show(f"{shape.name}, {recipe.precision}: milliseconds a step on the GPU", ("ms", "calls", "kernel"), rows)
    print(f"all kernels: {sum(k.device_time_total for k in kernels) / 3000:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--profile", nargs="+", choices=["bf16", "fp8", "fp4"], default=[])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rates = ceilings()
    print(machine())
    print(
        f"copy {rates['copy'] / 1e9:.2f} TB/s, dense product of 8192: bf16 {rates['bf16'] / 1e9:.0f} TFLOP/s, "
        f"fp8 {rates['fp8'] / 1e9:.0f} TFLOP/s"
    )
    results = []
    for name in arguments.shapes:
        for balanced in (True, False):
            rows = measure(SHAPES[name], balanced, rates)
            show(
                f"{name}, {'balanced' if balanced else 'zipf'}: ms",
                ("recipe", "forward", "floor", "both", "floor", "both, eager", "x straightforward"),
                [list(row.values())[2:] for row in rows],
            )
            results += rows
        for precision in arguments.profile:
            profile(SHAPES[name], getattr(Recipe, precision)())
    write_json(arguments.json, {"ceilings": rates, "layers": results})


if __name__ == "__main__":
    main()
