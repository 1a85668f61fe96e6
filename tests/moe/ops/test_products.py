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


def _error(actual: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative, in the norm; 0 for two empty or zero tensors."""
    return float((actual.double() - exact).norm() / exact.norm().clamp(min=1e-30))


def test_fp8_on_another_device_is_refused():
    with pytest.raises(DeviceError, match="Hopper"):
        products.require_fp8(torch.device("meta"))
