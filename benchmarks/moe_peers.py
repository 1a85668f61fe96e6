"""The routed experts of six models' layers, by who computes them: time, kept bytes, peak and error, in one table.

    python benchmarks/moe_peers.py [--shapes NAME ...] [--routings balanced zipf] [--json PATH]
    python benchmarks/moe_peers.py --tiny              # small sizes on a CPU, to see that it runs; no times, no memory

Peers: a straightforward BF16 layer on torch's grouped product (routing sorted beforehand, compiled SwiGLU), and
transformers' experts with `grouped_mm`, the fastest that it has without kernels from elsewhere. torchao,
TransformerEngine and SonicMoE are named with their versions where they are installed, but not called: their wheels
were not to be had on the machine of the docs.

Every layer gets the same BF16 weights, tokens and routing. Times are milliseconds, of CUDA graphs where a layer can be
captured and of eager calls; `kept` is KiB a token that stay allocated after forward, without the output; `peak` is GiB
above the start during forward and backward, gradients included. Errors are of the output and of the gradients of x and
of FC1's weights, as relative norms, from the same in FP32, expert by expert.
"""

import argparse
import gc
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import silu

import moe_shapes
from moe_shapes import Shape, StraightforwardLayer, captured, machine, milliseconds, routing, show, tensors, write_json
from pauca.moe import Recipe
from pauca.moe.layer import apply_experts, prepare_weights

SHAPES = {
    shape.name: shape
    for shape in (
        Shape("DeepSeek-V3", hidden=7168, width=2048, experts=8, top_k=8, tokens=4096),
        Shape("gpt-oss-20b", hidden=2880, width=2880, experts=32, top_k=4, tokens=16_384),
        Shape("16B, 16,384 tokens", hidden=2048, width=1408, experts=64, top_k=6, tokens=16_384),
        Shape("Qwen3-30B-A3B", hidden=2048, width=768, experts=128, top_k=8, tokens=16_384),
        Shape("SonicMoE 7B", hidden=1536, width=256, experts=128, top_k=8, tokens=24_576),
        Shape("16B, 4096 tokens", hidden=2048, width=1408, experts=64, top_k=6, tokens=4096),
    )
}
TINY = Shape("tiny", hidden=64, width=32, experts=8, top_k=2, tokens=128)
PEERS = ("transformers", "torchao", "transformer_engine", "sonicmoe")

Layer = Callable[[], Tensor]
Leaves = tuple[Tensor, Tensor, Tensor, Tensor]  # x, gate_up, down, probabilities


def transformers_layer(shape: Shape, leaves: Leaves, ids: Tensor) -> Layer | None:
    """transformers' experts on `grouped_mm`, with these weights; None where transformers is missing."""
    try:
        from transformers import Qwen3MoeConfig
        from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts
    except ImportError:
        return None
    sizes = {"hidden_size": shape.hidden, "moe_intermediate_size": shape.width, "num_experts": shape.experts}
    config = Qwen3MoeConfig(**sizes, num_experts_per_tok=shape.top_k)
    config._experts_implementation = "grouped_mm"
    x, gate_up, down, probabilities = leaves
    with torch.device("meta"):
        experts = Qwen3MoeExperts(config)
    for name, weight in (("gate_up_proj", gate_up), ("down_proj", down)):
        delattr(experts, name)  # a parameter, which would refuse a tensor that is none
        setattr(experts, name, weight)
    return lambda: experts(x, ids, probabilities.to(x.dtype))


def layers(shape: Shape, leaves: Leaves, ids: Tensor) -> dict[str, Layer]:
    x, gate_up, down, probabilities = leaves
    plain = StraightforwardLayer(ids, shape.experts)
    found: dict[str, Layer | None] = {
        "torch, straightforward": lambda: plain(*leaves),
        "transformers, grouped_mm": transformers_layer(shape, leaves, ids),
    }

    def ours(recipe: Recipe, prepared: list[Tensor] | None = None) -> Layer:
        text = recipe.to_json()
        return lambda: apply_experts(x, gate_up, down, ids, probabilities, text, "none", prepared or ())

    found |= {f"pauca {name}": ours(getattr(Recipe, name)()) for name in ("bf16", "fp8", "fp4")}
    prepared = prepare_weights(gate_up.detach(), down.detach())
    found["pauca fp4, weights quantized before"] = ours(Recipe.fp4(), prepared)
    return {name: layer for name, layer in found.items() if layer is not None}


