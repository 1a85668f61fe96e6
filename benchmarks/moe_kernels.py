"""The MoE layer's conversions, SwiGLU and sums against the memory roof, on a Hopper GPU.

    python benchmarks/moe_kernels.py [--shapes deepseek-v3 16b] [--check] [--no-peers] [--json PATH]

For each operation: microseconds, the bytes that it must move (each input read once, each output written once) over that
time, and the fraction of what a device-to-device copy reaches in the same run, which counts bytes read and written too.
Peers: the same operation in plain torch (`pauca.moe.ops.reference`), and for conversions the round trip through BF16
under torch.compile. Times are medians over replays of a CUDA graph that holds one call for each of four sets of inputs,
so that neither launches nor the L2 cache count. Before its timing each operation is compared with the reference: bit
for bit, or SwiGLU, whose exponential differs, in all but one code of a hundred. `--check` does only that, at odd sizes
too.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from torch import Tensor

from moe_shapes import SHAPES, Shape, machine, milliseconds, routing, show, write_json
from pauca.moe import ops
from pauca.moe.layer.permutation import sort_by_expert
from pauca.moe.ops import reference
from pauca.moe.ops.formats import BLOCK, Fp8Tensor, MxFp4Tensor, ScaleRule, row_groups

SETS = 4  # of inputs
ODD = Shape("odd", hidden=1056, width=352, experts=5, top_k=3, tokens=179)
MXFP4 = 17 / 32  # bytes per element


@dataclass(frozen=True)
class Case:
    """One operation, by its name in `pauca.moe.ops`, on one shape."""

    name: str
    operation: str
    arguments: list[tuple]  # for each set of inputs
    moved: float  # bytes
    exact: bool = True
    round_trip: Callable[..., object] | None = None


@dataclass(frozen=True)
class Result:
    shape: str
    operation: str
    us: float
    tb_s: float
    of_copy: float  # fraction
    reference_ratio: float | None  # how much longer the reference takes
    round_trip_ratio: float | None


def graph_us(calls: list[Callable[[], object]], replays: int = 25) -> float:
    """Median time of one of the calls within a replayed CUDA graph of them all."""
    for call in calls:
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = [call() for call in calls]
    us = 1e3 / len(calls) * milliseconds(graph.replay, replays, warm_up=replays)
    del outputs
    return us


def copy_bytes_per_us() -> float:
    """Not in a graph, where a copy becomes a node of another kind that reaches four fifths of this."""
    source = torch.randint(256, (2**30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2e-3 * source.nbytes / milliseconds(lambda: target.copy_(source))


def round_trip_to_mxfp4(x: Fp8Tensor, rule: ScaleRule) -> tuple[Tensor, Tensor]:
    """FP8 to BF16 to MXFP4 in torch operations (rule EVEN): what one writes without integer arithmetic."""
    return _to_mxfp4(x.values, x.scales)


def round_trip_to_fp8(x: MxFp4Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Gathered MXFP4 to BF16 to FP8 with one scale per row."""
    return _to_fp8(x.codes, x.scales, index.clamp(min=0).long())


