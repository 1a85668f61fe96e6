"""The part of `pauca demo` that shows `pauca.fewshot`: tell new characters from one example."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from pauca import fewshot
from pauca.fewshot import plots
from pauca.runs import Report

SIZE = 16  # the least that Conv-4 takes; the latent space keeps the size, so time goes with its square
# A minute on two cores. Steps and not seconds, so that the result is the same on every machine of a kind.
TRAINING = fewshot.TrainConfig(
    steps=250,
    episodes_per_step=2,
    episode=fewshot.EpisodeConfig(way=5, shot=1, query=6),
    augmentation=fewshot.AugmentConfig(jitter=0.2),
    device="cpu",
)
MODEL = fewshot.ModelConfig(
    backbone="conv4-32",
    image_size=SIZE,
    channels=1,
    latent=fewshot.LatentConfig(mode="variational", kl_weight=0.01, warm_up_steps=50),
)


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration learned, and on what it was tested."""

    model: fewshot.MCRNet
    test_images: fewshot.ImageSet
    evaluations: dict[int, fewshot.Evaluation]  # by shot
    pixels: dict[int, fewshot.Evaluation]  # nearest class mean of raw pixels, on the same episodes
    seconds: float  # of training


def run_demo(
    seed: int = 0, quiet: bool = True, training: fewshot.TrainConfig = TRAINING, episodes: int = 400
) -> DemoResult:
    """Train a small MCRNet on characters and test it on characters that it has never seen."""
    train_images = fewshot.draw_glyphs("train", size=SIZE, seed=seed)
    test_images = fewshot.draw_glyphs("test", size=SIZE, seed=seed)
    torch.manual_seed(seed)
    model = fewshot.MCRNet(MODEL)
    started = time.perf_counter()
    fewshot.train(model, training, train_images, quiet=quiet)
    seconds = time.perf_counter() - started
    without_training = fewshot.MCRNet(
        fewshot.ModelConfig(
            base_learner="prototypes", image_size=SIZE, channels=1, latent=fewshot.LatentConfig(mode="none")
        ),
        backbone=nn.Flatten(),
    )
    evaluations, pixels = {}, {}
    for shot in (1, 5):
        tasks = fewshot.sample_episodes(test_images, fewshot.EpisodeConfig(5, shot, 15), episodes, seed)
        evaluations[shot] = fewshot.evaluate(model, test_images, tasks)
        pixels[shot] = fewshot.evaluate(without_training, test_images, tasks)
    return DemoResult(model, test_images, evaluations, pixels, seconds)


def add_to_report(report: Report, folder: Path, seed: int, quiet: bool) -> None:
    """Train, test, save the model to `folder`, and describe all in `report`."""
    result = run_demo(seed, quiet)
    result.model.save(folder / "model.safetensors")
    report.heading("Few labels: new characters from one example")
    report.text(
        f"A small MCRNet was trained for {result.seconds:.0f} s, {TRAINING.steps} steps, on characters drawn with the "
        "fonts that matplotlib ships, and then tested on characters that it had never seen: five at a time, one or "
        "five drawings of each as examples. Guessing would be right in 20 % of the cases."
    )
    rows = []
    for shot, evaluation in result.evaluations.items():
        gain = fewshot.compare(evaluation, result.pixels[shot]).difference
        rows.append([shot, str(evaluation.accuracy), str(result.pixels[shot].accuracy), str(gain)])
    report.table(
        ["examples a class", "MCRNet %", "nearest mean of pixels %", "difference, points"],
        rows,
        caption=f"Mean over {len(result.evaluations[1].episodes)} tasks of 75 questions, 95 % intervals over tasks; "
        "the difference is paired by task.",
    )
    task = result.evaluations[1].episodes[:1]
    features = fewshot.embed_images(result.model, result.test_images)
    logits = result.model.classify(features[task.support], task.support_labels, features[task.query], task.way)
    report.figure(
        plots.episode_gallery(_named_by_character(result.test_images), task, logits),
        "One task: the example of each class on the left; on the right questions, each below the model's answer, green "
        "where it is right.",
    )
    report.figure(
        plots.reliability(result.evaluations[5]),
        "How sure the model says it is, and how often it is right, with five examples a class. The larger a dot, the "
        "more answers; above the dotted line the model is right more often than it says.",
    )


def _named_by_character(images: fewshot.ImageSet) -> fewshot.ImageSet:
    """Glyphs are named by code point, as in U+0072; a reader knows the character."""
    return replace(images, class_names=tuple(chr(int(name.removeprefix("U+"), 16)) for name in images.class_names))