def in_fp32(leaves: Leaves, ids: Tensor, dy: Tensor) -> list[Tensor]:
    """Output, and gradients of x and gate_up, in FP32: expert by expert, nothing kept over."""
    x, gate_up, down, probabilities = (leaf.detach() for leaf in leaves)
    y, dx = torch.zeros(x.shape, device=x.device), torch.zeros(x.shape, device=x.device)
    d_gate_up = torch.empty(gate_up.shape, device=x.device)
    for expert in range(len(gate_up)):
        token, place = (ids == expert).nonzero(as_tuple=True)
        rows = x[token].float().requires_grad_()
        first = gate_up[expert].float().requires_grad_()
        gate, up = (rows @ first.t()).chunk(2, 1)
        out = (silu(gate) * up * probabilities[token, place, None].float()) @ down[expert].float().t()
        d_rows, d_gate_up[expert] = torch.autograd.grad(out, (rows, first), dy[token].float())
        y.index_add_(0, token, out.detach())
        dx.index_add_(0, token, d_rows)
    return [y, dx, d_gate_up]


def error(value: Tensor, truth: Tensor) -> float:
    return float((value.detach().float() - truth).norm() / truth.norm())


def memory(layer: Layer, leaves: Leaves, dy: Tensor, tokens: int) -> tuple[float, float]:
    """KiB kept a token, and the peak in GiB."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y = layer()
    kept = torch.cuda.memory_allocated() - before - y.nbytes
    gradients = torch.autograd.grad(y, leaves, dy)
    peak = torch.cuda.max_memory_allocated() - before
    del y, gradients
    return kept / tokens / 1024, peak / 2**30


def time_of(function: Callable[[], object]) -> float | None:
    """Of a CUDA graph; None where the function cannot be captured."""
    try:
        return milliseconds(captured(function))
    except RuntimeError:  # it waits for the device somewhere
        torch.cuda.synchronize()
        return None


def measure(shape: Shape, balanced: bool, on_gpu: bool) -> list[dict]:
    ids, probabilities = routing(shape, balanced)
    x, gate_up, down, dy = tensors(shape)
    leaves = (x, gate_up, down, probabilities.requires_grad_())
    truth = in_fp32(leaves, ids, dy)
    results = []
    for name, layer in layers(shape, leaves, ids).items():

        def both(layer: Layer = layer) -> tuple[Tensor, ...]:
            return torch.autograd.grad(layer(), leaves, dy)

        y = layer()
        values = [y, *torch.autograd.grad(y, leaves[:2], dy)]
        errors = [error(value, true) for value, true in zip(values, truth, strict=True)]
        del y, values
        row = {"shape": shape.name, "routing": "balanced" if balanced else "zipf", "layer": name}
        if on_gpu:
            both()  # compiles, and fills what stays
            kept, peak = memory(layer, leaves, dy, shape.tokens)
            row |= {
                "forward_ms": time_of(layer),
                "both_ms": time_of(both),
                "both_eager_ms": milliseconds(both),
                "kept_kib_per_token": kept,
                "peak_gib": peak,
            }
            gc.collect()
            torch.cuda.empty_cache()
        results.append(row | dict(zip(("error_y", "error_dx", "error_dw"), errors, strict=True)))
    return results


def cell(value: object) -> str:
    if value is None:
        return "not captured"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def versions() -> dict[str, str]:
    found = {}
    for name in PEERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), metavar="NAME")
    parser.add_argument("--routings", nargs="+", choices=["balanced", "zipf"], default=["balanced", "zipf"])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shapes = [SHAPES[name] for name in options.shapes]
    if options.tiny:
        moe_shapes.DEVICE, shapes = "cpu", [TINY]
    torch.set_float32_matmul_precision("highest")  # of what errors are measured from
    print(machine(), versions())
    results = []
    for balanced in (name == "balanced" for name in options.routings):
        for shape in shapes:
            rows = measure(shape, balanced, on_gpu=not options.tiny)
            title = f"{shape.name}, {'balanced' if balanced else 'zipf'}"
            show(title, list(rows[0])[2:], [[cell(value) for value in list(row.values())[2:]] for row in rows])
            results += rows
            write_json(options.json, {"versions": versions(), "layers": results})
            gc.collect()
            if not options.tiny:
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
