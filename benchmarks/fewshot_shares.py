"""What is each part of the recipe `strong` worth? Its first generation without one at a time, on the same episodes.

    python benchmarks/fewshot_shares.py cifar-fs|fc100 [--seeds 0,1] [--steps 8000] [--processes 2] [--runs FOLDER]
    python benchmarks/fewshot_shares.py cifar-fs|fc100 --show [--runs FOLDER]

Each is a run of `fewshot_strong.py` with `--strong`, of one generation, with ResNet-12 that does not enlarge its images
(`resnet12-pooled`, a quarter of the operations): the parts that act while training. Tested on 10,000 test episodes with
the mean over image and mirror image, by cosine and by logistic regression. Differences are paired by episode, averaged
over seeds first, ± 95 % over episodes; those of each seed stand beside. Finished runs are kept, and skipped when the
benchmark is called again.
"""

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import cifar_benchmarks
from pauca.fewshot.intervals import mean_interval

SHOTS = (1, 5)
QUERIES = 75  # of an episode
HEADS = ("cosine", "logistic:0.1")
WHOLE = "whole"
ARMS: dict[str, dict[str, float]] = {
    WHOLE: {},
    "without telling views apart": {"view_weight": 0},
    "without the contrast": {"contrast_weight": 0},
    "without both": {"view_weight": 0, "contrast_weight": 0},
    "weights of the last step, not their running mean": {"average": 0},
}


def folder(arm: str, options: argparse.Namespace) -> Path:
    return options.runs / arm.replace(",", "").replace(" ", "-")


def result(arm: str, seed: int, options: argparse.Namespace) -> Path:
    return folder(arm, options) / f"strong-{options.benchmark}-{seed}" / "strong.json"


def run_one(arm: str, seed: int, options: argparse.Namespace) -> None:
    """Train and test one, in a process of its own; what it prints goes to a file beside its run."""
    runs = folder(arm, options)
    runs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(Path(__file__).with_name("fewshot_strong.py")), options.benchmark]
    command += ["--seed", str(seed), "--steps", str(options.steps), "--backbone", options.backbone]
    command += ["--strong", json.dumps({"generations": 1, **ARMS[arm]}), "--runs", str(runs)]
    command += ["--ways", "mirror", "image", "--splits", "test", "--episodes", str(options.episodes)]
    command += ["--images", str(options.images)] if options.images else []
    started = time.monotonic()
    with (runs / f"{options.benchmark}-{seed}.log").open("w") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    outcome = "done" if code == 0 else f"failed, see {log.name}"
    print(f"{arm}, seed {seed}: {outcome}, {time.monotonic() - started:.0f} s", flush=True)


def show(options: argparse.Namespace, seeds: list[int]) -> None:
    """The accuracy of the whole, then what each one has less or more."""
    found: dict[str, dict[int, dict]] = {}
    for arm in ARMS:
        for seed in seeds:
            if (path := result(arm, seed, options)).exists():
                stored = json.loads(path.read_text())
                found.setdefault(arm, {})[seed] = stored
    if WHOLE not in found:
        raise SystemExit(f"{options.runs} has no run of the {WHOLE}; run the benchmark first")
    stored = next(iter(found[WHOLE].values()))
    print(f"\n{options.benchmark}, {stored['steps']} steps, {stored['machine']}")
    print("\n| run | head | shot | accuracy %, or points to the whole | each seed |\n|---|---|---|---|---|")
    for arm, runs in found.items():
        for head in HEADS:
            for shot in SHOTS:
                both = [seed for seed in runs if seed in found[WHOLE]]
                each = np.array([accuracy(runs[seed], head, shot) for seed in both])
                if arm != WHOLE:
                    each = each - [accuracy(found[WHOLE][seed], head, shot) for seed in both]
                sign = "+" if arm != WHOLE else ""
                over = mean_interval(each.mean(0))
                single = ", ".join(f"{100 * mean:{sign}.2f}" for mean in each.mean(1))
                cell = f"{100 * over.mean:{sign}.2f} ± {100 * over.half_width:.2f}"
                print(f"| {arm} | {head} | {shot} | {cell} | {single} |")


def accuracy(stored: dict, head: str, shot: int) -> np.ndarray:
    """Of each episode."""
    return np.array(stored["correct"]["last"][f"test/mirror/{head}/{shot}"]["correct"]) / QUERIES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("benchmark", choices=cifar_benchmarks.NAMES)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--backbone", default="resnet12-pooled")
    parser.add_argument("--episodes", type=int, default=10_000, help="of the test")
    parser.add_argument("--images", type=int, help="so many of each class only, to try the benchmark out")
    parser.add_argument("--processes", type=int, default=1, help="that share the GPU")
    parser.add_argument("--runs", type=Path, default=Path("fewshot_shares"), help="folder of the runs")
    parser.add_argument("--show", action="store_true", help="show the runs that there are, and train nothing")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    if not options.show:
        cifar_benchmarks.load(options.benchmark, options.images)  # prepared once, for all processes
        with ThreadPoolExecutor(options.processes) as pool:
            for seed in seeds:
                for arm in ARMS:
                    if not result(arm, seed, options).exists():
                        pool.submit(run_one, arm, seed, options)
    show(options, seeds)


if __name__ == "__main__":
    main()
