"""Does the latent space help? CIFAR-FS and FC100: MCRNet and its controls side by side on the same episodes.

    python benchmarks/fewshot_accuracy.py cifar-fs [--seeds 0,1,2] [--steps 20000] [--out FILE.json]
    python benchmarks/fewshot_accuracy.py fc100 ...

All are trained as MCRNet's authors train it (CIFAR-FS: ridge, 5 shots; FC100: ridge, 15 shots), but with the learning
rate along a cosine (`+phases` has the paper's phases), for the same number of steps. The variants:

    plain           MetaOptNet's network: no latent space, widths 64, 160, 320, 640
    plain-wide      the same with a first block of 128, which MCRNet has: two thirds of what it computes more
    plain-long      plain with 1.7 times the steps: as many operations in all as MCRNet
    deterministic   z = mu: the control of equal compute
    released        sampled, no loss term
    variational:KL:RECONSTRUCTION   sampled, with weights of both terms

each with any of `+phases`, `+svm`, `+turned:SHARE` (classes turned by quarter turns count as new ones),
`+smoothing:SHARE` (of labels) and `+start:LOG_SIGMA`. Elsewhere than in front of the network (`latent_spaces.py`):

    deterministic+beside, variational:KL:0+beside   the code beside the image
    variational:KL:0+code:WEIGHT                    the code read from the features
    plain-wide+within:KL                            features with a spread, about their class's mean

Nothing is chosen on the test classes: the last step is tested, on 10,000 fixed episodes, 5-way, 15 queries, 1 and 5
shots, with the features of the image, with the mean over the image and its mirror image (`mirror`), and, for sampled
variants, over 8 codes (`mc:8`).

The table names three intervals of 95 %: over episodes (how well the accuracy of these networks on these classes is
known), over classes (on other classes of the same kind), over seeds (of other networks trained alike). Differences are
paired by episode, between equal ways of testing, averaged over seeds first; those of the single seeds stand beside.

Finished variants are kept in --out, and skipped when the benchmark is called again: it can be cut and continued.
--minutes begins no variant that would not end in time. Several processes share a GPU so that one compiles while the
other trains; their ms/step are therefore no measure of speed.
"""

import argparse
import json
import multiprocessing
import platform
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

import cifar_benchmarks
from latent_spaces import Beside, CodeRead, WithinClass
from pauca.fewshot.embedding import embed_images
from pauca.fewshot.episodes import sample_episodes
from pauca.fewshot.evaluation import evaluate
from pauca.fewshot.intervals import class_interval, mean_interval
from pauca.fewshot.latent import LatentConfig
from pauca.fewshot.model import MCRNet, ModelConfig
from pauca.fewshot.training.config import PROTOCOLS, TrainConfig
from pauca.fewshot.training.trainer import Trainer
from pauca.fewshot.types import EpisodeConfig, Episodes, ImageSet
from pauca.fewshot.views_at_test import AS_IT_IS, ViewsAtTest
from pauca.runs import processor_name

SHOTS = (1, 5)
QUERIES = 75  # of an episode
EPISODE_SEED = 20_200_710  # of the test episodes; any number, but always this one
SECONDS_BEFORE_FIRST_GUESS = 120.0
LONGER = 1.7  # multiply-adds of MCRNet over those of the plain network, at 32 pixels
OTHERS = "± over classes | ± over seeds | each seed |"  # headings
ELSEWHERE = ("beside", "code", "within")  # of the latent space; the controls have none there
VARIANTS = "plain,plain-wide,plain-long,deterministic,released,variational:0.01:0"


def model_config(variant: str, backbone: str) -> ModelConfig:
    """The model of a variant; for other backbones than resnet12, `plain` and `plain-wide` are one."""
    kind, *weights = variant.split("+")[0].split(":")
    learner = "svm" if "+svm" in variant else "ridge"
    if kind.startswith("plain"):
        narrow = backbone == "resnet12" and kind != "plain-wide"
        name = f"{backbone}-plain" if narrow else backbone
        return ModelConfig(name, learner, latent=LatentConfig(mode="none"))
    latent = LatentConfig(mode=kind)  # type: ignore[arg-type] - LatentConfig checks it
    if kind == "variational":
        latent = replace(latent, kl_weight=float(weights[0]), reconstruction_weight=float(weights[1]))
        latent = replace(latent, log_sigma_start=extra(variant, "start", latent.log_sigma_start))
    return ModelConfig(backbone, learner, latent=latent)


def make_model(variant: str, backbone: str) -> MCRNet:
    """The network of a variant, its weights drawn."""
    config = model_config(variant, backbone)
    if "+beside" in variant:
        return Beside(config)
    if "+code" in variant:
        return CodeRead(config, extra(variant, "code", 0.0))
    if "+within" in variant:
        return WithinClass(config, extra(variant, "within", 0.0))
    return MCRNet(config)


