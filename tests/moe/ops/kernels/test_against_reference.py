"""Every kernel against its twin in `pauca.moe.ops.reference`: bit for bit where the arithmetic is integer.

Runs on a GPU (marker `gpu`) or, with TRITON_INTERPRET=1, in Triton's interpreter, which `test_interpreter.py` starts.
"""

import os

import pytest
import torch

from pauca.moe.layer.permutation import PADDING, row_bound, sort_by_expert
from pauca.moe.ops import reference
from pauca.moe.ops.formats import BLOCK, Fp8Tensor, Granularity, MxFp4Tensor, ScaleRule
from pauca.moe.parallel.exchange import rank_visits, routing_rows

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
kernels = pytest.importorskip("pauca.moe.ops.kernels", reason="needs Triton")
rank_visits_kernels = pytest.importorskip("pauca.moe.ops.kernels.rank_visits")
sort_by_expert_kernel = pytest.importorskip("pauca.moe.ops.kernels.sort_by_expert").sort_by_expert
pytestmark = [pytest.mark.usefixtures("poisoned_memory"), *([] if INTERPRETED else [pytest.mark.gpu])]
compiled_only = pytest.mark.skipif(INTERPRETED, reason="the interpreter rounds FP8 and BF16 wrongly")

SHAPES = [(1, 32), (21, 96), (9, 1056)] if INTERPRETED else [(1, 32), (21, 96), (48, 1056), (300, 2816), (130, 7168)]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def any_codes(shape, generator) -> torch.Tensor:
    """E4M3 codes of every kind: mostly random, with zero, subnormal, small-range and (in the first row) NaN blocks."""
    codes = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    codes = torch.where((codes & 0x7F) == 0x7F, codes & 0x70, codes)
    blocks = codes.unflatten(1, (-1, BLOCK))
    kind = torch.randint(0, 8, (*blocks.shape[:2], 1), generator=generator)
    blocks = torch.where(kind == 0, blocks & 0x80, blocks)
    blocks = torch.where(kind == 1, blocks & 0x87, blocks)
    blocks = torch.where(kind == 2, blocks & 0x9F, blocks).flatten(1)
    blocks[0, 5], blocks[0, -1] = 0x7F, 0xFF
    return blocks


def fp8_rows(shape, generator, spread: int = 12) -> Fp8Tensor:
    codes = any_codes(shape, generator)
    scales = torch.randint(127 - spread, 127 + spread, shape[:1], dtype=torch.uint8, generator=generator)
    if shape[0] > 8:
        scales[3:8] = torch.tensor([255, 0, 254, 251, 2], dtype=torch.uint8)
    return Fp8Tensor(codes.to(DEVICE), scales.to(DEVICE), Granularity.ROW)


