"""How much of the features should be whitened? A model of the recipe `strong` on validation classes.

    python benchmarks/fewshot_whitening.py cifar-fs|fc100 MODEL [--images 300] [--base-images 90] [--episodes 1000]

Features of four turns, each the mean over image and mirror image, about half of the base classes' mean; beside them the
same, whitened by what varies within the base classes. Prints the accuracy by the share of the whitened ones, and what
it gains over none, paired by episode, with 95 % intervals over episodes. Test classes are not looked at.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

import cifar_benchmarks
from fewshot_strong import EPISODE_SEED, HEADS, SHOTS, WAYS
from pauca.fewshot.embedding import embed_images
from pauca.fewshot.episodes import sample_episodes
from pauca.fewshot.evaluation import evaluate
from pauca.fewshot.intervals import mean_interval
from pauca.fewshot.model import MCRNet
from pauca.fewshot.types import EpisodeConfig, ImageSet
from pauca.fewshot.views_at_test import KINDS
from pauca.fewshot.whitening import whitening_matrix
from pauca.fewshot.windows import TURNS


def raw_turns(model: MCRNet, images: ImageSet) -> torch.Tensor:
    """What the network makes of each turn: [n, turns, d]."""
    model.config = replace(model.config, center_features=0.0, whiten_features=0.0)
    return embed_images(model, images, model.mean.device, bf16=True, views=WAYS["turns"]).unflatten(1, (TURNS, -1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("benchmark", choices=cifar_benchmarks.NAMES)
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=int, default=300, help="of each validation class")
    parser.add_argument("--base-images", type=int, default=90, help="of each base class, to whiten by")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--shares", type=float, nargs="+", default=(0.3, 0.5, 0.7, 1.0))
    parser.add_argument("--heads", choices=HEADS, nargs="+", default=list(HEADS))
    options = parser.parse_args()
    splits = cifar_benchmarks.load(options.benchmark)
    validation = cifar_benchmarks.thinned(splits["val"], options.images)
    base = cifar_benchmarks.thinned(splits["train"], options.base_images)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = MCRNet.load(options.model).to(device).eval()
    of_base, of_validation = (raw_turns(model, images) for images in (base, validation))
    show(model, validation, of_validation, of_base, base.labels, options)


@torch.no_grad()
def show(
    model: MCRNet,
    images: ImageSet,
    raw: torch.Tensor,
    of_base: torch.Tensor,
    base_labels: torch.Tensor,
    options: argparse.Namespace,
) -> None:
    """A row for each share and base learner."""
    model.config = replace(model.config, center_features=0.5, whiten_features=0.0)
    settled = torch.stack([model.settle(of_base[:, turn], KINDS[turn]) for turn in range(TURNS)])
    model.whitening = whitening_matrix(settled, base_labels.to(raw.device))
    tasks = {
        shot: sample_episodes(images, EpisodeConfig(5, shot, 15), options.episodes, EPISODE_SEED + shot)
        for shot in SHOTS
    }
    before: dict[tuple[str, int], np.ndarray] = {}
    print("| share | base learner | 1-shot | points gained | 5-shot | points gained |\n|---|---|---|---|---|---|")
    for share in (0.0, *options.shares):
        model.config = replace(model.config, whiten_features=share)
        turns = [model.settle(raw[:, turn], KINDS[turn]) for turn in range(TURNS)]
        features = normalize(torch.cat(turns, 1), dim=1)
        for head in options.heads:
            model.base_learner = HEADS[head]().to(raw.device)
            cells = []
            for shot in SHOTS:
                found = evaluate(model, images, tasks[shot], raw.device, features).episode_accuracy
                gain = mean_interval(found - before.setdefault((head, shot), found))
                cells += [str(mean_interval(found)), f"{100 * gain.mean:+.2f} ± {100 * gain.half_width:.2f}"]
            print(f"| {share:g} | {head} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
