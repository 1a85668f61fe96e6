"""Views: which ones there are, and that their numbers say what they show."""

import pytest
import torch

from pauca.fewshot.training.augment import AugmentConfig
from pauca.fewshot.training.views import TURNS, draw_views

PLAIN = AugmentConfig(crop_padding=0, jitter=0.0, flip=False)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("count", [4, 8, 16])
def test_the_first_four_views_are_the_whole_image_in_its_turns(images, count):
    pixels, numbers = draw_views(images, count, PLAIN)
    assert pixels.shape == (5 * count, 3, 16, 16)
    views = pixels.unflatten(0, (5, count))
    for turn in range(TURNS):
        torch.testing.assert_close(views[:, turn], torch.rot90(images / 255, turn, (2, 3)))
    assert numbers.unflatten(0, (5, count))[:, :4].tolist() == [[0, 1, 2, 3]] * 5


def test_sixteen_views_are_all_and_eight_add_one_other_window(images):
    _, numbers = draw_views(images, 16, PLAIN)
    assert numbers.tolist() == list(range(16)) * 5
    _, numbers = draw_views(images.repeat(20, 1, 1, 1), 8, PLAIN)
    others = numbers.unflatten(0, (100, 8))[:, 4:]
    assert set(others.flatten().tolist()) == set(range(4, 16))
    assert (others // 4 == others[:, :1] // 4).all()  # one window, in all turns


def test_parts_show_fewer_rows_fewer_columns_or_both():
    """On an image of rows of one value each, a part of the rows shows fewer values; and so on."""
    ramp = torch.arange(16, dtype=torch.uint8).mul(16)
    rows = ramp[:, None].expand(16, 16)
    image = torch.stack([rows, rows.T, torch.zeros_like(rows)])[None]
    pixels, numbers = draw_views(image, 16, PLAIN)
    upright = pixels[numbers % 4 == 0]
    span = lambda values: float(values.max() - values.min()) * 255  # noqa: E731
    spans = [(span(view[0]), span(view[1])) for view in upright]
    whole, part = 15 * 16, 10 * 16  # 11 of 16 rows
    for found, expected in zip(spans, [(whole, whole), (part, whole), (whole, part), (part, part)], strict=True):
        assert found == pytest.approx(expected, abs=0.01)


def test_every_view_draws_its_own_shift_mirror_and_colors(images):
    config = AugmentConfig(crop_padding=2, flip=True)
    torch.manual_seed(0)
    pixels, _ = draw_views(images[:1].repeat(6, 1, 1, 1), 4, config)
    upright = pixels.unflatten(0, (6, 4))[:, 0]
    assert len({tuple(view.flatten().tolist()) for view in upright}) == 6
    assert pixels.min() >= 0
    assert pixels.max() <= 1
