"""Feature networks: sizes of the spec, DropBlock, exchangeability."""

import pytest
import torch
from torch import nn

from pauca.errors import ConfigError
from pauca.fewshot.backbones import (
    BACKBONES,
    DropBlock,
    R2D2Net,
    ResNet12,
    feature_count,
    make_backbone,
    multiply_adds,
    parameter_count,
    set_training_step,
)


def test_plain_resnet12_has_the_size_of_metaoptnets():
    plain = make_backbone("resnet12-plain", 3, 32)
    assert round(parameter_count(plain) / 1e6, 2) == 12.42
    assert round(multiply_adds(plain, (3, 32, 32)) / 1e6) == 523
    assert round(multiply_adds(plain, (3, 84, 84)) / 1e6) == 3508


def test_the_enlarged_network_sees_a_bilinear_image_of_twice_the_size():
    enlarged = make_backbone("resnet12-enlarged", 3, 32).eval()
    pooled = make_backbone("resnet12-pooled", 3, 64).eval()
    pooled.load_state_dict(enlarged.state_dict())
    assert enlarged.blocks[2].regularizer.size == pooled.blocks[2].regularizer.size == 4
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    larger = torch.nn.functional.interpolate(pixels, size=(64, 64), mode="bilinear")
    with torch.no_grad():
        torch.testing.assert_close(enlarged(pixels), pooled(larger))
    assert round(multiply_adds(enlarged, (3, 32, 32)) / 1e6) == round(multiply_adds(pooled, (3, 64, 64)) / 1e6)


def test_pooled_features_are_the_means_over_the_image_of_the_plain_ones():
    plain = make_backbone("resnet12-plain", 3, 32).eval()
    pooled = make_backbone("resnet12-pooled", 3, 32).eval()
    pooled.load_state_dict(plain.state_dict())
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(pooled(pixels), plain(pixels).unflatten(1, (640, 4)).mean(2))


@pytest.mark.parametrize(("size", "features"), [(32, 2560), (84, 16000)])
@pytest.mark.parametrize("name", ["resnet12", "resnet12-plain"])
def test_resnet12_flattens_without_average_pooling(name, size, features):
    assert feature_count(make_backbone(name, 64, size), (64, size, size)) == features


def test_r2d2_gives_its_last_two_blocks():
    # 384 x 10 x 10 + 512 x 5 x 5 at 84 pixels
    assert feature_count(make_backbone("r2d2", 3, 84), (3, 84, 84)) == 51200
    assert feature_count(make_backbone("r2d2", 3, 32), (3, 32, 32)) == 8192


def test_r2d2_is_metaoptnets():
    """Its `R2D2Embedding`: no activation in the last block; keep_prob 0.9 in the third block and 0.7 in the last."""
    network = R2D2Net(3).train()
    active = [any(isinstance(layer, nn.LeakyReLU) for layer in block) for block in network.blocks]
    assert active == [True, True, True, False]
    torch.manual_seed(0)
    third, last = network(torch.rand(8, 3, 32, 32)).split([384 * 4 * 4, 512 * 2 * 2], dim=1)
    assert (third == 0).float().mean() == pytest.approx(0.1, abs=0.01)
    assert (last == 0).float().mean() == pytest.approx(0.3, abs=0.02)
    assert last.min() < 3 * third.min() < 0  # not shrunk by an activation


@pytest.mark.parametrize("widths", [(64, 160, 320), (64, 160, 320, 640, 640)])
def test_resnet12_takes_four_widths(widths):
    with pytest.raises(ConfigError, match="ResNet-12 has four blocks; give four numbers"):
        ResNet12(3, 32, widths)


def test_conv4_gives_64_maps_of_2_by_2_at_32_pixels():
    assert feature_count(make_backbone("conv4", 3, 32), (3, 32, 32)) == 256


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_computes_what_it_promises(name):
    backbone = make_backbone(name, 1, 16)
    assert backbone(torch.rand(2, 1, 16, 16)).shape == (2, feature_count(backbone, (1, 16, 16)))


@pytest.mark.parametrize("name", ["resnet12", "conv4"])
def test_gradients_reach_every_parameter(name):
    backbone = make_backbone(name, 3, 16)
    backbone(torch.rand(4, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in backbone.parameters())


def test_unknown_backbone_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="'vgg' is not known; choose one of resnet12"):
        make_backbone("vgg", 3, 32)
    with pytest.raises(ConfigError, match="8 px is too small"):
        make_backbone("conv4", 3, 8)


def test_block_size_is_5_at_84_pixels_and_2_at_32():
    for size, block in ((84, 5), (32, 2)):
        sizes = {m.size for m in ResNet12(3, size).modules() if isinstance(m, DropBlock)}
        assert sizes == {block}


def test_dropblock_rate_follows_the_published_ramp():
    layer = DropBlock(2)
    for step in (0, 10_000, 40_000, 60_000):
        set_training_step(layer, step)
        keep = max(1 - 0.1 * step / 40_000, 0.9)
        assert float(layer.rate) == pytest.approx(1 - keep)


def test_dropblock_reaches_its_rate_in_short_trainings_too():
    """It took 40,000 steps however few a training had, so that none that was measured had any of it."""
    layer = DropBlock(2)
    for step, rate in ((0, 0.0), (100, 0.05), (200, 0.1), (300, 0.1)):
        set_training_step(layer, step, 300)
        assert float(layer.rate) == pytest.approx(rate)
    set_training_step(layer, 1, 1)
    assert float(layer.rate) == pytest.approx(0.1)


def test_dropblock_drops_squares_at_its_rate_and_keeps_the_mean():
    layer = DropBlock(2).train()
    layer.set_step(40_000)
    torch.manual_seed(0)
    maps = torch.ones(64, 160, 8, 8)
    out = layer(maps)
    dropped = out == 0
    # Squares overlap, so a little less than the rate of 0.1 is dropped.
    assert 0.09 < dropped.float().mean() < 0.1
    assert out.mean() == pytest.approx(1, abs=1e-4)
    # Every dropped value lies in a 2x2 square that is dropped as a whole.
    squares = torch.nn.functional.max_pool2d((~dropped).float(), 2, stride=1) == 0
    covered = torch.nn.functional.max_pool2d(torch.nn.functional.pad(squares.float(), (1, 1, 1, 1)), 2, stride=1)
    assert torch.equal(covered.bool(), dropped)


def test_dropblock_does_nothing_at_test_time_nor_at_step_0():
    maps = torch.rand(2, 8, 4, 4)
    layer = DropBlock(2)
    torch.testing.assert_close(layer.train()(maps), maps)
    layer.set_step(40_000)
    assert layer.eval()(maps) is maps


def test_dropblock_survives_dropping_everything():
    layer = DropBlock(4, final_rate=1.0, ramp_steps=1).train()
    layer.set_step(1)
    assert torch.isfinite(layer(torch.ones(1, 1, 4, 4))).all()
