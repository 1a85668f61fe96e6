"""Tokens/s of a stack of MoE layers under one memory budget: the fastest way each recipe finds to stay within it.

    python benchmarks/moe_budget.py [--shapes deepseek-v3 16b] [--layers N] [--budget GIB] [--eager] [--json PATH]
    python benchmarks/moe_budget.py --device cpu        # tiny sizes, to see that it runs; memory without the peak

Each layer is x + MoE(RMSNorm(x)) with its router and shared expert; weights and gradients in BF16, gradients
accumulate. One sequence of 4096 tokens passes at a time: smaller passes, which would also save memory, are not to be
had. Memory is the allocator's peak over a step of forward and backward: weights, gradients, what is kept and the
working set. The optimizer is not part of the step. Time is that of the step as a CUDA graph, or with --eager as Python
launches it.

Per recipe every layer may recompute nothing, `activation`, `experts`, or be checkpointed whole, as is customary. First
all layers alike are measured; from these the fastest mix that fits the budget is predicted (memory and time are sums
over layers), and then measured itself. The budget, unless given, is what the fp4 recipe takes without recomputing
anything, rounded up to a tenth of a GiB.
"""

import argparse
import gc
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moe_shapes import captured, machine, milliseconds, show, write_json
from pauca.moe import MoE, Recipe

Mode = Literal["none", "activation", "experts", "layer"]
MODES: tuple[Mode, ...] = ("none", "activation", "experts", "layer")
"""What a layer recomputes; `layer` is torch's checkpoint around all of it."""

RECIPES = {
    "bf16": Recipe.bf16(),
    "fp8": Recipe.fp8(),
    "fp8, z in fp8": Recipe.fp8(kept_z="fp8"),
    "fp4": Recipe.fp4(),
}
COLUMNS = ("recipe", "recomputes", "kept GiB", "peak GiB", "tokens/s")
GIB = 2**30


@dataclass(frozen=True)
class Stack:
    """Equal MoE layers, and the tokens that pass through them at once."""

    name: str
    layers: int
    tokens: int
    hidden: int
    width: int
    experts: int
    top_k: int
    shared_experts: int


STACKS = {
    # 8 of the 256 experts and the tokens that 32 GPUs in expert parallel would send them: each token in 8 copies.
    "deepseek-v3": Stack("deepseek-v3", 16, 4096, hidden=7168, width=2048, experts=8, top_k=8, shared_experts=1),
    "16b": Stack("16b", 16, 4096, hidden=2048, width=1408, experts=64, top_k=6, shared_experts=2),
}
TINY = Stack("tiny", 3, 64, hidden=64, width=32, experts=8, top_k=2, shared_experts=1)


class Layers(nn.Module):
    """The stack; `modes` says what each layer recomputes, and may be changed between steps."""

    def __init__(self, stack: Stack, device: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.modes: Sequence[Mode] = ["none"] * stack.layers
        with torch.device(device):
            self.norms = nn.ModuleList(nn.RMSNorm(stack.hidden) for _ in range(stack.layers))
            self.layers = nn.ModuleList(
                MoE(stack.hidden, stack.width, stack.experts, stack.top_k, shared_experts=stack.shared_experts)
                for _ in range(stack.layers)
            )
        self.bfloat16()

    def set(self, recipe: Recipe, modes: Sequence[Mode]) -> None:
        self.modes = modes
        for layer, mode in zip(self.layers, modes, strict=True):
            for bank in (layer.experts, layer.shared):
                bank.recipe = recipe
                bank.recompute = "none" if mode == "layer" else mode

    def forward(self, x: Tensor) -> Tensor:
        for norm, layer, mode in zip(self.norms, self.layers, self.modes, strict=True):

            def block(x: Tensor, norm: nn.Module = norm, layer: nn.Module = layer) -> Tensor:
                return x + layer(norm(x))

            x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False) if mode == "layer" else block(x)
        return x


@dataclass(frozen=True)
class Measured:
    """One way to run the stack."""

    recipe: str
    modes: tuple[Mode, ...]
    tokens_per_second: float
    peak: float  # bytes, all in all
    kept: float  # bytes that a forward leaves to its backward

    @property
    def recomputed(self) -> str:
        """As in `3 none + 5 experts`."""
        counts = {mode: self.modes.count(mode) for mode in MODES}
        return " + ".join(f"{count} {mode}" for mode, count in counts.items() if count)

    def row(self) -> tuple[object, ...]:
        return (
            self.recipe,
            self.recomputed,
            f"{self.kept / GIB:.3g}",
            f"{self.peak / GIB:.3g}",
            f"{self.tokens_per_second:,.0f}",
        )


