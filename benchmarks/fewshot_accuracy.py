"""Does the latent space help? Accuracy on Tiny-ImageNet at 32 pixels, variants side by side on the same episodes.

    python benchmarks/fewshot_accuracy.py [--variants plain,deterministic,released,variational:0.01:0] [--seeds 0,1]
        [--steps 5000] [--minutes 8] [--processes 2] [--out FILE.json]

A variant is `plain` (MetaOptNet's network, no stem), `deterministic` (z = mu: the control of equal compute), `released`
(sampled, no loss term) or `variational:KL:RECONSTRUCTION` (their weights), optionally with `+turned:SHARE` (classes
turned by quarter turns count as new ones), `+smoothing:SHARE` (of labels), `+cosine:1` (the learning rate falls along
half a cosine and not in the paper's phases) or `+start:LOG_SIGMA`. All get the same steps; nothing is chosen on the
test classes. The last step is tested on 2000 fixed episodes, 5-way, 15 queries, 1 and 5 shots: with the features of the
image, with the mean over the image and its mirror image (`mirror`), and, for sampled variants, with the mean over 8
codes (`mc:8`). Differences are paired by episode, between equal ways of testing, averaged over seeds first; their
interval speaks of episodes, so the differences of the single seeds, which are shown too, must agree before a difference
means much.

Needs `fewshot/tiny-imagenet-200-first120.zip` and `fewshot/splits/tiny-imagenet-200` in PAUCA_DATA. Finished variants
are kept in --out after each one, and skipped when the benchmark is called again: it can be cut and continued. Several
processes share a GPU so that one compiles while the other trains; their ms/step are therefore not a measure of speed.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from pauca.fewshot.data import read_images
from pauca.fewshot.episodes import sample_episodes
from pauca.fewshot.evaluation import embed_images, evaluate, mean_interval
from pauca.fewshot.latent import LatentConfig
from pauca.fewshot.model import MCRNet, ModelConfig
from pauca.fewshot.training.augment import AugmentConfig
from pauca.fewshot.training.config import TrainConfig
from pauca.fewshot.training.trainer import Trainer
from pauca.fewshot.types import EpisodeConfig, Episodes, ImageSet
from pauca.runs import processor_name

SHOTS = (1, 5)
EPISODE_SEED = 20_200_710  # of the test episodes; any number, but always this one
SECONDS_BEFORE_FIRST_GUESS = 120.0


def load(size: int, classes: int | None, images_per_class: int | None) -> tuple[ImageSet, ImageSet]:
    """Training and test classes, the former thinned out as asked."""
    folder = Path(os.environ.get("PAUCA_DATA", Path(__file__).parents[2] / "shared" / "data")) / "fewshot"
    cache = Path(__file__).parent / ".cache"
    everything = read_images(folder / "tiny-imagenet-200-first120.zip", size, cache=cache)
    names = {
        split: json.loads((folder / "splits" / "tiny-imagenet-200" / f"{split}.json").read_text())
        for split in ("train", "test")
    }
    train = everything.only(names["train"][:classes], "train")
    if images_per_class:
        first = torch.cat([(train.labels == c).nonzero()[:images_per_class, 0] for c in range(len(train.class_names))])
        train = replace(train, images=train.images[first], labels=train.labels[first], sources=())
    return train, everything.only(names["test"], "test")


def model_config(variant: str, backbone: str, size: int) -> ModelConfig:
    kind, *weights = variant.split("+")[0].split(":")
    if kind == "plain":
        plain = f"{backbone}-plain" if backbone == "resnet12" else backbone
        return ModelConfig(plain, image_size=size, latent=LatentConfig(mode="none"))
    latent = LatentConfig(mode=kind)  # type: ignore[arg-type] - LatentConfig checks it
    if kind == "variational":
        latent = replace(latent, kl_weight=float(weights[0]), reconstruction_weight=float(weights[1]))
        latent = replace(latent, log_sigma_start=extra(variant, "start", latent.log_sigma_start))
    return ModelConfig(backbone, image_size=size, latent=latent)


def extra(variant: str, name: str, default: float) -> float:
    """The number behind `+name:` in a variant."""
    return float(dict(part.split(":") for part in variant.split("+")[1:]).get(name, default))


def train(variant: str, seed: int, images: ImageSet, options: argparse.Namespace) -> tuple[MCRNet, dict]:
    """Train one variant; also what it took."""
    torch.compiler.reset()  # each variant is a new graph, and the compiler gives up after eight of one function
    torch.manual_seed(seed)
    model = MCRNet(model_config(variant, options.backbone, options.size))
    config = TrainConfig(
        steps=options.steps,
        episode=EpisodeConfig(way=5, shot=options.train_shot, query=6),
        augmentation=AugmentConfig(turned_classes=extra(variant, "turned", 0.0)),
        label_smoothing=extra(variant, "smoothing", 0.0),
        seed=seed,
        compile=options.compile,
    )
    if extra(variant, "cosine", 0.0):
        config = replace(config, schedule="cosine")
    trainer = Trainer(model, images, config)
    started = time.monotonic()
    trainer.step().total.item()
    compiled = time.monotonic()
    for _ in range(1, options.steps):
        losses = trainer.step()
        if trainer.steps_done % 1000 == 0:
            print(f"  {variant} seed {seed} step {trainer.steps_done} loss {losses.total.item():.3f}", flush=True)
    loss = float(losses.total) if options.steps > 1 else float("nan")
    finished = time.monotonic()
    return model, {
        "compile_s": round(compiled - started, 1),
        "train_s": round(finished - compiled, 1),
        "ms_per_step": round(1000 * (finished - compiled) / max(options.steps - 1, 1), 2),
        "last_loss": round(loss, 4),
    }


def test(model: MCRNet, images: ImageSet, episodes: dict[int, Episodes], device: torch.device) -> dict:
    """Correct queries of each episode, for each way of testing and shot."""

    def features(code: str, mirror: bool = False) -> torch.Tensor:
        model.config = replace(model.config, latent=replace(model.config.latent, test_code=code))
        return embed_images(model, images, device, bf16=device.type == "cuda", mirror=mirror)

    ways = {"": features("mean"), "mirror": features("mean", mirror=True)}
    if model.config.latent.mode in ("released", "variational"):
        ways["mc:8"] = features("mc:8")
    correct: dict[str, dict[str, list[int]]] = {}
    for way, of_images in ways.items():
        for shot, tasks in episodes.items():
            accuracy = evaluate(model, images, tasks, device, of_images).episode_accuracy
            queries = tasks.query_labels.shape[1]
            correct.setdefault(way, {})[str(shot)] = np.rint(accuracy * queries).astype(int).tolist()
    return correct


def show(results: dict, queries: int) -> None:
    """The table: accuracies with intervals, and paired differences to the plain network and to the control, trained
    with the same extras and tested in the same way (without codes to average where the control has none)."""
    accuracy: dict[tuple[str, str, str], dict[str, np.ndarray]] = {}  # by variant, way of testing and shot; then seed
    for key, result in sorted(results.items()):
        variant, seed = key.rsplit("@", 1)
        for way, shots in result["correct"].items():
            for shot, counts in shots.items():
                accuracy.setdefault((variant, way, shot), {})[seed] = np.array(counts) / queries
    print("\n| variant | tested with | seeds | shot | accuracy % | minus plain | minus deterministic |")
    print("|---|---|---|---|---|---|---|")
    for (variant, way, shot), runs in accuracy.items():
        extras = "".join(f"+{part}" for part in variant.split("+")[1:] if not part.startswith("start"))
        control_way = "" if way.startswith("mc") else way
        cells = [
            difference(runs, accuracy.get((control + extras, control_way, shot), {}))
            for control in ("plain", "deterministic")
        ]
        accuracy_cell = mean_interval(np.mean(list(runs.values()), 0))
        print(f"| {variant} | {way or 'image'} | {len(runs)} | {shot} | {accuracy_cell} | {cells[0]} | {cells[1]} |")


def difference(runs: dict[str, np.ndarray], controls: dict[str, np.ndarray]) -> str:
    """Paired difference in percentage points with its interval, and that of each seed."""
    pairs = [runs[seed] - controls[seed] for seed in runs if seed in controls]
    if not pairs or controls is runs:
        return ""
    interval = mean_interval(np.mean(pairs, 0))
    seeds = ", ".join(f"{100 * pair.mean():+.2f}" for pair in pairs)
    return f"{100 * interval.mean:+.2f} ± {100 * interval.half_width:.2f} ({seeds})"


@cache
def data(options_text: str) -> tuple[ImageSet, ImageSet, dict[int, Episodes]]:
    """Training images, test images and test episodes, once a process."""
    size, classes, images_per_class, count = json.loads(options_text)
    train_images, test_images = load(size, classes, images_per_class)
    episodes = {
        shot: sample_episodes(test_images, EpisodeConfig(5, shot, 15), count, EPISODE_SEED + shot) for shot in SHOTS
    }
    return train_images, test_images, episodes


def run_one(variant: str, seed: int, options: argparse.Namespace) -> dict:
    """Train and test one variant, in a process of the pool."""
    torch.set_num_threads(4)
    wanted = (options.size, options.classes, options.images_per_class, options.episodes)
    train_images, test_images, episodes = data(json.dumps(wanted))
    started = time.monotonic()
    model, cost = train(variant, seed, train_images, options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    correct = test(model, test_images, episodes, device)
    return {**cost, "total_s": round(time.monotonic() - started, 1), "correct": correct}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variants", default="plain,deterministic,released,variational:0.01:0,variational:0.01:0.1")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=8.0, help="begin no variant that would not end in this time")
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--backbone", default="resnet12", help="resnet12, conv4, conv4-32 or r2d2")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--classes", type=int, help="train on so many classes only")
    parser.add_argument("--images-per-class", type=int, help="train on so many images of each class only")
    parser.add_argument("--train-shot", type=int, default=5)
    parser.add_argument("--compile", default="auto")
    parser.add_argument("--processes", type=int, default=1, help="that share the GPU")
    parser.add_argument("--out", type=Path, default=Path("fewshot_accuracy.json"))
    options = parser.parse_args()

    began = time.monotonic()
    names = ("steps", "episodes", "backbone", "size", "classes", "images_per_class", "train_shot")
    settings = {name: getattr(options, name) for name in names}
    stored = json.loads(options.out.read_text()) if options.out.exists() else {"settings": settings, "results": {}}
    if stored["settings"] != settings:
        raise SystemExit(f"{options.out} holds results of other settings ({stored['settings']}); give another --out")
    processor = torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()
    stored["machine"] = {"device": processor, "torch": torch.__version__, "python": platform.python_version()}
    jobs = [(variant, int(seed)) for seed in options.seeds.split(",") for variant in options.variants.split(",")]
    jobs = [job for job in jobs if "{}@{}".format(*job) not in stored["results"]]
    load(options.size, None, None)  # decodes into the cache that the processes share

    expected = SECONDS_BEFORE_FIRST_GUESS
    running: dict[Future, str] = {}
    with ProcessPoolExecutor(options.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        while jobs or running:
            while jobs and len(running) < options.processes:
                variant, seed = jobs.pop(0)
                if time.monotonic() - began + expected > 60 * options.minutes:
                    print(f"no time for {variant}@{seed}", flush=True)
                    continue
                running[pool.submit(run_one, variant, seed, options)] = f"{variant}@{seed}"
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                key = running.pop(done)
                stored["results"][key] = done.result()
                options.out.write_text(json.dumps(stored))
                expected = done.result()["total_s"]  # of the next one, too
                print(f"{key}: {expected:.0f} s, last loss {done.result()['last_loss']}", flush=True)
    print(f"\n{stored['machine']}\n{settings}")
    show(stored["results"], queries=75)


if __name__ == "__main__":
    main()
