"""Windows: what a view shows is what cutting and enlarging by other means shows."""

import pytest
import torch
from torch.nn import functional as F

from pauca.fewshot.windows import CROPS, Windows, show, window_of_all, windows_at_test

CPU = torch.device("cpu")


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_whole_image_is_shown_as_it_is(pixels):
    torch.testing.assert_close(show(pixels, window_of_all(0.0, 16.0, 0.0, 16.0, 3, CPU)), pixels)


def test_what_lies_outside_is_black(pixels):
    shown = show(pixels, window_of_all(2.0, 16.0, -3.0, 16.0, 3, CPU))
    torch.testing.assert_close(shown[:, :, :14, 3:], pixels[:, :, 2:, :13])
    assert not shown[:, :, 14:].any()
    assert not shown[:, :, :, :3].any()


def test_a_part_is_enlarged_as_torch_does(pixels):
    expected = F.interpolate(pixels[:, :, 3:14, 2:13], size=16, mode="bilinear")
    torch.testing.assert_close(show(pixels, window_of_all(3.0, 11.0, 2.0, 11.0, 3, CPU)), expected)


def test_each_image_has_its_own_window_and_mirror(pixels):
    first_row, rows = torch.tensor([0.0, 4.0, 0.0]), torch.tensor([16.0, 8.0, 16.0])
    first_column, columns = torch.zeros(3), torch.full((3,), 16.0)
    shown = show(pixels, Windows(first_row, rows, first_column, columns, torch.tensor([True, False, False])))
    torch.testing.assert_close(shown[0], pixels[0].flip(-1))
    torch.testing.assert_close(shown[1:2], F.interpolate(pixels[1:2, :, 4:12], size=16, mode="bilinear"))
    torch.testing.assert_close(shown[2], pixels[2])


def test_the_parts_at_test_are_the_middle_the_corners_and_the_middle_of_each_side():
    windows = windows_at_test(32, 1, CPU)
    places = {(float(w.first_row), float(w.first_column), float(w.rows), float(w.columns)) for w in windows}
    squares = {(row, column, 22, 22) for row, column in ((5, 5), (0, 0), (0, 10), (10, 0), (10, 10))}
    assert places == squares | {(5, 0, 22, 32), (0, 5, 32, 22)}
    assert len(windows) == CROPS
