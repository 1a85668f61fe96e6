import pytest
import torch

from pauca.errors import DeviceError
from pauca.moe.ops import products

SIZES = [32, 0, 16, 0]  # rows of each expert; two have none
TAIL = 16


def _offsets() -> torch.Tensor:
    return torch.tensor(SIZES).cumsum(0).int()


def _rows(width: int) -> torch.Tensor:
    rows = torch.randn(sum(SIZES) + TAIL, width)
    rows[sum(SIZES) :] = float("nan")  # what lies beyond the last group must not matter
    return rows


def _groups(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return rows[: sum(SIZES)].split(SIZES)


def _fp8(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scales = 2.0 ** (values.nan_to_num(1).abs().amax(-1).clamp(min=1e-9).log2().ceil() - 8)
    return (values / scales[..., None]).clamp(-448, 448).to(torch.float8_e4m3fn), scales


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def test_bf16_products_of_each_group(device):
    torch.manual_seed(0)
    x, dz, weights = _rows(64).bfloat16(), _rows(48).bfloat16(), torch.randn(4, 64, 48).bfloat16()
    z = products.rows_by_weights(x.to(device), weights.to(device), _offsets().to(device)).cpu()
    gradient = products.columns_by_columns(dz.to(device).t(), x.to(device).t(), _offsets().to(device)).cpu()
    for expert, (x_group, z_group, dz_group) in enumerate(zip(_groups(x), _groups(z), _groups(dz), strict=True)):
        assert _error(z_group, x_group.double() @ weights[expert].double()) < 2**-8
        assert _error(gradient[expert], dz_group.double().t() @ x_group.double()) < 2**-8
    assert not gradient[[1, 3]].any()


@pytest.mark.parametrize("fast_accumulate", [False, True])
def test_fp8_products_of_each_group(device, fast_accumulate):
    torch.manual_seed(0)
    (x, x_scales), (weights, weight_scales) = _fp8(_rows(64)), _fp8(torch.randn(4, 48, 64))
    result = products.fp8_rows_by_weights(
        x.to(device), x_scales.to(device), weights.to(device), weight_scales.to(device), _offsets().to(device),
        fast_accumulate,
    ).cpu()  # fmt: skip
    exact_x, exact_weights = x.double() * x_scales[:, None], weights.double() * weight_scales[..., None]
    for expert, (x_group, group) in enumerate(zip(_groups(exact_x), _groups(result), strict=True)):
        assert _error(group, x_group @ exact_weights[expert].t()) < 2**-7


@pytest.mark.parametrize("fast_accumulate", [False, True])
def test_fp8_weight_gradients_of_each_group(device, fast_accumulate):
    torch.manual_seed(0)
    a, b = (_fp8(_rows(width))[0].t().contiguous() for width in (64, 48))
    a_scales, b_scales = 2.0 ** torch.randint(-3, 4, (4, 64)), 2.0 ** torch.randint(-3, 4, (4, 48))
    # Dirty memory of the result's size, so that a slice that the product leaves unwritten shows.
    torch.full((4, 64, 48), float("nan"), dtype=torch.bfloat16, device=device)
    result = products.fp8_columns_by_columns(
        a.to(device), a_scales.to(device), b.to(device), b_scales.to(device), _offsets().to(device), fast_accumulate
    ).cpu()
    for expert, (a_group, b_group) in enumerate(zip(_groups(a.t()), _groups(b.t()), strict=True)):
        exact = a_group.double().t() @ b_group.double() * a_scales[expert][:, None] * b_scales[expert]
        assert _error(result[expert], exact) < 2**-7
    assert not result[[1, 3]].any()


LONE = [(4096, 64, 48), (4096 + 16, 512, 1024), (608, 64, 48)]  # rows, of which all are used, and sizes of the result


@pytest.mark.parametrize(("rows", "m", "n"), LONE)
def test_the_weight_gradient_of_a_lone_expert_is_a_sum_over_pieces(device, rows, m, n):
    torch.manual_seed(0)
    a, b = (torch.randn(rows + TAIL, width) for width in (m, n))
    for operand in (a, b):
        operand[rows:] = float("nan")
    offsets = torch.tensor([rows], dtype=torch.int32, device=device)
    exact = a[:rows].double().t() @ b[:rows].double()
    given = [operand.bfloat16().to(device).t() for operand in (a, b)]
    found = products.columns_by_columns(*given, offsets)
    assert found.shape == (1, m, n)
    assert _error(found[0].cpu(), exact) < 2**-7
    assert torch.equal(found, products.columns_by_columns(*given, offsets))
    (a8, a_scales), (b8, b_scales) = (_fp8(operand.t().contiguous()) for operand in (a, b))
    exact = (a8[:, :rows].double() @ b8[:, :rows].double().t()) * a_scales[:, None] * b_scales
    found = products.fp8_columns_by_columns(
        a8.to(device), a_scales[None].to(device), b8.to(device), b_scales[None].to(device), offsets, False
    )
    assert found.shape == (1, m, n)
    assert _error(found[0].cpu(), exact) < 2**-6


@pytest.mark.parametrize("rows", [0, 16, 32, 4096, 5008, 2**31 - 16])
@pytest.mark.parametrize("pieces", [2, 9, 264])
def test_pieces_cover_all_rows_in_multiples_of_32(rows, pieces):
    ends = products._split(torch.tensor([rows], dtype=torch.int32), pieces).long()
    sizes = ends.diff(prepend=torch.zeros(1, dtype=torch.int64))
    assert ends[-1] == rows
    assert (sizes >= 0).all()
    assert not (sizes[:-1] % 32).any()
    assert sizes.max() <= rows / pieces + 64


def test_pieces_add_up_to_the_whole():
    torch.manual_seed(0)
    a, b, offsets = torch.randn(64, 5008), torch.randn(48, 5008), torch.tensor([4992], dtype=torch.int32)
    pieces = products.columns_by_columns(a, b, products._split(offsets, 9))
    assert pieces.shape == (9, 64, 48)
    assert _error(products._sum(pieces)[0], a[:, :4992].double() @ b[:, :4992].double().t()) < 1e-5


def test_only_a_lone_expert_with_few_tiles_and_many_rows_is_cut():
    assert products._pieces_of_one(1024, 512, 32768, experts=1) == 9
    assert products._pieces_of_one(1024, 512, 32768, experts=2) == 0
    assert products._pieces_of_one(4096, 7168, 32768, experts=1) == 0
    assert products._pieces_of_one(1024, 512, 600, experts=1) == 0


def _error(actual: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative, in the norm; 0 for two empty or zero tensors."""
    return float((actual.double() - exact).norm() / exact.norm().clamp(min=1e-30))


def test_fp8_on_another_device_is_refused():
    with pytest.raises(DeviceError, match="Hopper"):
        products.require_fp8(torch.device("meta"))
