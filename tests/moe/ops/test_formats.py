"""The two tensor formats: what codes and bytes are worth, shapes, and what is refused."""

import pytest
import torch

from pauca import InputError
from pauca.moe.ops.formats import (
    Fp8Tensor,
    Granularity,
    Layout,
    MxFp4Tensor,
    e8m0_to_float32,
    mxfp4_row_bytes,
    row_groups,
)


def test_e8m0_bytes_are_powers_of_two_and_nan():
    values = e8m0_to_float32(torch.arange(256, dtype=torch.uint8))
    assert torch.equal(values[:255].double(), torch.exp2(torch.arange(-127, 128, dtype=torch.float64)))
    assert values[255].isnan()


def test_mxfp4_puts_the_first_element_in_the_low_nibble():
    elements = torch.arange(32, dtype=torch.uint8)[None] % 16
    packed = MxFp4Tensor.pack(elements, torch.tensor([[128]], dtype=torch.uint8))
    assert packed.codes[0, :2].tolist() == [0x10, 0x32]
    assert torch.equal(packed.elements(), elements)
    magnitudes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]  # OCP MX v1.0, table of E2M1
    expected = torch.tensor([*magnitudes, *(-m for m in magnitudes)] * 2) * 2
    assert torch.equal(packed.dequantize()[0], expected)


def test_an_mxfp4_row_is_one_piece_of_memory_of_a_multiple_of_16_bytes():
    # DeepSeek-V3's hidden size: 3584 bytes of codes, 224 of scales.
    assert mxfp4_row_bytes(7168) == 3808
    assert mxfp4_row_bytes(1408) == 752  # 748 rounded up
    x = MxFp4Tensor.empty(3, 1408, "cpu")
    assert (x.data.stride(0), x.codes.shape, x.scales.shape) == (752, (3, 704), (3, 44))
    assert x.codes.data_ptr() == x.data.data_ptr()


def test_a_nan_scale_makes_its_block_nan():
    elements = torch.ones(1, 64, dtype=torch.uint8)
    packed = MxFp4Tensor.pack(elements, torch.tensor([[255, 127]], dtype=torch.uint8))
    assert packed.dequantize().isnan()[0].tolist() == [True] * 32 + [False] * 32


def test_fp8_dequantizes_by_row_tile_and_group():
    codes = torch.full((2, 160), 0x38, dtype=torch.uint8)  # 1.0
    by_row = Fp8Tensor(codes, torch.tensor([127, 130], dtype=torch.uint8), Granularity.ROW)
    assert by_row.dequantize()[:, 0].tolist() == [1, 8]
    tiles = torch.tensor([[127, 128], [126, 127]], dtype=torch.uint8)
    by_tile = Fp8Tensor(codes, tiles, Granularity.TILE)
    assert by_tile.dequantize()[:, [127, 128]].tolist() == [[1, 2], [0.5, 1]]
    ends = torch.tensor([1, 1, 2], dtype=torch.int32)
    groups = torch.tensor([[127, 128], [0, 0], [129, 127]], dtype=torch.uint8)
    columns = Fp8Tensor(codes[:, :3].contiguous(), groups, Granularity.GROUP, ends)
    assert (columns.layout, columns.shape) == (Layout.COLUMN, (3, 2))
    assert columns.dequantize().tolist() == [[1, 2], [4, 1], [0, 0]]  # the third row belongs to no group


def test_rows_know_their_group():
    ends = torch.tensor([0, 2, 2, 3], dtype=torch.int32)
    assert row_groups(ends, 5).tolist() == [1, 1, 3, 4, 4]


@pytest.mark.parametrize("channels", [0, 16, 33])
def test_mxfp4_refuses_channels_that_do_not_fill_blocks(channels):
    with pytest.raises(InputError, match=f"multiple of 32 channels, got {channels}"):
        MxFp4Tensor(torch.zeros(1, 16, dtype=torch.uint8), channels)


def test_fp8_refuses_scales_of_another_shape():
    codes = torch.zeros(2, 160, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"need scales of shape \(2,\), got \(3,\)"):
        Fp8Tensor(codes, torch.zeros(3, dtype=torch.uint8), Granularity.ROW)
    with pytest.raises(InputError, match="offsets"):
        Fp8Tensor(codes, torch.zeros(1, 2, dtype=torch.uint8), Granularity.GROUP)
