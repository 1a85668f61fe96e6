"""The planner's memory beside the allocator's: `MoELM` of three sizes, each recipe, several recompute policies.

    python benchmarks/moe_plan.py [--models base large xl] [--json PATH]
    python benchmarks/moe_plan.py --device cpu     # a toy, to see that it runs: there is no allocator to ask

`kept` is what is allocated after forward and loss above what was before: activations, and the loss's gradients. `peak`
is the most that is allocated until backward has ended, weights and gradients (FP32, as for gradient accumulation)
included. Each predicted, as allocated, and the error. The aim is 5 %.
"""

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from moe_shapes import machine, show, write_json
from pauca.moe import Experts
from pauca.moe.layer.recipe import RECIPES, Precision
from pauca.moe.models.config import Recomputation
from pauca.moe.models.lm import LM_SIZES, LMConfig, MoELM
from pauca.moe.plan.evaluate import evaluate
from pauca.moe.plan.memory import kept_by_head
from pauca.moe.plan.task import Assumptions, ParallelLayout, Plan, PlanTask, Way

TOKENS = {"toy": (2, 64), "base": (16, 1024), "large": (8, 2048), "xl": (4, 4096)}  # sequences and their length
POLICIES = (
    Recomputation(),
    Recomputation(norms=True, experts="activation"),
    Recomputation(attention=True),
    Recomputation(norms=True, attention=True, experts="experts"),
)


@dataclass(frozen=True)
class Compared:
    """One configuration; sizes in bytes."""

    model: str
    recipe: str
    recomputes: str
    kept: int
    kept_predicted: int
    peak: int
    peak_predicted: int

    def row(self) -> tuple[object, ...]:
        cells: list[object] = [self.recipe, self.recomputes]
        for measured, predicted in ((self.kept, self.kept_predicted), (self.peak, self.peak_predicted)):
            error = f"{predicted / measured - 1:+.1%}" if measured else ""
            cells += [f"{predicted / 2**30:.2f}", f"{measured / 2**30:.2f}", error]
        return tuple(cells)

    @property
    def error(self) -> float:
        """The larger of the two, as a share."""
        if not self.kept:
            return math.nan
        return max(abs(self.kept_predicted / self.kept - 1), abs(self.peak_predicted / self.peak - 1))


def set_numerics(model: MoELM, recipe: Precision, recompute: Recomputation) -> None:
    for block in model.blocks:
        block.recompute = recompute
    for module in model.modules():
        if isinstance(module, Experts):
            module.recipe, module.recompute = RECIPES[recipe], recompute.experts


def predict(config: LMConfig, tokens: int, recipe: Precision, recompute: Recomputation) -> Plan:
    assumptions = Assumptions(parameter_bytes=4, gradient_bytes=4, optimizer_bytes=0, reserved_gb=0)
    task = PlanTask(config.shape, 1, 2**37, tokens, config.context, assumptions=assumptions)
    return evaluate(task, Way(recipe, ParallelLayout(1, 1, 1), recompute))


def measure(model: MoELM, tokens: torch.Tensor, targets: torch.Tensor) -> tuple[int, int]:
    """Bytes kept after forward, and at the peak; 0 on a CPU."""
    model.loss(tokens, targets).total.backward()  # compiles, fills caches that stay, makes the gradients
    if tokens.device.type == "cpu":
        return 0, 0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss = model.loss(tokens, targets).total
    kept = torch.cuda.memory_allocated() - before
    loss.backward()
    return kept, torch.cuda.max_memory_allocated()


def compare(name: str, device: str) -> list[Compared]:
    batch, length = TOKENS[name]
    config = replace(LM_SIZES[name], context=length)
    torch.manual_seed(0)
    with torch.device(device):
        model = MoELM(config)
        text = torch.randint(config.vocabulary, (batch, length + 1))
    tokens, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    found = []
    for recipe in RECIPES:
        for recompute in POLICIES:
            set_numerics(model, recipe, recompute)
            plan = predict(config, tokens.numel(), recipe, recompute)
            kept, peak = measure(model, tokens, targets)
            loss = sum(kept_by_head(config.shape, tokens.numel()).values())
            expected = plan.memory["activations"] + loss
            found.append(Compared(name, recipe, str(plan.way.policy), kept, expected, peak, plan.total))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(TOKENS), default=["base", "large", "xl"])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        print(machine())
    results: list[Compared] = []
    for name in ["toy"] if arguments.device == "cpu" else arguments.models:
        found = compare(name, arguments.device)
        columns = ("recipe", "recomputes", "kept: GiB", "allocated", "error", "peak: GiB", "allocated", "error")
        show(f"{name}: {math.prod(TOKENS[name]):,} tokens; predicted and allocated", columns, [c.row() for c in found])
        results += found
        if arguments.device == "cuda":
            torch.cuda.empty_cache()
    print(f"\nlargest error: {max(compared.error for compared in results):.1%}")
    write_json(arguments.json, [vars(compared) for compared in results])


if __name__ == "__main__":
    main()
