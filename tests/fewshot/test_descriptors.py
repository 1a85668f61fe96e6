"""Features that need no training: of one length, blind to brightness and to noise in flat parts, sharp on direction."""

import pytest
import torch

from pauca import fewshot
from pauca.fewshot.descriptors import BlurredPixels, EdgeDirections


def _bars(angle: float, size: int = 32, phase: float = 0.0) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    angle = torch.tensor(angle).deg2rad()
    return (0.5 + 0.5 * torch.sin(0.6 * (columns * angle.cos() + rows * angle.sin()) + phase))[None, None].float()


@pytest.mark.parametrize("network", [EdgeDirections, BlurredPixels])
@pytest.mark.parametrize("size", [16, 28, 32, 64])
def test_features_have_one_length_whatever_the_size_and_brightness(network, size):
    images = torch.rand(3, 1, size, size, generator=torch.Generator().manual_seed(0))
    features = network(1, size)(images)
    torch.testing.assert_close(features.norm(dim=1), torch.full((3,), 10.0))
    torch.testing.assert_close(network(1, size)(0.3 * images), features, atol=0.02, rtol=0.01)


def test_edges_tell_directions_and_not_which_side_is_bright():
    network = EdgeDirections(1, 32)
    upright, flipped, slanted = (network(_bars(angle, phase=phase)) for angle, phase in ((0, 0), (0, 3.1), (60, 0)))
    assert torch.cosine_similarity(upright, flipped) > 0.9
    assert torch.cosine_similarity(upright, slanted) < 0.6


@pytest.mark.parametrize("name", ["edges", "pixels"])
def test_they_stand_among_the_backbones_and_are_saved_by_name(name, tmp_path):
    config = fewshot.ModelConfig(name, image_size=32, channels=1, latent=fewshot.LatentConfig(mode="none"))
    model = fewshot.MCRNet(config).eval()
    model.save(tmp_path / "model.safetensors")
    images = torch.randint(0, 255, (2, 1, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(fewshot.MCRNet.load(tmp_path / "model.safetensors").embed(images), model.embed(images))
    assert fewshot.parameter_count(model.backbone) == 0


def test_an_empty_image_has_finite_features():
    for network in (EdgeDirections(1, 32), BlurredPixels(1, 32)):
        assert network(torch.zeros(1, 1, 32, 32)).isfinite().all()