def fp8_tiles(shape, generator) -> Fp8Tensor:
    tiles = (shape[0], -(-shape[1] // 128))
    scales = torch.randint(110, 140, tiles, dtype=torch.uint8, generator=generator)
    return Fp8Tensor(any_codes(shape, generator).to(DEVICE), scales.to(DEVICE), Granularity.TILE)


def bfloat16(shape, generator, spread: int = 6) -> torch.Tensor:
    """Normal numbers, with a power of two on each block, infinity and NaN, subnormals, and zeros."""
    x = torch.randn(shape, generator=generator).unflatten(1, (-1, BLOCK))
    x = x * torch.exp2(torch.randint(-spread, spread, (*x.shape[:2], 1), generator=generator).float())
    x = x.flatten(1)
    if shape[0] > 8:
        x[0] *= 1e-38
        x[1, 3], x[2, 7], x[2, 8] = float("inf"), float("nan"), float("-inf")
        x[3, :BLOCK], x[4] = 0, 0
        x[5] *= 1e37
    return x.bfloat16().to(DEVICE)


def fp32(shape, generator) -> torch.Tensor:
    """`bfloat16` with bits below BF16's last: many that lie halfway, and some that round up to infinity."""
    x = bfloat16(shape, generator).float().cpu()
    low = torch.randint(0, 1 << 16, shape, dtype=torch.int32, generator=generator)
    low = torch.where(torch.rand(shape, generator=generator) < 0.3, 0x8000, low)
    x = torch.where(x.isfinite(), x.view(torch.int32) | low, x.view(torch.int32)).view(torch.float32)
    if shape[0] > 8:
        x[6, 0], x[7, 1] = 3.4028234e38, -3.4028234e38
        x[7, 2] = torch.tensor(-1, dtype=torch.int32).view(torch.float32)  # a NaN of all ones
    return x.to(DEVICE)


def mxfp4(shape, generator, spread: int = 9) -> MxFp4Tensor:
    elements = torch.randint(0, 16, shape, dtype=torch.uint8, generator=generator)
    scales = torch.randint(
        127 - spread, 127 + spread, (shape[0], shape[1] // BLOCK), dtype=torch.uint8, generator=generator
    )
    if shape[0] > 8:
        scales[0, 0], scales[1], scales[2] = 255, 3, 254
        scales[3], elements[3] = 0, 0
    packed = MxFp4Tensor.pack(elements, scales)
    return MxFp4Tensor(packed.data.to(DEVICE), shape[1])


def random_index(rows: int, source_rows: int, generator) -> torch.Tensor:
    """Rows in any order, repeated or left out, with padding (-1) and indices past the end."""
    return torch.randint(-1, source_rows + 1, (rows,), dtype=torch.int32, generator=generator).to(DEVICE)


def offsets(*ends: int) -> torch.Tensor:
    return torch.tensor(ends, dtype=torch.int32, device=DEVICE)


GROUPS = [(16, 16, 48), (0, 80, 80, 96), (96,), (0, 0)]  # of 112 rows: empty experts, unused rows, none at all


def assert_same(actual, expected):
    assert actual.shape == expected.shape
    for name in ("codes", "scales"):
        wrong = getattr(actual, name) != getattr(expected, name)
        assert not wrong.any(), f"{name}: {wrong.sum().item()} of {wrong.numel()}, first {wrong.nonzero()[0].tolist()}"


@pytest.mark.parametrize("rule", list(ScaleRule))
@pytest.mark.parametrize("shape", SHAPES)
def test_quantize_mxfp4(shape, rule, generator):
    x = bfloat16(shape, generator)
    assert_same(kernels.quantize_mxfp4(x, rule), reference.quantize_mxfp4(x, rule))


@compiled_only
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("operation", ["quantize_fp8_rowwise", "quantize_fp8_tilewise"])
def test_quantize_fp8(shape, operation, generator):
    x = bfloat16(shape, generator)
    assert_same(getattr(kernels, operation)(x), getattr(reference, operation)(x))


@compiled_only
@pytest.mark.parametrize("shape", SHAPES)
def test_quantize_fp8_rows_of_fp32(shape, generator):
    """As if rounded to BF16 before: halfway cases, those that round up to infinity, and NaN of every sign."""
    x = fp32(shape, generator)
    assert_same(kernels.quantize_fp8_rowwise(x), reference.quantize_fp8_rowwise(x))
    assert_same(kernels.quantize_fp8_rowwise(x), kernels.quantize_fp8_rowwise(x.bfloat16()))


@compiled_only
@pytest.mark.parametrize("channels", [16, 160, 1408, 4096])
@pytest.mark.parametrize("make", ["bfloat16", "fp32"])
def test_quantize_fp8_columns(channels, make, generator):
    x = {"bfloat16": bfloat16, "fp32": fp32}[make]((112, channels - channels % BLOCK or BLOCK), generator)
    x, ends = x[:, :channels].contiguous(), offsets(16, 16, 96)
    scales = torch.tensor([130, 0, 140], dtype=torch.uint8, device=DEVICE)
    assert_same(kernels.quantize_fp8_columns(x, scales, ends), reference.quantize_fp8_columns(x, scales, ends))


NORMED = [(1, 64), (7, 96), (33, 512)] if INTERPRETED else [(1, 64), (7, 96), (4096, 512), (8192, 1000), (515, 7168)]


@pytest.mark.parametrize("shape", NORMED)
def test_rms_norm(shape, generator):
    """To one BF16 step: sums may be taken in another order."""
    x, grad = (torch.randn(shape, generator=generator).bfloat16().to(DEVICE) for _ in range(2))
    weight = torch.rand(shape[1], generator=generator).add(0.5).to(DEVICE)
    y, inverse = kernels.rms_norm(x, weight, 1e-6)
    expected, expected_inverse = reference.rms_norm(x, weight, 1e-6)
    torch.testing.assert_close(inverse, expected_inverse[:, 0], rtol=1e-5, atol=0)
    torch.testing.assert_close(y.float(), expected.float(), rtol=2**-7, atol=1e-30)
    d_x, d_weight = kernels.rms_norm_backward(grad, x, weight, inverse)
    expected_x, expected_weight = reference.rms_norm_backward(grad, x, weight, expected_inverse)
    torch.testing.assert_close(d_x.float(), expected_x.float(), rtol=2**-7, atol=1e-4)
    torch.testing.assert_close(d_weight, expected_weight, rtol=1e-4, atol=1e-3)
    assert torch.equal(d_weight, kernels.rms_norm_backward(grad, x, weight, inverse)[1])


@pytest.mark.parametrize("turn", [1, -1, 0])
@pytest.mark.parametrize("sizes", [(1, 3, 1, 2), (2, 5, 3, 8), (2, 67, 6, 64), (1, 9, 4, 96)])
def test_rotate_heads(sizes, turn, generator):
    """From the middle of a wider tensor, into one whose heads lie elsewhere."""
    batch, time, heads, channels = sizes
    wide = torch.randn(batch, time, heads + 3, channels, generator=generator).bfloat16().to(DEVICE)
    source, angle = wide[:, :, 1:-2], torch.randn(time, channels // 2, generator=generator).to(DEVICE)
    out = torch.empty(batch, heads, time, channels, dtype=torch.bfloat16, device=DEVICE).transpose(1, 2)
    kernels.rotate_heads(source, out, angle.cos(), angle.sin(), turn)
    expected = reference.rotate_heads(source, angle.cos(), angle.sin(), turn)
    torch.testing.assert_close(out.float(), expected.float(), rtol=2**-7, atol=1e-6)
    if turn == 0:
        assert torch.equal(out, source)


@pytest.mark.parametrize("rule", list(ScaleRule))
@pytest.mark.parametrize("make", [fp8_rows, fp8_tiles])
@pytest.mark.parametrize("shape", SHAPES)
def test_fp8_to_mxfp4(shape, make, rule, generator):
    x = make(shape, generator)
    assert_same(kernels.fp8_to_mxfp4(x, rule), reference.fp8_to_mxfp4(x, rule))


@pytest.mark.parametrize("rule", list(ScaleRule))
def test_fp8_to_mxfp4_takes_every_code_beside_every_block_maximum(rule):
    # In the interpreter, which takes its time: some subnormal and some normal maxima.
    maxima = [*range(1, 5), *range(0x50, 0x54)] if INTERPRETED else range(1, 0x7F)
    largest = torch.tensor(maxima, dtype=torch.uint8)[:, None, None]
    code = torch.arange(256, dtype=torch.uint8)[None, :, None]
    blocks = torch.where((code & 0x7F) <= largest, code, 0).expand(-1, -1, BLOCK).clone()
    blocks[:, :, 0] = largest[:, :, 0].expand(-1, 256)
    codes = blocks.view(-1, 32 * BLOCK).to(DEVICE)
    x = Fp8Tensor(codes, torch.full((len(codes),), 130, dtype=torch.uint8, device=DEVICE), Granularity.ROW)
    assert_same(kernels.fp8_to_mxfp4(x, rule), reference.fp8_to_mxfp4(x, rule))


@pytest.mark.parametrize("shape", SHAPES)
def test_gather_mxfp4_to_fp8_rows(shape, generator):
    x = mxfp4(shape, generator)
    index = random_index(40, shape[0], generator)
    assert_same(kernels.gather_mxfp4_to_fp8_rows(x, index), reference.gather_mxfp4_to_fp8_rows(x, index))
    assert_same(kernels.gather_mxfp4_to_fp8_rows(x), reference.gather_mxfp4_to_fp8_rows(x))


def test_gather_mxfp4_to_fp8_takes_every_gap():
    """Blocks 0 to 24 exponents below the row's largest: exact to 14, rounded to 18, nothing from 19 on."""
    elements = torch.arange(16, dtype=torch.uint8).repeat(1, 2 * 32)
    scales = torch.arange(140, 108, -1, dtype=torch.uint8)[None]
    x = MxFp4Tensor(MxFp4Tensor.pack(elements, scales).data.to(DEVICE), 1024)
    assert_same(kernels.gather_mxfp4_to_fp8_rows(x), reference.gather_mxfp4_to_fp8_rows(x))


@pytest.mark.parametrize("ends", GROUPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gather_mxfp4_to_fp8_columns(shape, ends, generator):
    x = mxfp4(shape, generator)
    index = random_index(112, shape[0], generator)
    actual = kernels.gather_mxfp4_to_fp8_columns(x, index, offsets(*ends))
    assert_same(actual, reference.gather_mxfp4_to_fp8_columns(x, index, offsets(*ends)))


@pytest.mark.parametrize("ends", GROUPS)
@pytest.mark.parametrize("make", [fp8_rows, fp8_tiles])
@pytest.mark.parametrize("shape", SHAPES)
def test_fp8_rows_to_columns(shape, make, ends, generator):
    x = make(shape, generator)
    index = random_index(112, shape[0], generator)
    actual = kernels.fp8_rows_to_columns(x, offsets(*ends), index)
    assert_same(actual, reference.fp8_rows_to_columns(x, offsets(*ends), index))


def test_columns_without_an_index(generator):
    x, y = fp8_rows((112, 160), generator), mxfp4((112, 160), generator)
    ends = offsets(32, 32, 96)
    assert_same(kernels.fp8_rows_to_columns(x, ends), reference.fp8_rows_to_columns(x, ends))
    assert_same(
        kernels.gather_mxfp4_to_fp8_columns(y, None, ends), reference.gather_mxfp4_to_fp8_columns(y, None, ends)
    )


def test_columns_of_many_experts(generator):
    x = fp8_rows((64 * 48, 64), generator, spread=20)
    ends = torch.randint(0, 7, (64,), generator=generator).cumsum(0).mul(16).clamp(max=len(x.codes))
    ends = ends.to(torch.int32).to(DEVICE)
    assert_same(kernels.fp8_rows_to_columns(x, ends), reference.fp8_rows_to_columns(x, ends))


@pytest.mark.parametrize("make", [fp8_rows, fp8_tiles])
def test_gather_fp8_rows(make, generator):
    x = make((21, 288), generator)
    index = random_index(40, 21, generator)
    assert_same(kernels.gather_fp8_rows(x, index), reference.gather_fp8_rows(x, index))


def test_gather_rows(generator):
    x = torch.randn(21, 72, generator=generator).bfloat16().to(DEVICE)
    index = random_index(40, 21, generator)
    assert torch.equal(kernels.gather_rows(x, index), reference.gather_rows(x, index))


FORMS = {
    "bf16": lambda x: x,
    "fp8": reference.quantize_fp8_rowwise,
    "mxfp4": reference.quantize_mxfp4,
}


@compiled_only
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(1, 64), (21, 192), (300, 2816), (130, 4096)])
def test_swiglu(shape, form, generator):
    """To one BF16 step: the GPU's exponential is not the CPU's. What follows the BF16 result is bit for bit."""
    z = FORMS[form](torch.randn(shape, generator=generator).mul(3).bfloat16().to(DEVICE))
    probability = torch.rand(shape[0], generator=generator).to(DEVICE)
    plain = kernels.swiglu(z, probability)
    expected = reference.swiglu(z, probability)
    torch.testing.assert_close(plain.float(), expected.float(), rtol=2**-7, atol=1e-30)
    assert (plain != expected).float().mean() < 0.01
    codes, kept = kernels.swiglu_fp8(z, probability, ScaleRule.EVEN)
    assert_same(codes, reference.quantize_fp8_rowwise(plain))
    assert_same(kept, reference.quantize_mxfp4(plain))


@compiled_only
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(16, 64), (48, 192), (304, 2816), (128, 4096)])
def test_swiglu_backward(shape, form, generator):
    z = FORMS[form](torch.randn(shape, generator=generator).mul(3).bfloat16().to(DEVICE))
    probability = torch.rand(shape[0], generator=generator).to(DEVICE)
    grad = torch.randn(shape[0], shape[1] // 2, generator=generator).bfloat16().to(DEVICE)
    plain, d_probability = kernels.swiglu_backward(z, probability, grad)
    expected, expected_probability = reference.swiglu_backward(z, probability, grad)
    # 1 + gate * (1 - sigmoid) cancels near its zero, so the bound there is absolute.
    torch.testing.assert_close(plain.float(), expected.float(), rtol=2**-7, atol=1e-5)
    torch.testing.assert_close(d_probability, expected_probability, rtol=1e-4, atol=1e-3)
    ends = offsets(shape[0] // 32 * 16, shape[0])
    rows, columns, again = kernels.swiglu_backward_fp8(z, probability, grad, ends)
    assert_same(rows, reference.quantize_fp8_rowwise(plain))
    assert_same(columns, reference.fp8_rows_to_columns(rows, ends))
    # Two kernels may sum in two orders, but each in its own order always.
    torch.testing.assert_close(again, d_probability, rtol=1e-5, atol=1e-3)
    assert torch.equal(again, kernels.swiglu_backward_fp8(z, probability, grad, ends)[2])


@compiled_only
def test_swiglu_keeps_nan_and_infinity(generator):
    z = torch.randn(16, 64, generator=generator).bfloat16().to(DEVICE)
    z[1, 5], z[2, 40] = float("nan"), float("inf")
    probability = torch.ones(16, device=DEVICE)
    codes, kept = kernels.swiglu_fp8(z, probability, ScaleRule.EVEN)
    assert codes.dequantize().isnan().nonzero().tolist() == [[1, 5], [2, 8]]
    assert kept.dequantize().isnan().any(1).nonzero().flatten().tolist() == [1, 2]


@compiled_only
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("channels", [8, 1000, 7168])
def test_combine(channels, weighted, generator):
    rows = torch.randn(100, channels, generator=generator).bfloat16().to(DEVICE)
    inverse = torch.randint(-1, 101, (37, 6), dtype=torch.int32, generator=generator).to(DEVICE)
    weights = torch.rand(37, 6, generator=generator).to(DEVICE) if weighted else None
    actual = kernels.combine(rows, inverse, weights)
    # Fused multiply-add rounds once where the reference rounds twice: then one BF16 step may differ.
    expected = reference.combine(rows, inverse, weights)
    torch.testing.assert_close(actual.float(), expected.float(), rtol=2**-7, atol=1e-6 if weighted else 0)


@compiled_only
@pytest.mark.parametrize("channels", [8, 1000, 7168])
def test_combine_backward(channels, generator):
    grad = torch.randn(37, channels, generator=generator).bfloat16().to(DEVICE)
    rows = torch.randn(100, channels, generator=generator).bfloat16().to(DEVICE)
    token = random_index(100, 37, generator)
    row_weights = torch.rand(100, generator=generator).to(DEVICE)
    d_rows, d_weights = kernels.combine_backward(grad, rows, token, row_weights)
    expected_rows, expected_weights = reference.combine_backward(grad, rows, token, row_weights)
    assert torch.equal(d_rows, expected_rows)
    torch.testing.assert_close(d_weights, expected_weights, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("tokens", "top_k", "experts"), [(1, 1, 1), (5, 3, 7), (300, 2, 8), (1500, 3, 8)])
@pytest.mark.parametrize("here", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_sort_by_expert(tokens, top_k, experts, here, dtype, generator):
    """Some, all or none of the copies have their experts here."""
    ids = torch.randint(experts, (tokens, top_k), generator=generator).to(dtype)
    ids[torch.rand(ids.shape, generator=generator) >= here] = PADDING
    copies = int((ids != PADDING).sum())
    expected = sort_by_expert(ids, experts, copies)
    actual = sort_by_expert_kernel(ids.to(DEVICE), experts, row_bound(copies, experts))
    for name, tensor in zip(("row_to_copy", "row_to_token", "copy_to_row", "offsets"), actual, strict=True):
        assert torch.equal(tensor.cpu(), getattr(expected, name)), name


@pytest.mark.parametrize(("tokens", "top_k", "ranks"), [(0, 2, 2), (1, 1, 1), (2100, 3, 2), (300, 8, 4), (90, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rank_visits_and_their_routing(tokens, top_k, ranks, dtype, generator):
    each = 4
    ids = torch.rand(tokens, each * ranks, generator=generator).topk(min(top_k, each * ranks), 1).indices.to(dtype)
    ids[: tokens // 3] %= each  # these visit the first rank alone
    weights = torch.rand(ids.shape, generator=generator)
    expected_counts, counts = torch.empty(ranks, 3, dtype=torch.int64), torch.empty(ranks, 3, dtype=torch.int64)
    expected = rank_visits(ids, each, ranks, 7, expected_counts)
    counts = counts.to(DEVICE)
    actual = rank_visits_kernels.rank_visits(ids.to(DEVICE), each, ranks, 7, counts)
    assert torch.equal(counts.cpu(), expected_counts)
    assert torch.equal(actual[2].cpu(), expected[2])
    rows = len(expected[0])
    row_to_token, row_to_rank = actual[0][:rows], actual[1][:rows]
    assert torch.equal(row_to_token.cpu(), expected[0])
    assert torch.equal(row_to_rank.cpu(), expected[1])
    routing = rank_visits_kernels.routing_rows(ids.to(DEVICE), weights.to(DEVICE), row_to_token, row_to_rank, each)
    assert torch.equal(routing.cpu(), routing_rows(ids, weights, *expected[:2], each))
