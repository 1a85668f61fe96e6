"""How accurate can one ResNet-12 be? The recipe `strong` on CIFAR-FS or FC100.

    python benchmarks/fewshot_strong.py cifar-fs|fc100 [--seed 0] [--steps 20000] [--runs runs/fewshot]

Trains (`pauca fewshot train --recipe strong` does the same), or goes on where it was stopped, and tests both
generations on 10,000 fixed episodes, 5-way, 15 queries, 1 and 5 shots: with the features of the image, with the mean
over the image and its mirror image, with those of four turns side by side, and with seven parts of every view; with
features about none, half and all of the base classes' mean, and whitened not at all, by half and wholly; with each base
learner that is worth it; with the 95 % interval over episodes and, in brackets, over classes. The same on 2,000
episodes of the validation classes, by which a way of testing is to be chosen; `--ways` and `--splits` test less. Writes
strong.json, with the correct queries of every episode, to the run folder. `--test MODEL` tests a trained model, and
trains nothing; where its file is from before features were whitened, that is learned from `--base-images` of each base
class; `--out FILE` keeps what it finds. `--show FILES` prints the tables of such files, and of several seeds together.
`--speed N` times N steps of both generations on noise instead, and needs no data.
"""

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import cifar_benchmarks
from pauca.fewshot.base_learners import make_base_learner
from pauca.fewshot.embedding import embed_images
from pauca.fewshot.episodes import sample_episodes
from pauca.fewshot.evaluation import evaluate
from pauca.fewshot.intervals import mean_interval
from pauca.fewshot.model import MCRNet, ModelConfig
from pauca.fewshot.training.config import TrainConfig
from pauca.fewshot.training.loop import last_state
from pauca.fewshot.training.strong import STRONG, StrongConfig
from pauca.fewshot.training.strong_trainer import StrongTrainer, train_strong
from pauca.fewshot.types import EpisodeConfig, ImageSet
from pauca.fewshot.views_at_test import ViewsAtTest
from pauca.runs import Run, processor_name

SHOTS = (1, 5)
QUERIES = 75  # of an episode
EPISODE_SEED = 20_200_710  # of the test episodes; any number, but always this one
SIZES = {"cifar-fs": (38_386, 64), "fc100": (35_997, 60)}  # images, classes
WAYS = {
    "image": ViewsAtTest(),
    "mirror": ViewsAtTest(mirror=True),
    "turns": ViewsAtTest(mirror=True, turns=True),
    "turns and parts": ViewsAtTest(mirror=True, turns=True, crops=True),
}
# Of the ways that are tested, the first of these is tried with each head and each share of the mean.
MAIN = ("turns", "mirror", "image")
# How features are settled, by what it adds to the name of a way: as the recipe does, and with one setting changed.
SETTLINGS: dict[str, dict[str, float]] = {
    "": {},
    "-centered": {"center_features": 1.0},
    "-uncentered": {"center_features": 0.0},
    "-whitened": {"whiten_features": 1.0},
    "-unwhitened": {"whiten_features": 0.0},
}
HEADS = {
    "cosine": lambda: make_base_learner("cosine"),
    "logistic:0.1": lambda: make_base_learner("logistic", penalty=0.1),
    "ridge:1": lambda: make_base_learner("ridge", penalty=1.0),
}


def speed(options: argparse.Namespace) -> None:
    """Images (views) a second of both generations, and what memory they take."""
    images, classes = SIZES[options.benchmark]
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8)
    noise = ImageSet(pixels, torch.arange(images) % classes, tuple(map(str, range(classes))))
    strong, config = settings(options)
    trainer = StrongTrainer(MCRNet(model_config(options)), noise, replace(config, steps=options.speed), strong)
    on_gpu = torch.cuda.is_available()
    for generation in (1, 2):
        started = time.monotonic()
        trainer.step().total.item()
        compiled = time.monotonic()
        while trainer.steps_done < generation * options.speed:
            losses = trainer.step()
        total = losses.total.item()
        seconds = time.monotonic() - compiled
        rate = (options.speed - 1) * strong.images_per_step * strong.views / seconds
        memory = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else float("nan")
        print(
            f"{options.benchmark} generation {generation}: {rate:,.0f} views/s, "
            f"{1000 * seconds / (options.speed - 1):.2f} ms a step, "
            f"first step {compiled - started:.1f} s, {memory:.1f} GiB, loss {total:.3f}",
            flush=True,
        )


