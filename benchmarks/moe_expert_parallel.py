"""Experts divided over GPUs: correctness, the exchange by format, the layer by recipe, scaling, overlap.

    torchrun --nproc-per-node 8 benchmarks/moe_expert_parallel.py [--sizes deepseek-v3 16b] [--json PATH]
    torchrun --nproc-per-node 2 benchmarks/moe_expert_parallel.py --tiny      # on CPUs, to see that it runs

Works with 1 to 8 GPUs; scaling is measured on 1, 2, 4, ... of them. Times are of the slowest rank, per call, over
repeated calls without a pause: a forward waits for its counts, so that the host's time is in them, as in training.
Bytes are those that leave a rank for others, in the mean over ranks, and beside them what the planner predicts.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("NCCL_NVLS_ENABLE", "0")  # before torch: NVLink multicast is not to be relied on

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from moe_shapes import machine, show, write_json
from pauca.moe import Experts, MoE, Recipe, parallelize
from pauca.moe.layer.kept import to_bytes
from pauca.moe.layer.passes import quantize
from pauca.moe.models.shapes import GroupedQueryAttention, ModelShape
from pauca.moe.parallel import wire_bytes
from pauca.moe.parallel.exchange import Exchange, arrange_exchange
from pauca.moe.plan.speed import all_to_all_bytes

RECIPES = {"bf16": Recipe.bf16(), "fp8": Recipe.fp8(), "fp4": Recipe.fp4()}


@dataclass(frozen=True)
class Size:
    """One MoE layer; experts and tokens are a rank's."""

    name: str
    hidden: int
    width: int
    top_k: int
    experts: int
    tokens: int
    model_experts: int  # of the whole model: what the exchange alone is measured with

    def planned(self, experts: int) -> ModelShape:
        return ModelShape(
            self.name, vocabulary=1, layers=1, hidden=self.hidden, attention=GroupedQueryAttention(1, 1, 2),
            experts=experts, top_k=self.top_k, width=self.width,
        )  # fmt: skip


SIZES = {
    "deepseek-v3": Size("deepseek-v3", 7168, 2048, top_k=8, experts=8, tokens=4096, model_experts=256),
    "16b": Size("16b", 2048, 1408, top_k=6, experts=8, tokens=4096, model_experts=64),
}
TINY = Size("tiny", 64, 32, top_k=2, experts=4, tokens=64, model_experts=16)


