"""Training and opening networks leave the caller's random state as it was.

(Python's own is read by the type checks of the tests.)
"""

import numpy as np
import pytest
import torch

from pauca.cli import main
from pauca.fewshot import EpisodeConfig, FewShotClassifier, MCRNet, ModelConfig, TrainConfig, open_backbone, train


def test_training_does_not_touch_the_callers_random_state(toy_images):
    torch.manual_seed(0)
    model = MCRNet(ModelConfig(backbone="conv4-32", image_size=16))
    config = TrainConfig(
        steps=2, episodes_per_step=1, episode=EpisodeConfig(way=3, shot=1, query=2), validate_every=2, device="cpu"
    )
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train(model, config, toy_images)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


@pytest.mark.parametrize("said", ["--mode none --quiet", "--mode variational"])  # the latter tells what it costs
def test_nor_does_the_command(tmp_path, said):
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    words = f"--backbone conv4-32 {said} --image-size 16 --channels 1 --steps 1 --episodes-per-step 1 --shot 1"
    words += " --query 1 --validate-every 1 --validation-episodes 2 --device cpu"
    assert main(["fewshot", "train", "glyphs", "--out", str(tmp_path / "run"), *words.split()]) == 0
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


@pytest.mark.parametrize("name", ["own", "classifier", "hf", "timm", "efficientnet-lite0"])
def test_nor_does_opening_a_network(tmp_path, toy_images, name):
    """Layers draw weights before those of a file take their place."""
    file = str(tmp_path / "model.safetensors")
    if name == "hf":
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(tmp_path)
        transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
        opened = f"hf:{tmp_path}"
    elif name == "timm":
        pytest.importorskip("timm")
        opened = file
        open_backbone("timm:resnet10t", pretrained=False).save(file)
    elif name == "efficientnet-lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
        opened = name
    else:
        model = MCRNet(ModelConfig(backbone="conv4-32", image_size=16))
        model.save(opened := file)
        if name == "classifier":
            FewShotClassifier(model, device="cpu").fit(toy_images.images[::6], toy_images.labels[::6]).save(file)
    state = torch.get_rng_state()
    FewShotClassifier.load(file) if name == "classifier" else open_backbone(opened)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_without_weights_is_drawn_from_it():
    pytest.importorskip("timm")
    first, second = (open_backbone("timm:resnet10t", pretrained=False) for _ in range(2))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
