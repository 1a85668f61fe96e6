"""Pictures to train on: repeatable, kept, of every image; and a model that is trained on them."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from pauca import cli, events, fewshot
from pauca.errors import ConfigError, InputError
from pauca.recognize import MoEFeatures, PictureConfig, ShakeConfig, simulate_pictures
from pauca.recognize.simulation import at_most, cached_pictures, shake

from .scenes import CLASSES, recording


@pytest.fixture(scope="module")
def glyphs() -> fewshot.ImageSet:
    return fewshot.draw_glyphs("train", per_class=2, size=48, classes=2)


def test_the_same_seed_gives_the_same_pictures_and_another_others(glyphs):
    one, same, other = (simulate_pictures(glyphs, ShakeConfig(motion_seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one.images, same.images)
    assert not torch.equal(one.images, other.images)
    assert one.images.shape == (4, 1, 32, 32)
    assert torch.equal(one.labels, glyphs.labels)
    assert (one.images.flatten(1).float().std(1) > 20).all()


def test_motions_differ_from_image_to_image(glyphs):
    pixels = glyphs.images[0, 0].numpy()
    first, second = (shake(pixels, ShakeConfig(), number).events for number in (0, 1))
    assert len(first) != len(second)
    assert first.size == (34, 34)


def test_an_image_that_shows_nothing_gives_a_black_picture_or_noise(glyphs):
    blank = fewshot.image_set_from_arrays(np.zeros((2, 48, 48), np.uint8), ["a", "b"])
    assert simulate_pictures(blank, ShakeConfig(seconds=0.05)).images.shape == (2, 1, 32, 32)


def test_what_was_simulated_is_kept_and_not_taken_for_something_else(glyphs, tmp_path, monkeypatch):
    made = cached_pictures(tmp_path / "train", glyphs, ShakeConfig(), PictureConfig())
    monkeypatch.setattr("pauca.recognize.simulation.simulate_pictures", None)  # would fail if it were called
    again = cached_pictures(tmp_path / "train", glyphs, ShakeConfig(), PictureConfig())
    assert torch.equal(made.images, again.images)
    with pytest.raises(InputError, match="other images or settings"):
        cached_pictures(tmp_path / "train", glyphs, ShakeConfig(motion_seed=5), PictureConfig())


@pytest.mark.parametrize(
    "wrong", [{"sensor": 8}, {"slowest_deg_s": 0.0}, {"slowest_deg_s": 600.0}, {"seconds": 0.0}, {"side": 4}]
)
def test_settings_that_show_nothing_are_refused(wrong):
    with pytest.raises(ConfigError):
        ShakeConfig(**wrong)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--per-class", "10"], "20 images that 5 shots and 15 queries need"),
        (["--per-class", "8", "--validation-shot", "1"], "10 images that 5 shots and 5 queries need"),
        (["--way", "11", "--classes", "10"], "11-way episodes need as many classes"),
        (["--backbone", "conv5"], "conv5"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--classes", "0"], "0 glyph classes"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_simulated(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pauca.recognize.commands.cached_pictures", None)  # would fail if it were called
    fewer = [] if "--classes" in words else ["--classes", "10"]
    assert cli.main(["recognize", "train", "--out", str(tmp_path / "run"), *fewer, *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_of_large_data_only_so_many_classes_and_images_are_simulated():
    images = fewshot.draw_glyphs("train", per_class=3, size=48, classes=4)
    fewer = at_most(images, 2, 2)
    assert torch.equal(fewer.images, images.images[[0, 1, 3, 4]])
    assert fewer.class_names == images.class_names[:2]
    assert at_most(images, None, None).fingerprint == images.fingerprint
    with pytest.raises(ConfigError, match="two classes and one image"):
        at_most(images, 1, None)


@pytest.mark.slow
def test_a_model_is_trained_on_events_and_names_recordings(tmp_path, capsys, monkeypatch):
    made = []
    make = fewshot.MCRNet.__init__
    monkeypatch.setattr(fewshot.MCRNet, "__init__", lambda self, *a, **k: made.append(1) or make(self, *a, **k))
    out = tmp_path / "run"
    words = "recognize", "train", "--out", out, "--classes", 10, "--per-class", 16, "--steps", 4, "--way", 5
    words += "--validation-shot", 1, "--validate-every", 4, "--validation-episodes", 5, "--seconds", 0.1, "--quiet"
    assert cli.main([*map(str, words)]) == 0
    assert len(made) == 1  # checked and trained is the same network
    assert cli.main([*map(str, words)]) == 2
    assert "holds a run already" in capsys.readouterr().err
    for label in range(CLASSES):
        events.write(tmp_path / "support" / f"thing {label}" / "0.npz", recording(label, 0))
    named = tmp_path / "names.csv"
    model = out / "checkpoints" / "best.safetensors"
    asked = "recognize", "predict", "--model", model, "--support", tmp_path / "support", "--query"
    assert cli.main([*map(str, asked), str(tmp_path / "support"), "--out", str(named), "--quiet"]) == 0
    assert len(list(csv.DictReader(named.read_text().splitlines()))) == CLASSES


def test_images_that_are_no_classes_are_told_in_a_line(tmp_path, capsys):
    """Then training is refused, for want of classes."""
    for split, names in (("train", "ab"), ("val", "cd")):
        for name in names:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(2):
                pixels = np.random.default_rng([ord(name), number]).integers(0, 256, (48, 48), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{number}.png")
        Image.new("L", (48, 48)).save(tmp_path / "data" / split / "loose.png")
    (tmp_path / "data" / "val" / "e").mkdir()
    assert cli.main(["recognize", "train", str(tmp_path / "data"), "--out", str(tmp_path / "run")]) == 2
    *told, refused = (
        line for line in capsys.readouterr().err.splitlines() if line.startswith(("warning: ", "pauca: "))
    )
    assert [line.split(": ", 1)[1].split(", ")[0].split("/")[-1] for line in told] == [
        "loose.png",
        "loose.png",
        "e: holds no images and is no class; put some there",
    ]
    assert "classes" in refused


@pytest.mark.slow
def test_a_transformer_of_fp4_experts_takes_a_backbones_place(tmp_path):
    config = fewshot.ModelConfig("moe-vit", image_size=16, channels=1, latent=fewshot.LatentConfig(mode="none"))
    model = fewshot.MCRNet(config)
    assert isinstance(model.backbone, MoEFeatures)
    features = model.backbone(torch.rand(2, 1, 16, 16))
    features.square().mean().backward()
    trained = [p for p in model.backbone.parameters() if p.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)
    assert fewshot.multiply_adds(model.backbone, (1, 16, 16)) == 16 * fewshot.parameter_count(model.backbone)
    model.eval().save(tmp_path / "model.safetensors")
    images = torch.randint(0, 255, (2, 1, 16, 16), dtype=torch.uint8)
    loaded = fewshot.MCRNet.load(tmp_path / "model.safetensors")
    torch.testing.assert_close(loaded.embed(images), model.embed(images))