def extra(variant: str, name: str, default: float) -> float:
    """The number behind `+name:` in a variant."""
    return float(dict((part + ":1").split(":")[:2] for part in variant.split("+")[1:]).get(name, default))


def train_config(variant: str, seed: int, options: argparse.Namespace) -> TrainConfig:
    """The authors' protocol of the benchmark, with a cosine, and what the variant says."""
    config = PROTOCOLS[options.benchmark].train
    return replace(
        config,
        steps=round(options.steps * (LONGER if variant.startswith("plain-long") else 1)),
        schedule=config.schedule if extra(variant, "phases", 0.0) else "cosine",
        augmentation=replace(config.augmentation, turned_classes=extra(variant, "turned", 0.0)),
        label_smoothing=extra(variant, "smoothing", 0.0),
        seed=seed,
        compile=options.compile,
        episodes_per_step=options.episodes_per_step,
    )


def train(variant: str, seed: int, images: ImageSet, options: argparse.Namespace) -> tuple[MCRNet, dict]:
    """Train one variant; also what it took."""
    torch.compiler.reset()  # each variant is a new graph, and the compiler gives up after eight of one function
    torch.manual_seed(seed)
    model = make_model(variant, options.backbone)
    trainer = Trainer(model, images, train_config(variant, seed, options))
    started = time.monotonic()
    losses = trainer.step()
    losses.total.item()
    compiled = time.monotonic()
    while trainer.steps_done < trainer.total_steps:
        losses = trainer.step()
        if trainer.steps_done % 1000 == 0:
            print(f"  {variant} seed {seed} step {trainer.steps_done} loss {losses.total.item():.3f}", flush=True)
    loss = float(losses.total)
    finished = time.monotonic()
    return model, {
        "compile_s": round(compiled - started, 1),
        "train_s": round(finished - compiled, 1),
        "ms_per_step": round(1000 * (finished - compiled) / max(trainer.total_steps - 1, 1), 2),
        "last_loss": round(loss, 4),
    }


def test(model: MCRNet, images: ImageSet, episodes: dict[int, Episodes], device: torch.device) -> dict:
    """Correct queries of each episode and accuracy by class, for each way of testing and shot."""

    def features(code: str, views: ViewsAtTest = AS_IT_IS) -> torch.Tensor:
        model.config = replace(model.config, latent=replace(model.config.latent, test_code=code))
        return embed_images(model, images, device, bf16=device.type == "cuda", views=views)

    ways = {"image": features("mean"), "mirror": features("mean", ViewsAtTest(mirror=True))}
    if model.config.latent.mode in ("released", "variational"):
        ways["mc:8"] = features("mc:8")
    found: dict[str, dict] = {}
    for way, of_images in ways.items():
        for shot, tasks in episodes.items():
            result = evaluate(model, images, tasks, device, of_images)
            found[f"{way}/{shot}"] = {
                "correct": np.rint(result.episode_accuracy * QUERIES).astype(int).tolist(),
                "by_class": [round(share, 5) for share in result.class_accuracy.tolist()],
            }
    return found


class Tested:
    """The seeds of one variant, tested in one way."""

    def __init__(self) -> None:
        self.accuracy: dict[str, np.ndarray] = {}  # of each episode, by seed
        self.by_class: dict[str, np.ndarray] = {}

    def add(self, seed: str, found: dict) -> None:
        self.accuracy[seed] = np.array(found["correct"]) / QUERIES
        self.by_class[seed] = np.array(found["by_class"])

    def minus(self, other: "Tested") -> "Tested":
        """The differences, for the seeds that both have."""
        both = Tested()
        for seed in self.accuracy.keys() & other.accuracy.keys():
            both.accuracy[seed] = self.accuracy[seed] - other.accuracy[seed]
            both.by_class[seed] = self.by_class[seed] - other.by_class[seed]
        return both

    def cells(self, classes: np.ndarray, signed: bool) -> str:
        """Mean with its intervals over episodes, classes and seeds, and the single seeds, as cells of a table."""
        if not self.accuracy:
            return " | | | "
        episodes = mean_interval(np.mean(list(self.accuracy.values()), 0))
        over_classes = class_interval(
            np.mean(list(self.accuracy.values()), 0), classes, np.mean(list(self.by_class.values()), 0)
        )
        seeds = np.array([self.accuracy[seed].mean() for seed in sorted(self.accuracy)])
        sign = "+" if signed else ""
        over_seeds = f"{100 * mean_interval(seeds).half_width:.2f}" if len(seeds) > 1 else ""
        single = ", ".join(f"{100 * seed:{sign}.2f}" for seed in seeds)
        return (
            f"{100 * episodes.mean:{sign}.2f} ± {100 * episodes.half_width:.2f} | "
            f"{100 * over_classes.half_width:.2f} | {over_seeds} | {single}"
        )


