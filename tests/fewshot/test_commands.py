"""The command line of pauca fewshot, from images on disk to predictions."""

import csv
import json
import shutil
import sys

import pytest
import torch
from PIL import Image

from pauca.cli import main
from pauca.fewshot import FewShotClassifier, draw_glyphs, evaluate, load_episodes, read_images
from pauca.fewshot.model import MCRNet
from pauca.fewshot.tasks import EvalSettings
from pauca.fewshot.training.config import PROTOCOLS, TrainConfig
from pauca.fewshot.training.settings import TrainSettings, override
from pauca.fewshot.views_at_test import ViewsAtTest
from pauca.runs import from_yaml

QUICK = [
    *("--backbone", "conv4-32", "--mode", "deterministic", "--way", "3", "--shot", "2", "--query", "3"),
    *("--steps", "2", "--episodes-per-step", "1", "--validate-every", "1", "--validation-episodes", "5"),
    *("--device", "cpu", "--quiet"),
]
SIZE = ["--image-size", "16", "--channels", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Glyphs as image files: train, val and test, each of 4 classes with 20 images."""
    root = tmp_path_factory.mktemp("images")
    for split in ("train", "val", "test"):
        images = draw_glyphs(split, per_class=20, size=16, classes=4)
        for i, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
            path = root / split / images.class_names[label] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(path)
    return root


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    """A model trained for two steps by the command."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    assert main(["fewshot", "train", str(folder), "--out", str(out), *QUICK, *SIZE]) == 0
    return out / "checkpoints" / "best.safetensors"


def test_training_leaves_a_run_that_can_be_repeated(model, tmp_path, capsys):
    run = model.parent.parent
    assert (run / "report.html").exists()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3  # two validations, one line of losses
    again = ["fewshot", "train", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "again"), "--quiet"]
    assert main(again) == 0
    assert (tmp_path / "again" / "checkpoints" / "best.safetensors").read_bytes() == model.read_bytes()
    assert main(["fewshot", "train", "--out", str(run), "--resume", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_training_says_how_it_augments_and_mirrors_no_letters(tmp_path, capsys):
    words = [word for word in QUICK if word != "--quiet"]
    assert main(["fewshot", "train", "glyphs", "--out", str(tmp_path / "letters"), *words, *SIZE]) == 0
    said = "augmentation: crops shifted by up to 1 px, none mirrored, colors x (1 ± 0.4)"
    assert said in capsys.readouterr().out
    augmentation = from_yaml(TrainSettings, tmp_path / "letters" / "config.yaml").train.augmentation
    assert (augmentation.crop_padding, augmentation.flip) == (1, False)


def test_the_strong_recipe_trains_resumes_and_is_tested_with_mirror_crops_and_turns(folder, tmp_path, capsys):
    out = tmp_path / "strong"
    words = ["fewshot", "train", str(folder), "--out", str(out), "--recipe", "strong", "--backbone", "conv4-32", *SIZE]
    quick = ["--steps", "1", "--images-per-step", "4", "--views", "4", "--negatives", "10", "--way", "3"]
    quick += ["--validation-episodes", "5", "--device", "cpu"]
    assert main([*words, *quick]) == 0
    assert "best after step" in capsys.readouterr().out
    assert "recipe: strong" in (out / "config.yaml").read_text()
    assert main(["fewshot", "train", "--out", str(out), "--resume", "--quiet"]) == 0
    best = str(out / "checkpoints" / "best.safetensors")
    tasks = ["--way", "3", "--shots", "1", "--episodes", "5", "--mirror", "--crops", "--out", str(tmp_path / "eval")]
    assert main(["fewshot", "eval", best, str(folder), *tasks]) == 0
    turned = [*tasks[:-4], "--turns", "--mirror", "--out", str(tmp_path / "turned")]
    assert main(["fewshot", "eval", best, str(folder), *turned]) == 0
    assert from_yaml(EvalSettings, tmp_path / "turned" / "config.yaml").views == ViewsAtTest(mirror=True, turns=True)
    assert main(["fewshot", "compare", best, best, str(folder), *tasks[:6], "--turns"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["fewshot", "eval", best, str(folder), *tasks, "--turns", "--force"]) == 0
    assert main([*words, *quick, "--force", "--protocol", "cifar-fs"]) == 2
    assert "leave one out" in capsys.readouterr().err
    assert main([*words, *quick, "--force", "--images-per-step", "100"]) == 2
    assert "80 images are fewer than the 100 of a step" in capsys.readouterr().err


def test_an_existing_run_is_not_overwritten(folder, model, capsys):
    assert main(["fewshot", "train", str(folder), "--out", str(model.parent.parent), *QUICK, *SIZE]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_what_episodes_do_not_learn_leaves_no_run(folder, tmp_path, capsys):
    words = ["fewshot", "train", str(folder), "--out", str(tmp_path / "out"), *QUICK, *SIZE, "--whiten-features", "0.5"]
    assert main(words) == 2
    assert "whiten_features 0.5: only the recipe strong learns it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_there_must_be_a_run_to_go_on_with(tmp_path, capsys):
    assert main(["fewshot", "train", "--out", str(tmp_path / "none"), "--resume"]) == 2
    assert "none: holds no run to go on with" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_eval_on_training_classes_says_so(folder, model, tmp_path, capsys):
    words = ["fewshot", "eval", str(model), str(folder), "--way", "3", "--episodes", "5", "--shots", "1"]
    assert main([*words, "--out", str(tmp_path / "train"), "--split", "train"]) == 0
    printed = capsys.readouterr()
    assert "warning: the model was trained on 4 of these 4 classes, first 'U+" in printed.err
    assert (
        len(json.loads((tmp_path / "train" / "evaluation.json").read_text())["1-shot"]["classes_seen_in_training"]) == 4
    )
    assert main([*words, "--out", str(tmp_path / "test")]) == 0
    assert "warning" not in capsys.readouterr().err


def test_one_episode_has_no_interval(folder, model, tmp_path, capsys):
    """Its half width was Infinity, which is no JSON."""
    words = [str(folder), "--way", "3", "--episodes", "1", "--shots", "1"]
    assert main(["fewshot", "eval", str(model), *words, "--out", str(tmp_path / "out"), "--json"]) == 0
    assert main(["fewshot", "compare", str(model), str(model), *words, "--json"]) == 0
    found = [
        capsys.readouterr().out,
        *((tmp_path / "out" / f).read_text() for f in ("evaluation.json", "metrics.jsonl")),
    ]
    for text in found:
        assert '"half_width": null' in text
        assert "Infinity" not in text


def test_eval_writes_results_episodes_and_report(folder, model, tmp_path, capsys):
    out = tmp_path / "eval"
    words = ["fewshot", "eval", str(model), str(folder), "--out", str(out), "--way", "3", "--episodes", "10"]
    assert main([*words, "--shots", "1", "5"]) == 0
    assert "3-way 5-shot" in capsys.readouterr().out
    results = json.loads((out / "evaluation.json").read_text())
    assert 0 <= results["1-shot"]["accuracy"] <= 1
    assert results["1-shot"]["episodes"] == 10
    assert len(results["5-shot"]["class_accuracy"]) == 4
    assert (out / "episodes-5shot.npz").exists()
    assert (out / "report.html").exists()


def test_a_map_that_cannot_be_drawn_is_said_before_the_work(folder, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "umap", None)
    words = ["fewshot", "eval", str(model), str(folder), "--out", str(tmp_path / "out"), "--way", "3"]
    assert main([*words, "--map-by", "umap"]) == 2
    assert "pip install umap-learn" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_testing_on_training_images_is_refused(folder, model, tmp_path, capsys):
    mixed = tmp_path / "mixed"
    shutil.copytree(folder / "train", mixed / "train")
    shutil.copytree(folder / "train", mixed / "test")
    assert main(["fewshot", "eval", str(model), str(mixed), "--out", str(tmp_path / "out"), "--way", "3"]) == 2
    assert "share" in capsys.readouterr().err


def test_validating_on_training_images_is_refused(folder, tmp_path, capsys):
    mixed = tmp_path / "mixed"
    shutil.copytree(folder / "train", mixed / "train")
    shutil.copytree(folder / "train", mixed / "val")
    assert main(["fewshot", "train", str(mixed), "--out", str(tmp_path / "out"), *QUICK, *SIZE]) == 2
    assert "share 4 classes" in capsys.readouterr().err


def test_saved_episodes_are_used_again(folder, model, tmp_path, capsys):
    """Other numbers of the second call would draw other episodes."""
    words = ["fewshot", "eval", str(model), str(folder), "--shots", "1"]
    assert main([*words, "--out", str(tmp_path / "a"), "--way", "3", "--episodes", "10", "--seed", "5"]) == 0
    saved = ["--episodes-from", str(tmp_path / "a")]
    assert main([*words, "--out", str(tmp_path / "b"), *saved]) == 0
    first, second = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in "ab")
    assert first == second
    capsys.readouterr()
    assert main(["fewshot", "compare", str(model), str(model), str(folder), "--shots", "1", "--json", *saved]) == 0
    assert json.loads(capsys.readouterr().out)["1-shot"]["first"] == first["1-shot"]["accuracy"]
    assert main([*words[:-1], "5", "--out", str(tmp_path / "c"), *saved]) == 2
    assert "episodes-5shot.npz: no such file" in capsys.readouterr().err


def test_each_image_is_embedded_once(folder, model, tmp_path, monkeypatch):
    """Once for all shots and the report together."""
    seen = []
    embed = MCRNet.embed

    def counted(self, images, *rest, **more):
        seen.append(len(images))
        return embed(self, images, *rest, **more)

    monkeypatch.setattr(MCRNet, "embed", counted)
    words = [
        "fewshot",
        "eval",
        str(model),
        str(folder),
        "--out",
        str(tmp_path / "out"),
        "--way",
        "3",
        "--episodes",
        "5",
    ]
    assert main([*words, "--shots", "1", "2", "5"]) == 0
    assert sum(seen) == 80


@pytest.mark.parametrize("verb", ["train", "eval"])
def test_what_is_refused_leaves_no_run_and_costs_none(verb, folder, model, tmp_path, capsys):
    def words(way: str) -> list[str]:
        if verb == "train":
            return ["fewshot", "train", str(folder), "--out", str(tmp_path / "out"), *QUICK, *SIZE, "--way", way]
        return [
            "fewshot",
            "eval",
            str(model),
            str(folder),
            "--out",
            str(tmp_path / "out"),
            "--way",
            way,
            "--episodes",
            "5",
        ]

    assert main(words("50")) == 2
    assert not (tmp_path / "out").exists()
    assert main(words("3")) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert main([*words("50"), "--force"]) == 2
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(words("3")) == 2
    assert ("--resume" in capsys.readouterr().err) == (verb == "train")


def test_an_evaluation_says_what_it_tested(folder, model, tmp_path):
    out = tmp_path / "eval"
    words = ["fewshot", "eval", str(model), str(folder), "--out", str(out), "--way", "3", "--episodes", "5"]
    assert main([*words, "--split", "val", "--shots", "1"]) == 0
    settings = from_yaml(EvalSettings, out / "config.yaml")
    assert (settings.model, settings.data, settings.split) == (str(model), str(folder), "val")
    assert (settings.tasks.way, settings.tasks.shots, settings.tasks.episodes) == (3, (1,), 5)


def test_mirror_images_can_be_averaged_in(folder, model, tmp_path, capsys):
    """By all three verbs that embed images, as the library does it."""
    words = ["--way", "3", "--episodes", "10", "--shots", "1", "--mirror"]
    assert main(["fewshot", "eval", str(model), str(folder), "--out", str(tmp_path / "eval"), *words]) == 0
    found = json.loads((tmp_path / "eval" / "evaluation.json").read_text())["1-shot"]
    images = read_images(folder, 16, 1, "test")
    episodes = load_episodes(tmp_path / "eval" / "episodes-1shot.npz", images)
    assert (
        found["accuracy"]
        == evaluate(MCRNet.load(model), images, episodes, views=ViewsAtTest(mirror=True)).accuracy.mean
    )
    assert from_yaml(EvalSettings, tmp_path / "eval" / "config.yaml").views == ViewsAtTest(mirror=True)

    capsys.readouterr()
    assert main(["fewshot", "compare", str(model), str(model), str(folder), "--json", *words]) == 0
    assert json.loads(capsys.readouterr().out)["1-shot"]["first"] == found["accuracy"]

    asked = ["--support", str(folder / "test"), "--query", str(folder / "val"), "--out", str(tmp_path / "out.csv")]
    assert main(["fewshot", "predict", str(model), *asked, "--mirror"]) == 0
    examples = read_images(folder / "test", 16, 1)
    names = [examples.class_names[label] for label in examples.labels]
    classifier = FewShotClassifier(model, device="cpu", mirror=True).fit(examples.images, names)
    _, row, *_ = csv.reader((tmp_path / "out.csv").read_text().splitlines())
    expected = classifier.predict_proba([row[0]])[0].tolist()
    assert [float(value) for value in row[2:]] == pytest.approx(expected, abs=1e-4)


def test_repeating_a_config_names_the_run_after_its_data(folder, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fewshot", "train", "--config", str(model.parent.parent / "config.yaml"), "--quiet"]) == 0
    assert (tmp_path / "runs" / "fewshot" / folder.name / "checkpoints" / "best.safetensors").exists()


def test_small_classes_can_be_left_out_of_an_evaluation(folder, model, tmp_path, capsys):
    some = tmp_path / "some"
    shutil.copytree(folder / "test", some)
    smallest = min(some.iterdir())
    for path in sorted(smallest.iterdir())[3:]:
        path.unlink()
    words = ["fewshot", "eval", str(model), str(some), "--out", str(tmp_path / "e"), "--way", "3", "--episodes", "5"]
    assert main([*words, "--shots", "1"]) == 2
    assert f"{smallest.name} (3)" in capsys.readouterr().err
    assert main([*words, "--shots", "1", "--small-classes", "skip"]) == 0


def test_damaged_images_are_named_or_left_out(folder, model, tmp_path, capsys):
    query = tmp_path / "query"
    shutil.copytree(next((folder / "test").iterdir()), query)
    (query / "cut.png").write_bytes(next(query.iterdir()).read_bytes()[:60])
    out = tmp_path / "predictions.csv"
    words = [
        "fewshot",
        "predict",
        str(model),
        "--support",
        str(folder / "test"),
        "--query",
        str(query),
        "--out",
        str(out),
    ]
    assert main(words) == 2
    assert "cut.png: not readable as an image" in capsys.readouterr().err
    assert not out.exists()
    assert main([*words, "--unreadable", "skip"]) == 0
    assert "warning: left out 1 damaged image of 21: " in capsys.readouterr().err
    assert len(out.read_text().splitlines()) == 1 + 20


def test_compare_of_a_model_with_itself_is_nothing(folder, model, capsys):
    words = ["fewshot", "compare", str(model), str(model), str(folder), "--way", "3", "--episodes", "10", "--json"]
    assert main([*words, "--shots", "1"]) == 0
    found = json.loads(capsys.readouterr().out)["1-shot"]
    assert (found["difference"], found["p_value"], found["wins"], found["losses"]) == (0.0, 1.0, 0, 0)


def test_predict_writes_a_table_and_a_gallery(folder, model, tmp_path):
    out = tmp_path / "predictions.csv"
    words = ["fewshot", "predict", str(model), "--support", str(folder / "test"), "--query", str(folder / "test")]
    assert main([*words, "--out", str(out)]) == 0
    header, *rows = csv.reader(out.read_text().splitlines())
    assert header[:2] == ["file", "label"]
    assert header[2:] == sorted(path.name for path in (folder / "test").iterdir())
    assert len(rows) == 80
    assert all(row[1] in header[2:] and sum(map(float, row[2:])) == pytest.approx(1, abs=1e-3) for row in rows)
    assert "<img" in out.with_suffix(".html").read_text()
    assert main([*words, "--out", str(out)]) == 2  # not overwritten without --force


def test_query_images_are_embedded_once(folder, model, tmp_path, monkeypatch):
    seen = []
    embed = MCRNet.embed

    def counted(self, images, *rest, **more):
        seen.append(len(images))
        return embed(self, images, *rest, **more)

    monkeypatch.setattr(MCRNet, "embed", counted)
    words = ["fewshot", "predict", str(model), "--support", str(folder / "test"), "--query", str(folder / "val")]
    assert main([*words, "--out", str(tmp_path / "out.csv")]) == 0
    assert sum(seen) == 80 + 80


def test_one_image_can_be_asked(folder, model, tmp_path):
    image = next((folder / "test").rglob("*.png"))
    out = tmp_path / "out.csv"
    words = ["fewshot", "predict", str(model), "--support", str(folder / "test"), "--out", str(out)]
    assert main([*words, "--query", str(image)]) == 0
    _, row = csv.reader(out.read_text().splitlines())
    assert row[0] == str(image)


def test_examples_of_one_class_are_refused(folder, model, tmp_path, capsys):
    name = next((folder / "test").iterdir()).name
    shutil.copytree(folder / "test" / name, tmp_path / "few" / name)
    words = ["fewshot", "predict", str(model), "--support", str(tmp_path / "few"), "--query", str(folder / "test")]
    assert main([*words, "--out", str(tmp_path / "out.csv")]) == 2
    assert "one class is not enough; add examples of another class" in capsys.readouterr().err


def test_scan_names_what_is_wrong_and_ends_with_1(folder, capsys):
    assert main(["fewshot", "data", "scan", str(folder / "train"), "--min-images", "20"]) == 0
    assert capsys.readouterr().out.endswith("nothing that would mislead\n")
    assert main(["fewshot", "data", "scan", str(folder), "--min-images", "21", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 240
    assert set(report["small_classes"].values()) == {20}


def test_prepare_then_train_needs_no_size(folder, tmp_path, capsys):
    data = tmp_path / "prepared"
    prepare = ["fewshot", "data", "prepare", "folder", "--from", str(folder), "--out", str(data), "--size", "16"]
    assert main(prepare) == 0
    assert main(["fewshot", "train", str(data), "--out", str(tmp_path / "run"), *QUICK]) == 0
    assert capsys.readouterr().err == ""
    words = ["fewshot", "train", str(data), "--out", str(tmp_path / "other"), *QUICK]
    assert main([*words, "--image-size", "84"]) == 2
    assert "--image-size 84: images was prepared with 16" in capsys.readouterr().err.replace(folder.name, "images")
    assert main([*words, "--image-size", "32"]) == 2  # the default, but given
    assert "--image-size 32: " in capsys.readouterr().err
    assert main([*words, "--image-size", "16"]) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("verb", ["train", "eval", "compare", "predict"])
def test_a_missing_gpu_is_wrong_usage(verb, folder, model, tmp_path, capsys):
    words = {
        "train": [str(folder), "--out", str(tmp_path / "out"), *QUICK, *SIZE],
        "eval": [str(model), str(folder), "--out", str(tmp_path / "out"), "--way", "3"],
        "compare": [str(model), str(model), str(folder), "--way", "3"],
        "predict": [str(model), "--support", str(folder), "--query", str(folder), "--out", str(tmp_path / "o.csv")],
    }
    assert main(["fewshot", verb, *words[verb], "--device", "cuda"]) == 2
    assert "sees no CUDA GPU here; use --device cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["eval", "absent.safetensors", "glyphs"], "absent.safetensors: is not a readable safetensors file"),
        (["train", "absent-folder", "--out", "{}/x"], "absent-folder: no such file or folder"),
        (["train", "--config", "absent.yaml", "--out", "{}/x"], "absent.yaml"),
        (["data", "prepare", "cifar-fs", "--from", "absent"], "get CIFAR-FS from"),
    ],
)
def test_bad_input_is_one_line_and_code_2(words, complaint, tmp_path, capsys):
    assert main(["fewshot", *(word.format(tmp_path) for word in words)]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "stored"), [(["cosine"], "cosine"), (["0", "1", "0.5", "0.1"], ((0.0, 1.0), (0.5, 0.1)))]
)
def test_the_schedule_is_a_word_or_phases(words, stored, folder, tmp_path):
    out = tmp_path / "run"
    assert main(["fewshot", "train", str(folder), "--out", str(out), *QUICK, *SIZE, "--schedule", *words]) == 0
    assert from_yaml(TrainSettings, out / "config.yaml").train.schedule == stored
    assert main(["fewshot", "train", "--out", str(out), "--resume", "--quiet"]) == 0


@pytest.mark.parametrize("how", ["--resume", "--config"])
def test_a_repeated_run_takes_no_other_settings(how, folder, model, tmp_path, capsys):
    run = model.parent.parent
    words = {
        "--resume": ["--out", str(run), "--resume"],
        "--config": ["--config", str(run / "config.yaml"), "--out", str(tmp_path / "out")],
    }
    assert main(["fewshot", "train", *words[how], "--quiet", "--steps", "7"]) == 2
    assert "config.yaml: the run was started with steps 2, not 7; leave the option out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["fewshot", "train", str(folder), *words[how], *QUICK, *SIZE]) == 0  # nothing else is asked


def test_an_evaluation_is_named_after_the_models_run(folder, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [str(folder), "--way", "3", "--episodes", "5", "--shots", "1"]
    assert main(["fewshot", "eval", str(model), *words]) == 0
    assert (tmp_path / "runs" / "fewshot" / f"eval-{folder.stem}-trained" / "report.html").exists()
    shutil.copy(model, tmp_path / "ours.safetensors")
    assert main(["fewshot", "eval", "ours.safetensors", *words]) == 0
    assert (tmp_path / "runs" / "fewshot" / f"eval-{folder.stem}-ours" / "report.html").exists()


@pytest.mark.parametrize("verb", ["train", "eval"])
def test_a_negative_seed_is_wrong_usage(verb, folder, model, tmp_path, capsys):
    words = {"train": [str(folder), *QUICK, *SIZE], "eval": [str(model), str(folder), "--way", "3"]}
    assert main(["fewshot", verb, *words[verb], "--out", str(tmp_path / "out"), "--seed", "-1"]) == 2
    assert "seed -1: give a number of at least 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_backbone_is_answered_with_the_known_ones(folder, tmp_path, capsys):
    words = ["fewshot", "train", str(folder), "--out", str(tmp_path / "run"), *SIZE, "--backbone", "vgg"]
    assert main(words) == 2
    assert "backbone 'vgg' is not known; choose one of resnet12" in capsys.readouterr().err


def test_a_protocol_gives_way_to_what_is_given():
    preset = PROTOCOLS["miniimagenet"].train
    given = TrainConfig(steps=100)
    merged = override(preset, given, TrainConfig())
    assert (merged.steps, merged.episode.shot, merged.label_smoothing) == (100, 15, 0.1)


def test_configs_survive_yaml(tmp_path):
    from pauca.fewshot.training.settings import TrainSettings
    from pauca.runs import to_yaml

    settings = TrainSettings("glyphs", PROTOCOLS["fc100"].model, PROTOCOLS["fc100"].train)
    (tmp_path / "config.yaml").write_text(to_yaml(settings))
    assert from_yaml(TrainSettings, tmp_path / "config.yaml") == settings
