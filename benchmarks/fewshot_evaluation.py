"""Time of testing a model on 2000 episodes, beside easyfsl's and beside embedding every episode anew.

    python benchmarks/fewshot_evaluation.py [--episodes 2000] [--peer-episodes 50] [--backbone conv4] [--out FILE.json]

Prototypes, 5-way, 15 queries, 1 and 5 shots, 4800 random images of 40 classes at 32 pixels (as many as Tiny-ImageNet's
test split has). All use the same network object on the same episodes, and episodes that they answer differently are
counted; the peers are timed on fewer episodes and their time is scaled. easyfsl 1.5 needs torchvision; where it cannot
be imported, its rows are left out.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

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

try:
    from easyfsl.methods import PrototypicalNetworks  # type: ignore[import-not-found]
except ImportError:
    PrototypicalNetworks = None

Answer = Callable[[MCRNet, ImageSet, Episodes], Tensor]  # correct queries of each episode


def pauca(model: MCRNet, images: ImageSet, episodes: Episodes) -> Tensor:
    accuracy = evaluate(model, images, episodes, images.images.device).episode_accuracy
    return torch.from_numpy(accuracy * episodes.query.shape[1]).round().long()


@torch.no_grad()
def anew(model: MCRNet, images: ImageSet, episodes: Episodes) -> Tensor:
    """Embed the images of every episode, as most code does."""
    correct = []
    for i in range(len(episodes)):
        task = episodes[i : i + 1]
        support, query = (model.embed(images.images[places[0]])[None] for places in (task.support, task.query))
        answers = model.classify(support, task.support_labels, query, task.way).argmax(-1)
        correct.append((answers == task.query_labels).sum())
    return torch.stack(correct).cpu()


@torch.no_grad()
def easyfsl(model: MCRNet, images: ImageSet, episodes: Episodes) -> Tensor:
    classifier = PrototypicalNetworks(model.backbone).eval()
    correct = []
    for i in range(len(episodes)):
        support, query = (model.normalise(images.images[places[i]]) for places in (episodes.support, episodes.query))
        classifier.process_support_set(support, episodes.support_labels[i])
        correct.append((classifier(query).argmax(-1) == episodes.query_labels[i]).sum())
    return torch.stack(correct).cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--peer-episodes", type=int, default=50)
    parser.add_argument("--backbone", default="conv4")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (4800, 3, 32, 32), dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(40).repeat_interleave(120), tuple(map(str, range(40)))).to(device)
    config = ModelConfig(options.backbone, "prototypes", 32, latent=LatentConfig(mode="none"))
    model = MCRNet(config).to(device, memory_format=torch.channels_last).eval()
    evaluate(model, images, sample_episodes(images, EpisodeConfig(5, 1, 15), 2, 0), device)  # warm up
    processor = torch.cuda.get_device_name() if device.type == "cuda" else processor_name()
    print(f"{processor}, torch {torch.__version__}, {torch.get_num_threads()} threads, {options.backbone}\n")
    print(f"| shot | method | s for {options.episodes} episodes | episodes/s | times pauca |")
    print("|---|---|---|---|---|")
    rows = []
    for shot in (1, 5):
        episodes = sample_episodes(images, EpisodeConfig(5, shot, 15), options.episodes, shot).to(device)
        few = episodes[: options.peer_episodes]
        methods: list[tuple[str, Answer, Episodes]] = [("pauca", pauca, episodes), ("every episode anew", anew, few)]
        if PrototypicalNetworks is not None:
            methods.append(("easyfsl", easyfsl, few))
        expected, fastest = None, 0.0
        for name, answer, tasks in methods:
            started = time.perf_counter()
            correct = answer(model, images, tasks)
            seconds = (time.perf_counter() - started) * options.episodes / len(tasks)
            if expected is None:
                expected, fastest = correct, seconds
            agree = int((correct == expected[: len(correct)]).sum())
            if agree < len(correct):
                print(f"{name} answers {len(correct) - agree} of {len(correct)} episodes otherwise")
            rows.append({"shot": shot, "method": name, "seconds": seconds, "ratio": seconds / fastest})
            rate = options.episodes / seconds
            print(f"| {shot} | {name} | {seconds:.1f} | {rate:,.0f} | {seconds / fastest:.1f} |", flush=True)
    if options.out:
        machine = {"processor": processor, "torch": torch.__version__, "threads": torch.get_num_threads()}
        options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