class Bench:
    """The stack on one device, with its input and the gradient of its output."""

    def __init__(self, stack: Stack, device: str, eager: bool) -> None:
        self.stack, self.device, self.eager = stack, device, eager
        self.model = Layers(stack, device)
        shape = (stack.tokens, stack.hidden)
        self.x = torch.randn(shape, device=device, dtype=torch.bfloat16).requires_grad_()
        self.dy = torch.randn(shape, device=device, dtype=torch.bfloat16)
        for tensor in (self.x, *self.model.parameters()):
            tensor.grad = torch.zeros_like(tensor)

    def step(self) -> None:
        self.model(self.x).backward(self.dy)
        for layer in self.model.layers:  # the graph of this loss, not used here, would outlive the step, and its stream
            layer.auxiliary_loss = None

    def measure(self, recipe: str, modes: Sequence[Mode]) -> Measured:
        self.model.set(RECIPES[recipe], modes)
        self.step()  # compiles
        peak, kept = self._gpu_memory() if self.device == "cuda" else self._cpu_memory()
        seconds = self._gpu_seconds() if self.device == "cuda" else self._cpu_seconds()
        return Measured(recipe, tuple(modes), self.stack.tokens / seconds, peak, kept)

    def _gpu_seconds(self) -> float:
        step = self.step if self.eager else captured(self.step)
        return milliseconds(step, repeats=5, warm_up=1) / 1e3

    def _cpu_seconds(self) -> float:
        start = time.perf_counter()
        self.step()
        return time.perf_counter() - start

    def _gpu_memory(self) -> tuple[float, float]:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        y = self.model(self.x)
        kept = torch.cuda.memory_allocated() - before - y.nbytes
        y.backward(self.dy)
        return torch.cuda.max_memory_allocated(), kept

    def _cpu_memory(self) -> tuple[float, float]:
        """What autograd holds, each storage once; the peak without the working set."""
        held: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = self.model(self.x)
        weights = [p.untyped_storage() for p in self.model.parameters()]
        for storage in [self.x.untyped_storage(), *weights]:
            held.pop(storage.data_ptr(), None)
        y.backward(self.dy)
        return sum(held.values()) + 2 * sum(s.nbytes() for s in weights), sum(held.values())


def mixes(alike: dict[Mode, Measured], budget: float) -> list[tuple[Mode, ...]]:
    """Ways to recompute within a budget, by predicted time, fastest first; those that recompute more come first in
    the stack, where their memory would be held longest."""
    layers = len(alike["none"].modes)
    ways = []
    for counts in itertools.product(range(layers + 1), repeat=len(MODES)):
        if sum(counts) == layers:
            shares = [count / layers for count in counts]
            points = [alike[mode] for mode in MODES]
            memory = sum(share * point.peak for share, point in zip(shares, points, strict=True))
            seconds = sum(share / point.tokens_per_second for share, point in zip(shares, points, strict=True))
            modes = tuple(m for m, n in zip(reversed(MODES), reversed(counts), strict=True) for _ in range(n))
            if memory <= budget:
                ways.append((seconds, modes))
    return [modes for _, modes in sorted(ways)]


def best_within(bench: Bench, recipe: str, alike: dict[Mode, Measured], budget: float) -> Measured | None:
    """The fastest way that was measured to stay within the budget."""
    candidates = [measured for measured in alike.values() if measured.peak <= budget]
    for modes in mixes(alike, budget)[:8]:
        mixed = next((m for m in alike.values() if m.modes == modes), None) or bench.measure(recipe, modes)
        if mixed.peak <= budget:
            candidates.append(mixed)
            break
    return max(candidates, key=lambda measured: measured.tokens_per_second, default=None)


def run(stack: Stack, device: str, eager: bool, budget_gib: float | None) -> dict:
    bench = Bench(stack, device, eager)
    static = 2 * sum(p.nbytes for p in bench.model.parameters())
    alike = {recipe: {mode: bench.measure(recipe, [mode] * stack.layers) for mode in MODES} for recipe in RECIPES}
    ways = [measured for by_mode in alike.values() for measured in by_mode.values()]
    show(
        f"{stack.name}: {stack.layers} layers, {stack.tokens:,} tokens; weights and gradients {static / GIB:.2f} GiB",
        COLUMNS,
        [measured.row() for measured in ways],
    )
    less = 1 - alike["fp4"]["none"].kept / alike["fp8"]["none"].kept
    print(f"recomputing nothing, fp4 keeps {less:.1%} less than fp8 (router, norms and shared experts included)")
    needed = alike["fp4"]["none"].peak
    budget = GIB * (math.ceil(10 * needed / GIB) / 10 if budget_gib is None else budget_gib)
    best = {recipe: best_within(bench, recipe, by_mode, budget) for recipe, by_mode in alike.items()}
    found = [measured for measured in best.values() if measured]
    fp8 = max((m.tokens_per_second for m in found if m.recipe.startswith("fp8")), default=math.nan)
    customary = alike["fp8"]["layer"]
    show(
        f"{stack.name}: the fastest that fits {budget / GIB:.2f} GiB, and FP8 with whole layers checkpointed",
        (*COLUMNS, "of budget", "x best fp8"),
        [(*m.row(), f"{m.peak / budget:.1%}", m.tokens_per_second / fp8) for m in [*found, customary]],
    )
    for recipe, measured in best.items():
        if measured is None:
            short = min(m.peak for m in alike[recipe].values()) - budget
            print(f"{recipe}: nothing fits; the leanest lacks {short / GIB:.2f} GiB")
    return {
        "stack": vars(stack),
        "static_bytes": static,
        "budget_bytes": budget,
        "alike": [vars(measured) for measured in ways],
        "best": [vars(measured) for measured in found],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=list(STACKS), default=list(STACKS))
    parser.add_argument("--layers", type=int, help="of each stack")
    parser.add_argument("--tokens", type=int, help="in one pass")
    parser.add_argument("--budget", type=float, help="GiB, everything included")
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    stacks = [TINY] if arguments.device == "cpu" else [STACKS[name] for name in arguments.shapes]
    if arguments.device == "cuda":
        print(machine())
    results = []
    for stack in stacks:
        stack = replace(stack, layers=arguments.layers or stack.layers, tokens=arguments.tokens or stack.tokens)
        results.append(run(stack, arguments.device, arguments.eager, arguments.budget))
        gc.collect()
    write_json(arguments.json, results)


if __name__ == "__main__":
    main()
