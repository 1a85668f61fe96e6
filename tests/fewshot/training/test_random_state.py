"""Training leaves the caller's random state as it was. (Python's own is read by the type checks of the tests.)"""

import numpy as np
import pytest
import torch

from pauca.cli import main
from pauca.fewshot import EpisodeConfig, MCRNet, ModelConfig, TrainConfig, train


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
