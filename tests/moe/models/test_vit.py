import pytest
import torch

from pauca.errors import ConfigError, InputError
from pauca.moe.layer.recipe import Recipe
from pauca.moe.models.blocks import rotate
from pauca.moe.models.config import Recomputation
from pauca.moe.models.vit import MoEViT, ViTConfig


def _model(**options) -> MoEViT:
    torch.manual_seed(0)
    return MoEViT(ViTConfig(**options))


def test_a_patch_holds_the_pixels_of_its_place():
    model, images = _model(patch=4, channels=2), torch.arange(2.0 * 8 * 12).view(1, 2, 8, 12)
    patches = model._patches(images)
    assert patches.shape == (1, 2 * 3, 2 * 16)
    assert torch.equal(patches[0, 4], images[0, :, 4:8, 4:8].flatten())  # second row, second column


def test_positions_tell_rows_from_columns_by_distance_alone():
    model = _model()
    cosine, sine = model._rotation(3, 5, torch.device("cpu"))
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16)
    turned_q, turned_k = (rotate(x.expand(1, 15, 1, 16), cosine, sine)[0, :, 0] for x in (q, k))
    products = (turned_q @ turned_k.T).view(3, 5, 3, 5)
    torch.testing.assert_close(products[0, 1, 1, 3], products[1, 2, 2, 4])  # one row down, two columns right
    assert (products[0, 0, 1, 0] - products[0, 0, 0, 1]).abs() > 1e-3


def test_every_patch_sees_every_other():
    model, images = _model().eval(), torch.randn(1, 3, 16, 16)
    tokens = []
    model.norm.register_forward_hook(lambda _, __, output: tokens.append(output))
    model(images)
    images[:, :, -4:, -4:] += 3  # the last patch
    model(images)
    assert (tokens[0][0, 0] - tokens[1][0, 0]).abs().max() > 0.02  # changes what the first one becomes


def test_it_takes_images_of_any_size_that_patches_divide():
    model = _model(classes=7).eval()
    assert model(torch.randn(2, 3, 8, 20)).shape == (2, 7)
    assert model.features(torch.randn(2, 3, 16, 16)).shape == (2, 64)
    with pytest.raises(InputError, match="3 x 10 x 8 do not fit: 3 channels and sides that are multiples of 4"):
        model(torch.randn(1, 3, 10, 8))
    with pytest.raises(InputError, match="1 x 8 x 8"):
        model(torch.randn(1, 1, 8, 8))


@pytest.mark.parametrize("precision", ["bf16", "fp4"])
def test_it_learns_to_tell_images_apart(precision):
    model = _model(layers=1, classes=4, recipe=getattr(Recipe, precision)(), recompute=Recomputation(norms=True))
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        loss = model.loss(images, labels)
        loss.backward()
        optimizer.step()
    assert torch.equal(model.eval()(images).argmax(1), labels)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="multiple of 4"):
        ViTConfig(head_dim=6)
    with pytest.raises(ConfigError, match="patch of a model must be positive"):
        ViTConfig(patch=0)