def round_trip_columns(x: Fp8Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """FP8 rows to BF16 to transposed FP8 with one scale per expert and channel."""
    group = row_groups(offsets, x.shape[0]).long().clamp(max=len(offsets) - 1)
    return _to_columns(x.values, x.scales, group, len(offsets))


def _power_of_two(exponent: Tensor) -> Tensor:
    return torch.exp2(exponent.float() - 127)


@torch.compile(dynamic=False)
def _to_mxfp4(values: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    x = (values.float() * _power_of_two(scales)[:, None]).bfloat16().float().unflatten(1, (-1, BLOCK))
    largest = x.abs().amax(2, keepdim=True).clamp(min=2.0**-100)
    exponent = torch.floor(torch.log2(largest * (8 / 7))) - 2
    y = x.abs() * torch.exp2(-exponent)
    binade = torch.floor(torch.log2(y.clamp(min=1))).clamp(max=2)
    code = (torch.round(y * torch.exp2(1 - binade)) + 2 * binade).clamp(max=7).to(torch.uint8)
    code = (code | torch.where(x < 0, 8, 0).to(torch.uint8)).flatten(1)
    return code[:, 0::2] | code[:, 1::2] << 4, (exponent + 127).squeeze(2).to(torch.uint8)


@torch.compile(dynamic=False)
def _to_fp8(codes: Tensor, scales: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    codes, scales = codes[index], scales[index]
    element = torch.stack([codes & 15, codes >> 4], 2).flatten(1).int()
    exponent, mantissa = element >> 1 & 3, element & 1
    value = torch.where(exponent > 0, (1 + 0.5 * mantissa) * torch.exp2(exponent - 1.0), 0.5 * mantissa)
    value = torch.where(element > 7, -value, value).unflatten(1, (-1, BLOCK)) * _power_of_two(scales)[:, :, None]
    x = value.bfloat16().float().flatten(1)
    top = torch.floor(torch.log2(x.abs().amax(1).clamp(min=2.0**-100))) - 8
    return (x * torch.exp2(-top)[:, None]).to(torch.float8_e4m3fn), top


@torch.compile(dynamic=False)
def _to_columns(values: Tensor, scales: Tensor, group: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    x = (values.float() * _power_of_two(scales)[:, None]).bfloat16()
    top = torch.zeros(groups, dtype=torch.int32, device=x.device).scatter_reduce(0, group, scales.int(), "amax")
    return (x.float() * _power_of_two(254 - top)[group][:, None]).to(torch.float8_e4m3fn).T.contiguous(), top


def cases(shape: Shape) -> Iterator[Case]:
    """All operations on Gaussian data and a balanced routing."""
    generator = torch.Generator("cuda").manual_seed(0)
    hidden = shape.hidden
    permutation = sort_by_expert(routing(shape, balanced=True)[0], shape.experts)
    token, inverse, offsets = (
        permutation.row_to_token,
        permutation.copy_to_row.view(shape.tokens, shape.top_k),
        permutation.offsets,
    )
    rows, copies = len(token), shape.copies
    shuffled = torch.randperm(rows, generator=generator, device="cuda").int()

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device="cuda", dtype=torch.bfloat16)

    def each(make: Callable[[], tuple]) -> list[tuple]:
        return [make() for _ in range(SETS)]

    x, even = each(lambda: (normal(rows, hidden),)), ScaleRule.EVEN
    yield Case("quantize_mxfp4", "quantize_mxfp4", [(t, even) for (t,) in x], rows * hidden * (2 + MXFP4))
    yield Case("quantize_fp8_rowwise", "quantize_fp8_rowwise", x, rows * hidden * 3)
    yield Case("gather_rows, BF16", "gather_rows", [(t, shuffled) for (t,) in x], rows * hidden * 4)
    to_tokens = (copies + shape.tokens) * hidden * 2
    yield Case("combine", "combine", [(t, inverse) for (t,) in x], to_tokens)
    fp8 = [ops.quantize_fp8_rowwise(t) for (t,) in x]
    fp4 = [ops.quantize_mxfp4(t) for (t,) in x]
    del x
    yield Case(
        "fp8_to_mxfp4",
        "fp8_to_mxfp4",
        [(t, even) for t in fp8],
        rows * hidden * (1 + MXFP4),
        round_trip=round_trip_to_mxfp4,
    )
    yield Case(
        "gather_mxfp4_to_fp8_rows",
        "gather_mxfp4_to_fp8_rows",
        [(t, shuffled) for t in fp4],
        rows * hidden * (1 + MXFP4),
        round_trip=round_trip_to_fp8,
    )
    yield Case(
        "gather_mxfp4_to_fp8_columns",
        "gather_mxfp4_to_fp8_columns",
        [(t, shuffled, offsets) for t in fp4],
        rows * hidden * (1 + MXFP4),
    )
    yield Case(
        "fp8_rows_to_columns (dY)",
        "fp8_rows_to_columns",
        [(t, offsets) for t in fp8],
        rows * hidden * 2,
        round_trip=round_trip_columns,
    )
    yield Case("gather_fp8_rows", "gather_fp8_rows", [(t, shuffled) for t in fp8], rows * hidden * 2)
    del fp8
    tokens = [MxFp4Tensor(t.data[: shape.tokens].contiguous(), hidden) for t in fp4]
    del fp4
    from_tokens = hidden * (shape.tokens * MXFP4 + rows)
    yield Case(
        "gather_mxfp4_to_fp8_rows, from tokens",
        "gather_mxfp4_to_fp8_rows",
        [(t, token) for t in tokens],
        from_tokens,
    )
    yield Case(
        "gather_mxfp4_to_fp8_columns, from tokens",
        "gather_mxfp4_to_fp8_columns",
        [(t, token, offsets) for t in tokens],
        from_tokens,
    )
    del tokens
    yield from _swiglu_cases(shape, rows, offsets, normal)


def _swiglu_cases(shape: Shape, rows: int, offsets: Tensor, normal: Callable[..., Tensor]) -> Iterator[Case]:
    width = shape.width
    probability = torch.rand(rows, device="cuda")
    z = [normal(rows, 2 * width) for _ in range(SETS)]
    grad = [normal(rows, width) for _ in range(SETS)]
    forms = {
        "BF16": (z, 2.0),
        "FP8": ([ops.quantize_fp8_rowwise(t) for t in z], 1.0),
        "MXFP4": ([ops.quantize_mxfp4(t) for t in z], MXFP4),
    }
    yield Case("swiglu, BF16", "swiglu", [(t, probability) for t in z], rows * width * 6, exact=False)
    yield Case(
        "swiglu_fp8, MXFP4 kept too (z BF16)",
        "swiglu_fp8",
        [(t, probability, ScaleRule.EVEN) for t in z],
        rows * width * (4 + 1 + MXFP4),
        exact=False,
    )
    for form, (kept, size) in forms.items():
        yield Case(
            f"swiglu_fp8 (z {form})",
            "swiglu_fp8",
            [(t, probability) for t in kept],
            rows * width * (2 * size + 1),
            exact=False,
        )
        yield Case(
            f"swiglu_backward (z {form})",
            "swiglu_backward",
            [(t, probability, d) for t, d in zip(kept, grad, strict=True)],
            rows * width * (2 * size + 2 + 4),
            exact=False,
        )
        yield Case(
            f"swiglu_backward_fp8, rows and columns (z {form})",
            "swiglu_backward_fp8",
            [(t, probability, d, offsets) for t, d in zip(kept, grad, strict=True)],
            rows * width * (2 * size + 2 + 4),
            exact=False,
        )
    codes = forms["FP8"][0]
    yield Case("fp8_rows_to_columns (dZ)", "fp8_rows_to_columns", [(t, offsets) for t in codes], rows * width * 4)


def matrices(result: object) -> list[Tensor]:
    """All that an operation returned, as codes, bytes and plain tensors."""
    if isinstance(result, tuple):
        return [tensor for part in result for tensor in matrices(part)]
    if isinstance(result, Fp8Tensor | MxFp4Tensor):
        return [result.codes, result.scales]
    return [result] if isinstance(result, Tensor) else []


def check(case: Case) -> None:
    """Compare with the reference; raise AssertionError with the share of entries that differ."""
    actual = getattr(ops, case.operation)(*case.arguments[0])
    expected = getattr(reference, case.operation)(*case.arguments[0])
    for one, other in zip(matrices(actual), matrices(expected), strict=True):
        if one.dtype == torch.float32:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-2)
            continue
        differing = (one != other).float().mean().item()
        assert differing <= (0 if case.exact else 0.01), f"{case.name}: {differing:.2%} of {tuple(one.shape)} differ"


def measure(shape: Shape, case: Case, copy: float, peers: bool) -> Result:
    operation, plain = getattr(ops, case.operation), getattr(reference, case.operation)
    us = graph_us([lambda a=a: operation(*a) for a in case.arguments])
    slow = 1e3 * milliseconds(lambda: plain(*case.arguments[0]), repeats=3, warm_up=1) if peers else None
    round_trip = None
    if peers and case.round_trip:
        round_trip = graph_us([lambda a=a: case.round_trip(*a) for a in case.arguments])
    return Result(
        shape.name,
        case.name,
        us,
        case.moved / us * 1e-6,
        case.moved / us / copy,
        slow and slow / us,
        round_trip and round_trip / us,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--check", action="store_true", help="compare with the reference and time nothing")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="time the kernels alone")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.check:
        for shape in (ODD, *(SHAPES[name] for name in options.shapes)):
            for case in cases(shape):
                check(case)
                print(f"{shape.name}: {case.name} agrees", flush=True)
        return
    copy = copy_bytes_per_us()
    print(machine(), f"copy {copy * 1e-6:.3f} TB/s, bytes read and written", flush=True)
    results = []
    for name in options.shapes:
        for case in cases(SHAPES[name]):
            check(case)
            results.append(measure(SHAPES[name], case, copy, options.peers))
            torch.cuda.empty_cache()
        columns = ("operation", "us", "TB/s", "of copy", "reference x", "BF16 round trip x")
        rows = [astuple(result)[1:] for result in results if result.shape == name]
        show(f"{SHAPES[name]}", columns, [["-" if cell is None else cell for cell in row] for row in rows])
    write_json(options.json, {"copy_tb_s": copy * 1e-6, "kernels": [vars(result) for result in results]})


if __name__ == "__main__":
    main()
