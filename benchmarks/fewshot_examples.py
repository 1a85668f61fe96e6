"""How many examples of each class? Accuracy by number of examples, for backbones from strong to none.

    PAUCA_DATA=data python benchmarks/fewshot_examples.py

Tasks of 5 and of 20 classes of CIFAR-100 or Omniglot, ridge on features that were not trained on either; up to 40
images of each class are asked for. ± is the spread (standard deviation) over tasks: how far your own task may lie from
the mean.
"""

import argparse

import numpy as np
import torch

import fewshot_features
from pauca.fewshot.pretrained import Features

EXAMPLES = (1, 2, 5, 10, 20)


@torch.no_grad()
def accuracy(features: torch.Tensor, way: int, shots: int, generator: torch.Generator) -> float:
    """Of one task."""
    support, further = fewshot_features.draw(features, way, shots, generator)
    examples, asked = support.flatten(0, 1).double(), further[:, :40].flatten(0, 1).double()
    logits = Features().fitted(examples[None], torch.arange(way).repeat_interleave(shots)[None], way)(asked[None])[0]
    return float((logits.argmax(1) == torch.arange(way).repeat_interleave(len(asked) // way)).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100, help="for each cell")
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    print("| features | classes | " + " | ".join(map(str, EXAMPLES)) + " |\n" + "|---" * (len(EXAMPLES) + 2) + "|")
    for name in (fewshot_features.NAMES[0], *fewshot_features.NAMES[2:]):
        features = fewshot_features.load(name)
        for way in (5, 20):
            cells = []
            for shots in EXAMPLES:
                if shots + 5 > features.shape[1]:
                    cells.append("")
                    continue
                generator = torch.Generator().manual_seed(options.seed)
                found = 100 * np.array([accuracy(features, way, shots, generator) for _ in range(options.tasks)])
                cells.append(f"{found.mean():.1f} ± {found.std(ddof=1):.1f}")
            print(f"| {name} | {way} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