@dataclass(frozen=True)
class Settings:
    """What decides a run."""

    model: ModelConfig
    train: TrainConfig
    strong: StrongConfig


def settings(options: argparse.Namespace) -> tuple[StrongConfig, TrainConfig]:
    strong = StrongConfig(**json.loads(options.strong))
    changes = json.loads(options.training)
    config = replace(STRONG.train, seed=options.seed, **changes)
    if options.steps:
        config = replace(config, steps=options.steps, validate_every=max(1, options.steps // 2))
    return strong, config


def model_config(options: argparse.Namespace) -> ModelConfig:
    return replace(STRONG.model, backbone=options.backbone)


def test(
    model: MCRNet,
    splits: dict[str, ImageSet],
    options: argparse.Namespace,
    device: torch.device,
    ways: Sequence[str],
    settlings: dict[str, dict[str, float]],
) -> dict:
    """Correct queries of each episode by split, way of testing, centering, head and shot."""
    found: dict[str, dict] = {}
    counts = {split: min(2000, options.episodes) if split == "val" else options.episodes for split in options.splits}
    main = next(way for way in MAIN if way in ways)
    for split, episodes in counts.items():
        images = splits[split]
        drawn = {
            shot: sample_episodes(images, EpisodeConfig(5, shot, 15), episodes, EPISODE_SEED + shot) for shot in SHOTS
        }
        for way, views in ((way, WAYS[way]) for way in ways):
            # Parts are settled apart from the whole image before both are averaged, so they are seen once each time.
            some = settlings if way == main else {n: SETTLINGS[n] for n in ("", "-unwhitened")[: 1 + views.crops]}
            for settling, features in features_of(model, images, device, views, some, options.bf16).items():
                for name, make in HEADS.items():
                    if name != "cosine" and way not in (main, "turns and parts"):
                        continue
                    model.base_learner = make().to(device)
                    for shot, tasks in drawn.items():
                        result = evaluate(model, images, tasks, device, features)
                        key = f"{split}/{way}{settling}/{name}/{shot}"
                        found[key] = {
                            "correct": np.rint(result.episode_accuracy * QUERIES).astype(int).tolist(),
                            "over_classes": result.accuracy_over_classes.half_width,
                        }
    return found


def features_of(
    model: MCRNet,
    images: ImageSet,
    device: torch.device,
    views: ViewsAtTest,
    settlings: dict[str, dict[str, float]],
    bf16: bool,
) -> dict[str, torch.Tensor]:
    """Features of images, settled in several manners; each view is seen once where views are whole images."""
    recipe = model.config
    found = {}
    raw = None
    if not views.crops and len(settlings) > 1:
        model.config = replace(recipe, center_features=0.0, whiten_features=0.0)
        raw = embed_images(model, images, device, bf16=bf16, views=views).chunk(len(views.by_turn()), dim=1)
    for name, changes in settlings.items():
        model.config = replace(recipe, **changes)  # type: ignore[arg-type]
        if raw is None:
            found[name] = embed_images(model, images, device, bf16=bf16, views=views)
            continue
        turns = [model.settle(turn, kind) for turn, (kind,) in zip(raw, views.by_turn(), strict=True)]
        found[name] = torch.nn.functional.normalize(torch.cat(turns, 1), dim=1)
    model.config = recipe
    return found


def first_generation(run: Run, options: argparse.Namespace) -> MCRNet:
    """The teacher of the last generation, which its checkpoint carries."""
    tensors = last_state(run)
    prefix = "teacher.model."
    model = MCRNet(model_config(options))
    model.load_state_dict({name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)})
    return model.eval()


def cell(found: dict) -> str:
    """Accuracy with its 95 % interval over episodes and, in brackets, over classes."""
    interval = mean_interval(np.array(found["correct"]) / QUERIES)
    return f"{interval} ({100 * found['over_classes']:.1f})"


def show(results: dict[str, dict[str, dict]]) -> None:
    """A row for each generation and way of testing."""
    splits = list(dict.fromkeys(key.split("/")[0] for found in results.values() for key in found))
    names = [f"{split} {shot}-shot" for split in splits for shot in SHOTS]
    print(f"\n| generation | tested with | head | {' | '.join(names)} |")
    print("|---" * (3 + len(names)) + "|")
    for generation, found in results.items():
        for way, head in dict.fromkeys(tuple(key.split("/")[1:3]) for key in found):
            cells = [cell(found[f"{split}/{way}/{head}/{shot}"]) for split in splits for shot in SHOTS]
            print(f"| {generation} | {way} | {head} | {' | '.join(cells)} |")


def show_parts(results: dict[str, dict[str, dict]]) -> None:
    """What each part is worth on the test classes: differences paired by episode, with the interval over episodes."""

    def row(name: str, more: tuple[str, str], less: tuple[str, str]) -> None:
        if any(f"test/{way}/1" not in results[generation] for generation, way in (more, less)):
            return
        pairs = [
            [
                np.array(results[generation][f"test/{way}/{shot}"]["correct"]) / QUERIES
                for generation, way in (more, less)
            ]
            for shot in SHOTS
        ]
        cells = [mean_interval(with_it - without) for with_it, without in pairs]
        print(f"| {name} | " + " | ".join(f"{100 * c.mean:+.2f} ± {100 * c.half_width:.2f}" for c in cells) + " |")

    last = next(iter(results))
    main = next(way for way in MAIN if f"test/{way}/cosine/1" in results[last])
    print("\n| part | 1-shot, points | 5-shot, points |\n|---|---|---|")
    if "first" in results:
        row("second generation, taught by the first", ("last", "turns/cosine"), ("first", "turns/cosine"))
    row("mean with the mirror image", (last, "mirror/cosine"), (last, "image/cosine"))
    row("four turns side by side, beside the mirror", (last, "turns/cosine"), (last, "mirror/cosine"))
    row("mean with seven parts, beside mirror and turns", (last, "turns and parts/cosine"), (last, "turns/cosine"))
    row(
        "half of the base classes' mean subtracted, not none",
        (last, f"{main}/cosine"),
        (last, f"{main}-uncentered/cosine"),
    )
    row("half of it subtracted, not all", (last, f"{main}/cosine"), (last, f"{main}-centered/cosine"))
    row("logistic regression (0.1) in place of the cosine", (last, f"{main}/logistic:0.1"), (last, f"{main}/cosine"))
    row(
        "the same with logistic regression: half, not none",
        *((last, f"{main}{c}/logistic:0.1") for c in ("", "-uncentered")),
    )
    row(
        "the same with logistic regression: half, not all",
        *((last, f"{main}{c}/logistic:0.1") for c in ("", "-centered")),
    )
    row("half of the features whitened, not none", (last, f"{main}/cosine"), (last, f"{main}-unwhitened/cosine"))
    row("half of them whitened, not all", (last, f"{main}/cosine"), (last, f"{main}-whitened/cosine"))
    for head in ("logistic:0.1", "ridge:1"):
        row(
            f"the same with {head.split(':')[0]}: half, not none",
            *((last, f"{main}{w}/{head}") for w in ("", "-unwhitened")),
        )
        row(
            f"the same with {head.split(':')[0]}: half, not all",
            *((last, f"{main}{w}/{head}") for w in ("", "-whitened")),
        )
    row("ridge (1) in place of the cosine", (last, f"{main}/ridge:1"), (last, f"{main}/cosine"))


def show_seeds(results: list[dict[str, dict]]) -> None:
    """Means over seeds on the test classes, ± 95 % over seeds, and the single seeds."""
    print("\n| tested with | head | shot | accuracy %, ± over seeds | each seed |\n|---|---|---|---|---|")
    tested = [key for key in results[0] if key.startswith("test") and all(key in found for found in results)]
    for way, head, shot in (key.split("/")[1:] for key in tested):
        each = np.array([np.mean(found[f"test/{way}/{head}/{shot}"]["correct"]) / QUERIES for found in results])
        single = ", ".join(f"{100 * accuracy:.2f}" for accuracy in each)
        print(f"| {way} | {head} | {shot} | {mean_interval(each)} | {single} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("benchmark", choices=cifar_benchmarks.NAMES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of each generation; default: the recipe's")
    parser.add_argument("--strong", default="{}", help="settings of StrongConfig that differ, as JSON")
    parser.add_argument("--training", default="{}", help="settings of TrainConfig that differ, as JSON")
    parser.add_argument("--backbone", default=STRONG.model.backbone)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--images", type=int, help="so many of each class only, to try the benchmark out")
    parser.add_argument("--runs", type=Path, default=Path("runs/fewshot"), help="folder of the run's folder")
    parser.add_argument("--speed", type=int, default=0, help="time so many steps of two generations on noise")
    parser.add_argument("--test", type=Path, help="test this model's file, and train nothing")
    parser.add_argument("--base-images", type=int, help="of each base class, to whiten by; default: 100, on a CPU 10")
    parser.add_argument("--splits", nargs="+", choices=("val", "test"), default=("val", "test"), help="to test it on")
    parser.add_argument("--bf16", action="store_true", help="test with features taken in BF16: faster on a CPU")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="of testing it")
    parser.add_argument("--out", type=Path, help="keep what --test finds in this file, for --show")
    parser.add_argument("--show", type=Path, nargs="+", help="print the tables of these strong.json, and train nothing")
    options = parser.parse_args()
    if options.show:
        stored = [json.loads(path.read_text()) for path in options.show]
        for written in stored:
            print(f"\n{written['benchmark']}, seed {written['seed']}, {written['train_s']} s, {written['machine']}")
            show(written["correct"])
            show_parts(written["correct"])
        if len(stored) > 1:
            show_seeds([written["correct"]["last"] for written in stored])
        return
    (speed if options.speed else test_only if options.test else measure)(options)


