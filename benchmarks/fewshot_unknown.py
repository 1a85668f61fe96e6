"""Unknown images: which score tells them apart, and how many known images are lost, beside how many were to be.

    PAUCA_DATA=data python benchmarks/fewshot_unknown.py

Tasks of 2, 5 and 10 classes with 2 to 10 examples each; strangers are images of five other classes. AUROC is the
chance that a stranger scores higher. Lost are known images that are called unknown by a threshold for 5, 10 and 20 %;
"kept" is the share of tasks that lose no more than 20 % with `confidence=0.9`. 40 images of each class are asked for
(fewer of Omniglot).
"""

import argparse
from collections import defaultdict

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import fewshot_features
from pauca.fewshot.answers.threshold import conformal_threshold, examples_needed
from pauca.fewshot.answers.unknown import ClassMeans
from pauca.fewshot.pretrained import Features

SHARES = (0.05, 0.1, 0.2)
STRANGERS = 5


@torch.no_grad()
def one_task(features: torch.Tensor, way: int, shots: int, generator: torch.Generator) -> dict[str, float]:
    """AUROC of the scores and shares of known images that are lost."""
    support, further = fewshot_features.draw(features, way + STRANGERS, shots, generator)
    examples, known = support[:way].flatten(0, 1).double(), further[:way, :40].flatten(0, 1).double()
    strangers = further[way:, :40].flatten(0, 1).double()
    targets = torch.arange(way).repeat_interleave(shots)
    means = ClassMeans.of(examples, targets, way)
    logits = Features().fitted(examples[None], targets[None], way)
    asked = torch.cat([known, strangers])
    is_stranger = np.arange(len(asked)) >= len(known)
    distances = means.distances(asked).numpy()
    confidences = logits(asked[None])[0].softmax(-1).amax(-1).numpy()
    left_out = means.left_out(examples, targets)[0].numpy()
    found = {
        "AUROC distance": float(roc_auc_score(is_stranger, distances)),
        "AUROC probability": float(roc_auc_score(is_stranger, -confidences)),
    }
    for share in SHARES:
        if len(left_out) >= examples_needed(share):
            found[f"lost for {share:g}"] = float(
                (distances[: len(known)] > conformal_threshold(left_out, share)).mean()
            )
    if len(left_out) >= examples_needed(0.2, 0.9):
        lost = (distances[: len(known)] > conformal_threshold(left_out, 0.2, 0.9)).mean()
        found["kept"] = float(lost <= 0.2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100, help="for each row")
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    columns = ["AUROC distance", "AUROC probability", *(f"lost for {share:g}" for share in SHARES), "kept"]
    print("| features | classes | examples | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 3) + "|")
    overall = defaultdict(list)
    for name in fewshot_features.NAMES:
        features = fewshot_features.load(name)
        generator = torch.Generator().manual_seed(options.seed)
        for way in (2, 5, 10):
            for shots in (2, 3, 5, 10):
                found = defaultdict(list)
                for _ in range(options.tasks):
                    for key, value in one_task(features, way, shots, generator).items():
                        found[key].append(value)
                        overall[key].append(value)
                cells = [f"{100 * np.mean(found[key]):.1f}" if found[key] else "" for key in columns]
                print(f"| {name} | {way} | {shots} | " + " | ".join(cells) + " |", flush=True)
    print("| all | | | " + " | ".join(f"{100 * np.mean(overall[key]):.1f}" for key in columns) + " |")


if __name__ == "__main__":
    main()
