"""Does the latent space help? Accuracy on Tiny-ImageNet at 32 pixels, variants side by side on the same episodes.

    python benchmarks/fewshot_accuracy.py [--variants plain,deterministic,released,variational:0.01:0] [--seeds 0,1]
        [--steps 5000] [--minutes 8] [--out FILE.json]

A variant is `plain` (MetaOptNet's network, no stem), `deterministic` (z = mu: the control of equal compute), `released`
(sampled, no loss term) or `variational:KL:RECONSTRUCTION` (their weights), optionally with `+turned:SHARE` (classes
turned by quarter turns count as new ones), `+smoothing:SHARE` (of labels) or `+start:LOG_SIGMA`. All get the same steps
and schedule; nothing is chosen on the test classes. The last step is tested on 2000 fixed episodes, 5-way, 15 queries,
1 and 5 shots; sampled variants with the mean code and with the mean of the features of 8 codes. Differences are paired
by episode, averaged over seeds first; their interval speaks of episodes, so the differences of the single seeds, which
are shown too, must agree before a difference means much.

Needs `fewshot/tiny-imagenet-200-first120.zip` and `fewshot/splits/tiny-imagenet-200` in PAUCA_DATA. Finished variants
are kept in --out after each one, and skipped when the benchmark is called again: it can be cut and continued.
"""

import argparse
import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pauca.fewshot.augment import AugmentConfig
from pauca.fewshot.data import read_images
from pauca.fewshot.episodes import sample_episodes
from pauca.fewshot.evaluate import embed_images, evaluate, mean_interval
from pauca.fewshot.latent import LatentConfig
from pauca.fewshot.model import MCRNet, ModelConfig
from pauca.fewshot.train import TrainConfig, Trainer
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
    """Correct queries of each episode, for each test-time code and shot."""
    codes = ["mean"] if model.config.latent.mode in ("none", "deterministic") else ["mean", "mc:8"]
    correct: dict[str, dict[str, list[int]]] = {}
    for code in codes:
        model.config = replace(model.config, latent=replace(model.config.latent, test_code=code))
        features = embed_images(model, images, device, bf16=device.type == "cuda")
        for shot, tasks in episodes.items():
            accuracy = evaluate(model, images, tasks, device, features).episode_accuracy
            queries = tasks.query_labels.shape[1]
            correct.setdefault(code, {})[str(shot)] = np.rint(accuracy * queries).astype(int).tolist()
    return correct


def show(results: dict, queries: int) -> None:
    """The table: accuracies with intervals, and paired differences to the plain network and to the control."""
    accuracy: dict[tuple[str, str], list[np.ndarray]] = {}
    for key, result in results.items():
        variant = key.rsplit("@", 1)[0]
        for code, shots in result["correct"].items():
            name = variant if code == "mean" else f"{variant} {code}"
            for shot, counts in shots.items():
                accuracy.setdefault((name, shot), []).append(np.array(counts) / queries)
    print("\n| variant | seeds | shot | accuracy % | minus plain | minus deterministic | ms/step |")
    print("|---|---|---|---|---|---|---|")
    for (name, shot), runs in accuracy.items():
        base = name.split(" ")[0]
        extras = "".join(f"+{part}" for part in base.split("+")[1:] if not part.startswith("start"))
        cells = [difference(runs, accuracy.get((control + extras, shot))) for control in ("plain", "deterministic")]
        speed = np.mean([r["ms_per_step"] for key, r in results.items() if key.rsplit("@", 1)[0] == base])
        accuracy_cell = mean_interval(np.mean(runs, 0))
        print(f"| {name} | {len(runs)} | {shot} | {accuracy_cell} | {cells[0]} | {cells[1]} | {speed:.1f} |")


def difference(runs: list[np.ndarray], controls: list[np.ndarray] | None) -> str:
    """Paired difference in percentage points with its interval, and that of each seed."""
    if not controls or controls is runs:
        return ""
    pairs = [run - control for run, control in zip(runs, controls, strict=False)]
    interval = mean_interval(np.mean(pairs, 0))
    seeds = ", ".join(f"{100 * pair.mean():+.2f}" for pair in pairs)
    return f"{100 * interval.mean:+.2f} ± {100 * interval.half_width:.2f} ({seeds})"


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
    parser.add_argument("--out", type=Path, default=Path("fewshot_accuracy.json"))
    options = parser.parse_args()

    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_images, test_images = load(options.size, options.classes, options.images_per_class)
    print(f"data ready after {time.monotonic() - began:.0f} s: {train_images}, {test_images}", flush=True)
    episodes = {
        shot: sample_episodes(test_images, EpisodeConfig(5, shot, 15), options.episodes, EPISODE_SEED + shot)
        for shot in SHOTS
    }
    names = ("steps", "episodes", "backbone", "size", "classes", "images_per_class", "train_shot")
    settings = {name: getattr(options, name) for name in names}
    stored = json.loads(options.out.read_text()) if options.out.exists() else {"settings": settings, "results": {}}
    if stored["settings"] != settings:
        raise SystemExit(f"{options.out} holds results of other settings ({stored['settings']}); give another --out")
    processor = torch.cuda.get_device_name() if device.type == "cuda" else processor_name()
    stored["machine"] = {"device": processor, "torch": torch.__version__, "python": platform.python_version()}

    expected = SECONDS_BEFORE_FIRST_GUESS
    for seed in (int(seed) for seed in options.seeds.split(",")):
        for variant in options.variants.split(","):
            key = f"{variant}@{seed}"
            if key in stored["results"]:
                continue
            if time.monotonic() - began + expected > 60 * options.minutes:
                print(f"no time for {key}", flush=True)
                continue
            started = time.monotonic()
            model, cost = train(variant, seed, train_images, options)
            stored["results"][key] = {**cost, "correct": test(model, test_images, episodes, device)}
            options.out.write_text(json.dumps(stored))
            expected = time.monotonic() - started  # of the next one, too
            print(f"{key}: {cost}, {expected:.0f} s with test", flush=True)
    print(f"\n{stored['machine']}\n{settings}")
    show(stored["results"], queries=75)


if __name__ == "__main__":
    main()