class Bench:
    """The ranks that measure, and how."""

    def __init__(self, device: torch.device, ranks: int, repeats: int) -> None:
        self.device, self.ranks, self.repeats = device, ranks, repeats
        self.mesh = DeviceMesh(device.type, list(range(ranks)), mesh_dim_names=("ep",))
        self.takes_part = dist.get_rank() < ranks

    @property
    def group(self) -> dist.ProcessGroup:
        return self.mesh.get_group()

    def reduce(self, value: float, how: dist.ReduceOp.RedOpType) -> float:
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, how, group=self.group)
        return tensor.item()

    def mean(self, value: float) -> float:
        return self.reduce(value, dist.ReduceOp.SUM) / self.ranks

    def milliseconds(self, function: Callable[[], object]) -> float:
        """Per call, of the slowest rank: the median of three series."""
        for _ in range(2):
            function()
        series = []
        for _ in range(3):
            self._wait()
            start = time.perf_counter()
            for _ in range(self.repeats):
                function()
            self._wait()
            series.append(1000 * (time.perf_counter() - start) / self.repeats)
        return self.reduce(statistics.median(series), dist.ReduceOp.MAX)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        dist.barrier(self.group)

    def tokens(self, count: int, hidden: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(10 + dist.get_rank())
        return torch.randn(count, hidden, device=self.device, dtype=torch.bfloat16, generator=generator)

    def choices(self, count: int, experts: int, top_k: int) -> Tensor:
        """Experts drawn evenly, without replacement."""
        generator = torch.Generator(self.device).manual_seed(20 + dist.get_rank())
        return torch.rand(count, experts, device=self.device, generator=generator).topk(top_k, 1).indices


def correctness(bench: Bench, hidden: int, width: int) -> list[dict]:
    """Against the same experts on each rank alone, with all tokens; ranks have different numbers of tokens."""
    rank, experts, top_k = dist.get_rank(), 4 * bench.ranks, 3
    counts = [96 + 16 * r for r in range(bench.ranks)]
    own = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    generator = torch.Generator().manual_seed(1)
    x, dy = (torch.randn(sum(counts), hidden, generator=generator).bfloat16().to(bench.device) for _ in range(2))
    ids = torch.rand(sum(counts), experts, generator=generator).topk(top_k, 1).indices.to(bench.device)
    weights = torch.rand(sum(counts), top_k, generator=generator).to(bench.device)

    def run(bank: Experts, part: slice) -> tuple[Tensor, ...]:
        leaf, p = x[part].clone().requires_grad_(), weights[part].clone().requires_grad_()
        y = bank(leaf, ids[part], p)
        y.backward(dy[part])
        return y.detach(), *(tensor.grad for tensor in (leaf, p, bank.down))

    results = []
    for name, recipe in RECIPES.items():
        torch.manual_seed(0)
        whole = Experts(hidden, width, experts, recipe).to(bench.device)
        everything = run(whole, slice(None))
        here = run(parallelize(whole, bench.mesh), own)
        alone = [tensor[own] for tensor in everything[:3]] + [everything[3][4 * rank : 4 * rank + 4]]
        errors = [float((a - b).float().norm() / b.float().norm()) for a, b in zip(here, alone, strict=True)]
        worst = [bench.reduce(error, dist.ReduceOp.MAX) for error in errors]
        results.append({"recipe": name} | dict(zip(("y", "dx", "d_probabilities", "d_down"), worst, strict=True)))
    return results


def exchanges(bench: Bench, size: Size) -> list[dict]:
    """The steps of an exchange, by what travels: each format to the experts, and BF16 back."""
    x, ids = bench.tokens(size.tokens, size.hidden), bench.choices(size.tokens, size.model_experts, size.top_k)

    def plan() -> Exchange:
        return arrange_exchange(ids, size.model_experts // bench.ranks, bench.group, 0)

    exchange, plan_ms, place = plan(), bench.milliseconds(plan), dist.get_rank()
    leaving, arriving = (sum(counts) - counts[place] for counts in (exchange.leaving, exchange.arriving))

    def measured(travels: str, prepare_ms: float, travel: Callable[[], object], rows: int, row_bytes: int) -> dict:
        travel_ms, sent = bench.milliseconds(travel), bench.mean(rows * row_bytes)
        return {
            "size": size.name,
            "travels": travels,
            "plan_ms": plan_ms,
            "prepare_ms": prepare_ms,
            "travel_ms": travel_ms,
            "bytes": sent,
            "planned_bytes": planned_rows(size, bench.ranks) * row_bytes,
            "gigabytes_per_s": sent / travel_ms / 1e6,
        }

    results = []
    for format_, recipe in (("mxfp4", Recipe.fp4()), ("fp8", Recipe.fp8()), ("bf16", Recipe.bf16())):

        def prepare(format_=format_, recipe=recipe) -> list[Tensor]:
            return to_bytes(exchange.rows(quantize(x, format_, recipe)))

        def travel(rows: list[Tensor] = prepare()) -> list[Tensor]:  # noqa: B008 (of this format)
            return exchange.send(rows).arrive()

        row_bytes = wire_bytes(recipe, size.hidden, size.top_k).tokens
        results.append(measured(f"{format_}, to the experts", bench.milliseconds(prepare), travel, leaving, row_bytes))
    back = torch.zeros(sum(exchange.arriving), size.hidden, device=bench.device, dtype=torch.bfloat16)
    results.append(measured("bf16, back", 0.0, lambda: exchange.send_back([back]).arrive(), arriving, 2 * size.hidden))
    return results


def planned_rows(size: Size, ranks: int) -> int:
    """That leave a rank, by the planner."""
    shape = size.planned(size.model_experts)
    return all_to_all_bytes(Recipe.bf16(), shape, size.tokens, ranks)["combine"] // (2 * size.hidden)


def layer_of(bench: Bench, size: Size, experts: int, recipe: Recipe, shared: int, overlap: bool = True) -> MoE:
    """Built on each rank without memory for the others' experts."""
    with torch.device("meta"):
        layer = MoE(size.hidden, size.width, experts, size.top_k, shared_experts=shared, recipe=recipe)
    parallelize(layer, bench.mesh, overlap=overlap)
    layer = layer.to(torch.bfloat16).to_empty(device=bench.device)
    torch.manual_seed(0)
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return layer


def layer_times(bench: Bench, size: Size, experts: int, recipe: Recipe, shared: int = 0, overlap: bool = True) -> dict:
    layer, x = layer_of(bench, size, experts, recipe, shared, overlap), bench.tokens(size.tokens, size.hidden)
    dy = torch.randn_like(x)
    leaves = [x.requires_grad_(), *layer.parameters()]

    def forward() -> Tensor:
        return layer(x)

    both = bench.milliseconds(lambda: torch.autograd.grad(forward(), leaves, dy, materialize_grads=True))
    return {
        "size": size.name,
        "ranks": bench.ranks,
        "experts": experts,
        "tokens_a_rank": size.tokens,
        "forward_ms": bench.milliseconds(forward),
        "both_ms": both,
        "tokens_per_s": 1000 * size.tokens * bench.ranks / both,
    }


def scaling(benches: list[Bench], size: Size) -> list[dict]:
    """Weak: a rank's experts and tokens stay; strong: the layer's experts and all tokens stay."""
    most, results = benches[-1].ranks, []
    for bench in benches:
        if bench.takes_part:
            less = replace(size, tokens=4 * size.tokens // bench.ranks)
            for kind, how, experts in (
                ("weak", size, size.experts * bench.ranks),
                ("strong", less, size.experts * max(4, most)),
            ):
                for name, recipe in RECIPES.items():
                    results.append({"scaling": kind, "recipe": name} | layer_times(bench, how, experts, recipe))
                    _forget(bench)
        dist.barrier()
    return results


def overlaps(bench: Bench, size: Size) -> list[dict]:
    """With a shared expert, computed beside the exchange, after it, and not at all."""
    results = []
    for name, recipe in RECIPES.items():
        for label, shared, overlap in (("no shared expert", 0, True), ("after", 1, False), ("beside", 1, True)):
            times = layer_times(bench, size, size.experts * bench.ranks, recipe, shared, overlap)
            results.append({"recipe": name, "shared_expert": label} | times)
            _forget(bench)
    return results


def _forget(bench: Bench) -> None:
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


def table(title: str, rows: list[dict]) -> None:
    if dist.get_rank() == 0 and rows:
        show(title, list(rows[0]), [[f"{v:.2e}" if isinstance(v, float) and 0 < v < 0.01 else v for v in row.values()]
                                    for row in rows])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--parts", nargs="+", choices=["correctness", "exchange", "scaling", "overlap"],
                        default=["correctness", "exchange", "scaling", "overlap"])  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="a toy on CPUs over gloo")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    device = torch.device("cpu" if arguments.tiny else f"cuda:{os.environ['LOCAL_RANK']}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if arguments.tiny else "nccl")
    world = dist.get_world_size()
    numbers = [n for n in (1, 2, 4, 8) if n <= world and world % n == 0]
    benches = [Bench(device, n, 2 if arguments.tiny else 10) for n in numbers]
    bench, sizes = benches[-1], [TINY] if arguments.tiny else [SIZES[name] for name in arguments.sizes]
    assert bench.ranks == world, f"run on 1, 2, 4 or 8 ranks, not {world}"

    results = {}
    if dist.get_rank() == 0:
        print(machine() | {"ranks": world})
    if "correctness" in arguments.parts:
        results["correctness"] = correctness(bench, *((64, 32) if arguments.tiny else (1024, 512)))
        table("relative difference from one GPU, worst rank", results["correctness"])
    for size in sizes:
        for part, function in (
            ("exchange", lambda size: exchanges(bench, size)),
            ("scaling", lambda size: scaling(benches, size)),
            ("overlap", lambda size: overlaps(bench, size)),
        ):
            if part in arguments.parts:
                rows = function(size)
                results.setdefault(part, []).extend(rows)
                table(f"{part}, {size.name}", rows)
    if dist.get_rank() == 0:
        write_json(arguments.json, results)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
