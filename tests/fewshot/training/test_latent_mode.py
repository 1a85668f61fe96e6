"""Which latent mode a training takes that was told none."""

from dataclasses import replace

import pytest
import torch

from pauca.cli import main
from pauca.errors import ConfigError
from pauca.fewshot import LatentConfig, MCRNet, ModelConfig, TrainConfig
from pauca.fewshot.named import open_tested
from pauca.fewshot.training.settings import TrainSettings
from pauca.runs import from_yaml

CONV4, RESNET = (ModelConfig(backbone, image_size=16) for backbone in ("conv4-32", "resnet12"))


@pytest.mark.parametrize(
    ("model", "device", "mode"),
    [(CONV4, "cpu", "none"), (RESNET, "cpu", "deterministic"), (CONV4, "cuda", "deterministic")],
)
def test_on_a_cpu_it_is_none_where_the_latent_space_is_most_of_the_work(model, device, mode, toy_images, monkeypatch):
    monkeypatch.setattr("pauca.fewshot.training.settings.resolve_device", torch.device)
    settings = TrainSettings("toy", model, TrainConfig(device=device)).fitted_to(toy_images)
    assert settings.model.latent.mode == mode
    told = replace(model, latent=LatentConfig(mode="variational"))
    assert TrainSettings("toy", told, TrainConfig(device=device)).fitted_to(toy_images).model.latent == told.latent


def test_a_model_that_was_told_none_is_deterministic():
    assert MCRNet(CONV4).config.latent == LatentConfig(mode="deterministic")


@pytest.mark.parametrize("asked", [{"kl_weight": 0.5}, {"reconstruction_weight": 0.5}, {"test_code": "mc:8"}])
def test_what_only_a_sampled_code_has_is_not_passed_over(asked):
    latent = LatentConfig(**asked)
    assert MCRNet(replace(CONV4, latent=latent)).config.latent.mode == "variational"


def test_the_command_says_so_and_keeps_it(tmp_path, capsys):
    words = "--backbone conv4-32 --image-size 16 --channels 1 --steps 1 --episodes-per-step 1 --shot 1 --query 1"
    words += " --validate-every 1 --validation-episodes 2 --device cpu --out"
    assert main(["fewshot", "train", "glyphs", *words.split(), str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "without a latent space, which would make a step 7 times as dear on this CPU; --mode variational" in said
    assert from_yaml(TrainSettings, tmp_path / "run" / "config.yaml").model.latent.mode == "none"
    assert main(["fewshot", "train", "--out", str(tmp_path / "run"), "--resume", "--quiet"]) == 0


def test_a_model_that_draws_no_codes_is_asked_for_none(tmp_path):
    MCRNet(replace(CONV4, latent=LatentConfig(mode="deterministic"))).save(tmp_path / "model.safetensors")
    for code in ("mc:8", "sample"):
        with pytest.raises(ConfigError, match=r"draws no codes \(latent mode deterministic\); leave it out"):
            open_tested(str(tmp_path / "model.safetensors"), None, code)
    assert open_tested(str(tmp_path / "model.safetensors"), None, "mean")[1] is None