def test_only(options: argparse.Namespace) -> None:
    """Test a trained model."""
    splits = cifar_benchmarks.load(options.benchmark, options.images)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = MCRNet.load(options.test).to(device).eval()
    if not model.config.whiten_features:
        of_class = options.base_images or (100 if device.type == "cuda" else 10)
        model = whitening(model, cifar_benchmarks.thinned(splits["train"], of_class), device)
    results = {"last": test(model, splits, options, device, options.ways, SETTLINGS)}
    if options.out:
        options.out.write_text(json.dumps(summary(options, results, None)))
    tables(results, options)


def summary(options: argparse.Namespace, results: dict, seconds: float | None) -> dict:
    """What strong.json holds: what was found, and how; training took so many seconds, if there was any."""
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()
    return {
        "benchmark": options.benchmark,
        "seed": options.seed,
        "steps": settings(options)[1].steps,
        "strong": json.loads(options.strong),
        "train_s": seconds and round(seconds, 1),
        "machine": {"device": machine, "torch": torch.__version__, "python": platform.python_version()},
        "correct": results,
    }


def tables(results: dict, options: argparse.Namespace) -> None:
    """All of them; what a part is worth is said of the test classes."""
    show(results)
    if "test" in options.splits:
        show_parts(results)


def whitening(model: MCRNet, base: ImageSet, device: torch.device) -> MCRNet:
    """The same model as the recipe makes it now, whose features are whitened by what varies within base classes."""
    config = replace(model.config, whiten_features=STRONG.model.whiten_features)
    other = MCRNet(config, backbone=model.backbone).to(device)
    other.load_state_dict(model.state_dict(), strict=False)
    other.trained_on = model.trained_on
    with torch.autocast(device.type, torch.bfloat16):
        other.learn_center(base.images.to(device), 512 if device.type == "cuda" else 8, base.labels.to(device))
    return other.eval()


