"""What the benchmarks of the MoE layer share: shapes, routings, the peer, and how things are timed and reported."""

import json
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import grouped_mm, silu

from pauca.moe.layer.permutation import Permutation, sort_by_expert


@dataclass(frozen=True)
class Shape:
    """The routed experts of one layer on one GPU."""

    name: str
    hidden: int
    width: int
    experts: int
    top_k: int
    tokens: int

    @property
    def copies(self) -> int:
        return self.tokens * self.top_k

    @property
    def weights(self) -> int:
        return 3 * self.experts * self.hidden * self.width

    @property
    def operations(self) -> int:
        """Of the products of one forward; backward takes twice as many."""
        return 2 * self.copies * 3 * self.hidden * self.width


SHAPES = {
    "deepseek-v3": Shape("deepseek-v3", hidden=7168, width=2048, experts=8, top_k=8, tokens=4096),
    "16b": Shape("16b", hidden=2048, width=1408, experts=64, top_k=6, tokens=4096),
}

DEVICE = "cuda"  # a benchmark may set it to see on a CPU that it runs


def routing(shape: Shape, balanced: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Expert ids and probabilities on the device. Skewed: experts are as popular as Zipf's law says, 1 / rank.

    Where a token visits as many experts as there are, a skew must draw with replacement: a token may then visit an
    expert twice, which changes nothing for what is timed.
    """
    generator = torch.Generator().manual_seed(seed)
    if balanced:
        copies = torch.arange(shape.copies) % shape.experts
        ids = copies.view(shape.tokens, shape.top_k)
    else:
        popularity = 1 / torch.arange(1, shape.experts + 1)
        replacement = shape.top_k == shape.experts
        ids = torch.multinomial(popularity.expand(shape.tokens, -1), shape.top_k, replacement, generator=generator)
    probabilities = torch.randn(shape.tokens, shape.top_k, generator=generator).softmax(1)
    return ids.to(DEVICE), probabilities.to(DEVICE)


def tensors(shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, gate_up, down and the output's gradient: Gaussian, BF16; the first three ask for gradients."""
    torch.manual_seed(0)
    x = torch.randn(shape.tokens, shape.hidden, device=DEVICE, dtype=torch.bfloat16)
    gate_up = torch.empty(shape.experts, 2 * shape.width, shape.hidden, device=DEVICE, dtype=torch.bfloat16)
    down = torch.empty(shape.experts, shape.hidden, shape.width, device=DEVICE, dtype=torch.bfloat16)
    for weight in (gate_up, down):
        torch.nn.init.normal_(weight, std=weight.shape[2] ** -0.5)
    dy = torch.randn_like(x)
    return x.requires_grad_(), gate_up.requires_grad_(), down.requires_grad_(), dy


@torch.compile
def _weighted_swiglu(z: Tensor, probability: Tensor) -> Tensor:
    gate, up = z.float().chunk(2, 1)
    return (silu(gate) * up * probability[:, None]).bfloat16()


class StraightforwardLayer:
    """The peer: a BF16 layer as one writes it on torch, given its routing, already sorted, for free."""

    def __init__(self, ids: Tensor, experts: int) -> None:
        permutation: Permutation = sort_by_expert(ids, experts)
        rows = int(permutation.offsets[-1])
        self.offsets = permutation.offsets
        self.used = permutation.row_to_copy[:rows] >= 0
        self.token = permutation.row_to_token[:rows].clamp(min=0).long()
        self.copy = permutation.row_to_copy[:rows].clamp(min=0).long()

    def __call__(self, x: Tensor, gate_up: Tensor, down: Tensor, probabilities: Tensor) -> Tensor:
        rows = x.index_select(0, self.token)
        z = grouped_mm(rows, gate_up.transpose(1, 2), offs=self.offsets)
        weight = probabilities.reshape(-1).index_select(0, self.copy) * self.used
        y_rows = grouped_mm(_weighted_swiglu(z, weight), down.transpose(1, 2), offs=self.offsets)
        return torch.zeros_like(x).index_add(0, self.token, y_rows)


def milliseconds(function: Callable[[], object], repeats: int = 20, warm_up: int = 5) -> float:
    """Median time of the function on the GPU, by events around each call."""
    for _ in range(warm_up):
        function()
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in pairs:
        start.record()
        function()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in pairs)


def captured(function: Callable[[], object]) -> Callable[[], None]:
    """The function as a CUDA graph: what remains of its time when the host is not in the way."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # compiles kernels, which a capture must not
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def machine() -> dict[str, str]:
    import triton

    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
    }


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table with columns as wide as they need to be."""
    texts = [list(columns), *([f"{c:.2f}" if isinstance(c, float) else str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(columns))]
    print(f"\n{title}")
    for row in texts:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write_json(path: Path | None, results: object) -> None:
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))
