"""Which views an image is seen in at test time."""

import pytest
import torch

from pauca.fewshot.views_at_test import AS_IT_IS, KINDS, ViewsAtTest
from pauca.fewshot.windows import CROPS


def test_views_of_one_turn_are_together_and_turns_apart():
    turns = ViewsAtTest(turns=True).by_turn()
    assert [[(kind.turn, kind.part) for kind in kinds] for kinds in turns] == [[(k, "whole")] for k in range(4)]
    (together,) = ViewsAtTest(mirror=True, crops=True).by_turn()
    assert [kind.count for kind in together] == [1, CROPS]


@pytest.mark.parametrize("views", [AS_IT_IS, ViewsAtTest(crops=True, turns=True)])
def test_every_kind_has_a_mean_and_as_many_images_as_it_says(views):
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    for kind in (kind for kinds in views.by_turn() for kind in kinds):
        assert kind in KINDS
        assert len(list(kind.images(images))) == kind.count


def test_crops_stand_beside_the_whole_image_of_their_turn():
    turns = ViewsAtTest(crops=True, turns=True).by_turn()
    assert [[(kind.turn, kind.part) for kind in kinds] for kinds in turns] == [
        [(k, "whole"), (k, "crops")] for k in range(4)
    ]
