"""Time of testing a model on 2000 episodes, beside easyfsl, learn2learn and embedding every episode anew.

    python benchmarks/fewshot_evaluation.py [--backbone conv4] [--episodes 2000] [--peer-episodes 40] [--repeats 5]
        [--out FILE.json]

Prototypes, 5-way, 15 queries, 1 and 5 shots, 4800 random images of 40 classes at 32 pixels (as many as Tiny-ImageNet's
test split has), on the CPU. All have the same weights and the same episodes, and their accuracies are compared. The
peers are timed on fewer episodes and their time is scaled. In every repeat each method runs once, one after the other;
times and ratios are medians. fewshot_peers.py says how the peers are run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch

import fewshot_peers as peer_loops
from pauca.fewshot import (
    EpisodeConfig,
    Episodes,
    ImageSet,
    LatentConfig,
    MCRNet,
    ModelConfig,
    evaluate,
    sample_episodes,
)
from pauca.runs import processor_name

Accuracy = Callable[[Episodes], float]


def make_methods(backbone: str, images: ImageSet) -> dict[str, Accuracy]:
    """From the name of a method to the accuracy that it finds on episodes of these images."""
    torch.manual_seed(0)
    model = MCRNet(ModelConfig(backbone, "prototypes", 32, latent=LatentConfig(mode="none"))).eval()
    network = deepcopy(model.backbone)  # evaluate turns its own to channels last
    data = peer_loops.Decoded(model, images)
    methods: dict[str, Accuracy] = {
        "pauca": lambda episodes: evaluate(model, images, episodes).accuracy.mean,
        "every episode anew": lambda episodes: embed_anew(model, images, episodes),
    }
    peers = peer_loops.import_peers()
    if "easyfsl" in peers:
        methods["easyfsl"] = lambda episodes: peer_loops.easyfsl_accuracy(peers["easyfsl"], network, data, episodes)
    if "learn2learn" in peers:
        methods["learn2learn"] = lambda episodes: peer_loops.learn2learn_accuracy(
            peers["learn2learn"], network, data, episodes
        )
    return methods


@torch.no_grad()
def embed_anew(model: MCRNet, images: ImageSet, episodes: Episodes) -> float:
    """Our own network and head, on the images of every episode."""
    correct = 0
    for i in range(len(episodes)):
        task = episodes[i : i + 1]
        support, query = (
            model.embed(images.images[places[0]].contiguous(memory_format=torch.channels_last))[None]
            for places in (task.support, task.query)
        )
        answers = model.classify(support, task.support_labels, query, task.way).argmax(-1)
        correct += int((answers == task.query_labels).sum())
    return correct / episodes.query.numel()


def measure(methods: dict[str, Accuracy], episodes: Episodes, few: Episodes, repeats: int) -> dict[str, list[float]]:
    """Seconds for all episodes in each repeat, by method; `pauca` gets all of them, the others a few."""
    expected = methods["pauca"](few)
    for name, accuracy in methods.items():  # warms up, too
        found = accuracy(few)
        if abs(found - expected) > 1e-3:  # a query in the balance may fall otherwise
            raise SystemExit(f"{name} is right in {found:.4f} of the queries and pauca in {expected:.4f}")
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, accuracy in methods.items():
            tasks = episodes if name == "pauca" else few
            started = time.perf_counter()
            accuracy(tasks)
            seconds[name].append((time.perf_counter() - started) * len(episodes) / len(tasks))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", default="conv4")
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--peer-episodes", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    pixels = torch.randint(0, 256, (4800, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ImageSet(pixels, torch.arange(40).repeat_interleave(120), tuple(map(str, range(40))))
    methods = make_methods(options.backbone, images)
    print(f"{processor_name()}, torch {torch.__version__}, {torch.get_num_threads()} threads, {options.backbone}\n")
    print(f"| shot | method | s for {options.episodes} episodes | episodes/s | times pauca |")
    print("|---|---|---|---|---|")
    rows = []
    for shot in (1, 5):
        episodes = sample_episodes(images, EpisodeConfig(5, shot, 15), options.episodes, shot)
        seconds = measure(methods, episodes, episodes[: options.peer_episodes], options.repeats)
        for name, times in seconds.items():
            typical = statistics.median(times)
            ratio = statistics.median(t / own for t, own in zip(times, seconds["pauca"], strict=True))
            rows.append({"shot": shot, "method": name, "seconds": typical, "ratio": ratio})
            rate = options.episodes / typical
            print(f"| {shot} | {name} | {typical:.1f} | {rate:,.0f} | {ratio:.1f} |", flush=True)
    if options.out:
        machine = {"processor": processor_name(), "torch": torch.__version__, "threads": torch.get_num_threads()}
        options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
