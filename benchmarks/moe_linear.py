"""Linear layers whose input is kept in few bits: time of forward and backward, kept bytes and errors beside torch's.

    python benchmarks/moe_linear.py [--tokens 4096 16384] [--weights bf16 fp32] [--json PATH]
    python benchmarks/moe_linear.py --tiny        # on a CPU, to see that it runs; no times

The projections of DeepSeek-V3's and Qwen3-30B's attention, and DeepSeek-V3's dense feed-forward. `torch` is its BF16
product, whose input is kept in BF16; `fp8` is `QuantizedLinear` keeping FP8, `fp4` keeping MXFP4, `from kept` keeping
MXFP4 and multiplying rows made from it. Milliseconds are of a forward and backward, launched by the host, medians;
"recorded" as one CUDA graph. Weights are BF16, or FP32 and then rounded in every pass, as trainings hold them. Kept
bytes are the allocator's, between forward and backward. Errors are relative, in the norm, to products in FP64.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import moe_shapes
from moe_shapes import captured, machine, milliseconds, show, write_json
from pauca.moe import Recipe
from pauca.moe.layer import QuantizedLinear


@dataclass(frozen=True)
class Projection:
    name: str
    inputs: int
    outputs: int


PROJECTIONS = (
    Projection("deepseek-v3 q_a", 7168, 1536),
    Projection("deepseek-v3 q_b", 1536, 24576),
    Projection("deepseek-v3 kv_b", 512, 32768),
    Projection("deepseek-v3 o", 16384, 7168),
    Projection("deepseek-v3 gate and up", 7168, 36864),
    Projection("deepseek-v3 down", 18432, 7168),
    Projection("qwen3-30b q", 2048, 4096),
    Projection("qwen3-30b k and v", 2048, 1024),
    Projection("qwen3-30b o", 4096, 2048),
)
TINY = (Projection("tiny", 64, 96),)
WEIGHTS = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Rounded(nn.Module):
    """The peer: torch's product in BF16."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * inputs**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.bfloat16())


WAYS: dict[str, Callable[[int, int], nn.Module]] = {
    "torch": Rounded,
    "fp8": lambda inputs, outputs: QuantizedLinear(inputs, outputs, Recipe.fp8(), kept="fp8"),
    "fp4": lambda inputs, outputs: QuantizedLinear(inputs, outputs, Recipe.fp4()),
    "from kept": lambda inputs, outputs: QuantizedLinear(inputs, outputs, Recipe.fp4(), from_kept=True),
}


def made(way: str, of: Projection, tokens: int, weights: str) -> tuple[nn.Module, Tensor, Tensor]:
    """The layer, its input and its output's gradient; the same numbers whatever the way."""
    torch.manual_seed(0)
    with torch.device(moe_shapes.DEVICE):
        layer = WAYS[way](of.inputs, of.outputs)
        layer.weight.data = (torch.randn(of.outputs, of.inputs) * of.inputs**-0.5).to(WEIGHTS[weights])
        x = torch.randn(tokens, of.inputs, dtype=torch.bfloat16).requires_grad_()
        dy = torch.randn(tokens, of.outputs, dtype=torch.bfloat16)
    return layer, x, dy


def pass_of(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], None]:
    """A forward and backward, whose gradients are made anew."""

    def forward_and_backward() -> None:
        x.grad = layer.weight.grad = None
        layer(x).backward(dy)

    return forward_and_backward


def kept_bytes(layer: nn.Module, x: Tensor) -> int:
    """What a forward leaves for backward beside its output; x counts where it is needed again."""
    before = torch.cuda.memory_allocated()
    y = layer(x)
    kept = torch.cuda.memory_allocated() - before - y.numel() * y.element_size()
    return kept + (x.numel() * x.element_size() if isinstance(layer, Rounded) else 0)


def errors(layer: nn.Module, x: Tensor, dy: Tensor) -> dict[str, float]:
    """Of the output, the input's gradient and the weight's, on some of the tokens."""
    some, gradient = x.detach()[:512].requires_grad_(), dy[:512]
    layer.weight.grad = None
    y = layer(some)
    y.backward(gradient)
    weight, exact_x, exact_dy = layer.weight.detach().double(), some.detach().double(), gradient.double()
    exact = {"y": exact_x @ weight.t(), "dx": exact_dy @ weight, "dW": exact_dy.t() @ exact_x}
    found = {"y": y.detach(), "dx": some.grad, "dW": layer.weight.grad}
    return {f"error {n}": ((found[n].double() - exact[n]).norm() / exact[n].norm()).item() for n in exact}


def measure(of: Projection, tokens: int, weights: str) -> list[dict]:
    rows = []
    for way in WAYS:
        layer, x, dy = made(way, of, tokens, weights)
        row = {"projection": of.name, "tokens": tokens, "weights": weights, "way": way}
        row["ms"] = milliseconds(pass_of(layer, x, dy))
        row["recorded"] = milliseconds(captured(pass_of(layer, x, dy)))
        row["times torch's"] = row["recorded"] / rows[0]["recorded"] if rows else 1.0
        row["kept bytes a channel"] = kept_bytes(layer, x) / x.numel()
        rows.append(row | errors(layer, x, dy))
        del layer, x, dy
        torch.cuda.empty_cache()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096, 16384])
    parser.add_argument("--weights", nargs="+", choices=list(WEIGHTS), default=list(WEIGHTS))
    parser.add_argument("--tiny", action="store_true", help="small sizes on a CPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.tiny:
        moe_shapes.DEVICE = "cpu"
        for way in WAYS:
            for weights in WEIGHTS:
                layer, x, dy = made(way, TINY[0], 64, weights)
                pass_of(layer, x, dy)()
                print(way, weights, {name: f"{error:.1e}" for name, error in errors(layer, x, dy).items()})
        return
    print(machine(), flush=True)
    results: list[dict] = []
    for weights in options.weights:
        for tokens in options.tokens:
            for of in PROJECTIONS:
                results += measure(of, tokens, weights)
                write_json(options.json, results)
    show("Linear layers, forward and backward", list(results[0]), [list(row.values()) for row in results])


if __name__ == "__main__":
    main()