def show(stored: dict, classes: dict[str, np.ndarray]) -> None:
    """Accuracies, then differences to each control, trained with the same extras and tested in the same way (without
    codes to average where the control has none)."""
    tested: dict[tuple[str, str, str], Tested] = {}
    for key, result in sorted(stored["results"].items()):
        variant, seed = key.rsplit("@", 1)
        for place, found in result["found"].items():
            way, shot = place.split("/")
            tested.setdefault((variant, way, shot), Tested()).add(seed, found)
    print(
        "\n| variant | tested with | shot | accuracy %, ± over episodes | ± over classes | ± over seeds | each seed |"
    )
    print("|---|---|---|---|---|---|---|")
    for (variant, way, shot), seeds in tested.items():
        print(f"| {variant} | {way} | {shot} | {seeds.cells(classes[shot], signed=False)} |")
    for control in ("plain", "plain-wide", "plain-long", "deterministic", "deterministic+beside"):
        rows = []
        for (variant, way, shot), seeds in tested.items():
            extras = [part for part in variant.split("+")[1:] if part.split(":")[0] not in ("start", *ELSEWHERE)]
            against = tested.get(("+".join([control, *extras]), "image" if way.startswith("mc") else way, shot))
            if against is not None and against is not seeds and ("+" not in control or "+beside" in variant):
                cells = seeds.minus(against).cells(classes[shot], signed=True)
                rows.append(f"| {variant} | {way} | {shot} | {cells} |")
        if rows:
            print(f"\n| minus {control} | tested with | shot | points, ± over episodes | {OTHERS}")
            print("|---|---|---|---|---|---|---|")
            print("\n".join(rows))


@cache
def data(benchmark: str, images: int | None, count: int) -> tuple[ImageSet, ImageSet, dict[int, Episodes]]:
    """Training images, test images and test episodes, once a process."""
    splits = cifar_benchmarks.load(benchmark, images)
    episodes = {
        shot: sample_episodes(splits["test"], EpisodeConfig(5, shot, 15), count, EPISODE_SEED + shot) for shot in SHOTS
    }
    return splits["train"], splits["test"], episodes


def run_one(variant: str, seed: int, options: argparse.Namespace) -> dict:
    """Train and test one variant, in a process of the pool."""
    torch.set_num_threads(4)
    train_images, test_images, episodes = data(options.benchmark, options.images, options.episodes)
    started = time.monotonic()
    model, cost = train(variant, seed, train_images, options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = test(model, test_images, episodes, device)
    return {**cost, "total_s": round(time.monotonic() - started, 1), "found": found}


def opened(path: Path, settings: dict) -> dict:
    """What the file holds of these settings already."""
    stored = json.loads(path.read_text()) if path.exists() else {"settings": settings, "results": {}}
    if stored["settings"] != settings:
        raise SystemExit(f"{path} holds results of other settings ({stored['settings']}); give another --out")
    processor = torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()
    stored["machine"] = {"device": processor, "torch": torch.__version__, "python": platform.python_version()}
    return stored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("benchmark", choices=cifar_benchmarks.NAMES)
    parser.add_argument("--variants", default=VARIANTS)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--episodes-per-step", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no variant that would not end in this time")
    parser.add_argument("--episodes", type=int, default=10_000, help="of the test")
    parser.add_argument("--backbone", default="resnet12", help="resnet12, conv4, conv4-32 or r2d2")
    parser.add_argument("--images", type=int, help="so many of each class only, to try the benchmark out")
    parser.add_argument("--compile", default="auto")
    parser.add_argument("--processes", type=int, default=1, help="that share the GPU")
    parser.add_argument("--out", type=Path, help="default: fewshot_accuracy-BENCHMARK.json")
    options = parser.parse_args()
    options.out = options.out or Path(f"fewshot_accuracy-{options.benchmark}.json")

    began = time.monotonic()
    names = ("benchmark", "steps", "episodes_per_step", "episodes", "backbone", "images")
    settings = {name: getattr(options, name) for name in names}
    stored = opened(options.out, settings)
    jobs = [(variant, int(seed)) for seed in options.seeds.split(",") for variant in options.variants.split(",")]
    jobs = [job for job in jobs if "{}@{}".format(*job) not in stored["results"]]
    _, _, episodes = data(options.benchmark, options.images, options.episodes)  # prepared once, for all processes

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
    show(stored, {str(shot): tasks.classes.numpy() for shot, tasks in episodes.items()})


if __name__ == "__main__":
    main()
