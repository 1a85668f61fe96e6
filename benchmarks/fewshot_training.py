"""Episodes of training a second on the CPU, beside easyfsl and learn2learn.

    python benchmarks/fewshot_training.py [--backbones conv4,resnet12-plain] [--episodes 16] [--repeats 5]
        [--out FILE.json]

5-way, 5 shots, 6 queries, random images at 32 pixels, one step of SGD an episode, the same network and the same base
learner. Ours crops, flips and jitters the images, as its training does; the peers get images that are ready. In every
repeat each method trains on so many episodes, one method after the other; rates and ratios are medians.
fewshot_peers.py says how the peers are run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
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
    TrainConfig,
    Trainer,
    sample_episodes,
)
from pauca.runs import processor_name

TASK = EpisodeConfig(way=5, shot=5, query=6)


def pauca_training(model: MCRNet, images: ImageSet) -> Iterator[float]:
    """Steps of training, each on one episode, without end; gives the loss."""
    trainer = Trainer(model, images, TrainConfig(episodes_per_step=1, episode=TASK, device="cpu"))
    while True:
        yield float(trainer.step().total)


def make_methods(backbone: str, base_learner: str, images: ImageSet, episodes: Episodes) -> dict[str, Iterator[float]]:
    """From the name of a method to its steps of training."""
    torch.manual_seed(0)
    model = MCRNet(ModelConfig(backbone, base_learner, 32, latent=LatentConfig(mode="none")))
    data = peer_loops.Decoded(model, images)
    peers = peer_loops.import_peers()
    methods = {}
    if "easyfsl" in peers and base_learner == "prototypes":  # it has no SVM
        network = deepcopy(model.backbone)
        methods["easyfsl"] = peer_loops.easyfsl_training(peers["easyfsl"], network, data, episodes)
    if "learn2learn" in peers:
        heads = peers["learn2learn"].nn
        head = heads.PrototypicalClassifier() if base_learner == "prototypes" else heads.SVClassifier()
        network = deepcopy(model.backbone)
        methods["learn2learn"] = peer_loops.learn2learn_training(peers["learn2learn"], head, network, data, episodes)
    return {"pauca": pauca_training(model, images), **methods}


def measure(methods: dict[str, Iterator[float]], episodes: int, repeats: int) -> dict[str, list[float]]:
    """Seconds an episode in each repeat, by method."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for repeat in range(repeats + 1):
        for name, steps in methods.items():
            started = time.perf_counter()
            for _ in range(episodes):
                next(steps)
            if repeat:  # the first one warms up
                seconds[name].append((time.perf_counter() - started) / episodes)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbones", default="conv4,resnet12-plain")
    parser.add_argument("--episodes", type=int, default=16, help="in one timing")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    pixels = torch.randint(0, 256, (2560, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ImageSet(pixels, torch.arange(64).repeat_interleave(40), tuple(map(str, range(64))))
    episodes = sample_episodes(images, TASK, options.episodes * (options.repeats + 1), 0)
    print(f"{processor_name()}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| network | base learner | method | ms an episode | episodes/s | times pauca |")
    print("|---|---|---|---|---|---|")
    rows = []
    for backbone in options.backbones.split(","):
        for base_learner in ("prototypes", "svm"):
            seconds = measure(make_methods(backbone, base_learner, images, episodes), options.episodes, options.repeats)
            for name, times in seconds.items():
                typical = statistics.median(times)
                ratio = statistics.median(t / own for t, own in zip(times, seconds["pauca"], strict=True))
                case = {"backbone": backbone, "base_learner": base_learner, "method": name}
                rows.append({**case, "seconds": typical, "ratio": ratio})
                print(
                    f"| {' | '.join(case.values())} | {1000 * typical:.0f} | {1 / typical:.1f} | {ratio:.2f} |",
                    flush=True,
                )
    if options.out:
        machine = {"processor": processor_name(), "torch": torch.__version__, "threads": torch.get_num_threads()}
        options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