def measure(options: argparse.Namespace) -> None:
    """Train, or go on, and test."""
    torch.set_num_threads(4)
    started = time.monotonic()
    splits = cifar_benchmarks.load(options.benchmark, options.images)
    strong, config = settings(options)
    folder = options.runs / f"strong-{options.benchmark}-{options.seed}"
    resume = (folder / "config.yaml").exists()
    run = Run.create(folder, Settings(model_config(options), config, strong), resume=resume)
    torch.manual_seed(options.seed)
    model = MCRNet(model_config(options))
    trained = train_strong(model, config, strong, splits["train"], splits["val"], run, resume, quiet=False)
    seconds = time.monotonic() - started
    print(f"best step {trained.best_step}, validation {trained.validation and trained.validation.accuracy}", flush=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = {"last": test(trained.model, splits, options, device, options.ways, SETTLINGS)}
    written = folder / "strong.json"
    written.write_text(json.dumps(summary(options, results, seconds)))
    if strong.generations > 1 and "turns" in options.ways:
        as_the_recipe = {"": SETTLINGS[""]}
        results["first"] = test(first_generation(run, options), splits, options, device, ("turns",), as_the_recipe)
        written.write_text(json.dumps(summary(options, results, seconds)))
    tables(results, options)


if __name__ == "__main__":
    main()
