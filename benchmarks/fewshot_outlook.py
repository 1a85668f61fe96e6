"""How often does the interval of the accuracy to expect hold the accuracy, and how far off are probabilities?

    PAUCA_DATA=data python benchmarks/fewshot_outlook.py

Over 10,000 tasks of 2 to 20 classes with 2 to 20 examples each. The truth is the accuracy on all images of these
classes that are left. The calibration error is that of the probabilities of all of them, in 15 bins, with the
temperature that the examples give and without one; "nats" is their cross-entropy.
"""

import argparse
from collections import defaultdict

import numpy as np
import torch

import fewshot_features
from pauca.fewshot.answers.held_out import hold_out
from pauca.fewshot.answers.outlook import expected_accuracy
from pauca.fewshot.answers.temperature import fit_temperature
from pauca.fewshot.pretrained import Features

SHAPES = [(way, shots) for way in (2, 3, 5, 10, 20) for shots in (2, 3, 5, 10, 20) if way * shots <= 100]
BINS = 15


class Reliability:
    """Sums over probabilities, by bin of confidence."""

    def __init__(self) -> None:
        self.sums = np.zeros((3, BINS))
        self.nats: list[float] = []

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        confidence, predicted = logits.softmax(-1).max(-1)
        bins = (confidence * BINS).long().clamp(max=BINS - 1)
        for row, values in enumerate((torch.ones_like(confidence), confidence, (predicted == labels).double())):
            self.sums[row] += np.bincount(bins, values, BINS)
        self.nats.append(float(torch.nn.functional.cross_entropy(logits, labels)))

    @property
    def error(self) -> float:
        return float(np.abs(self.sums[1] - self.sums[2]).sum() / self.sums[0].sum())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000, help="in all")
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    model = Features()
    sets = {name: fewshot_features.load(name) for name in fewshot_features.NAMES}
    cells = [(name, way, shots) for name, f in sets.items() for way, shots in SHAPES if f.shape[1] >= shots + 10]
    each = -(-options.tasks // len(cells))
    held, widths = defaultdict(list), defaultdict(list)
    before, after, accuracies = defaultdict(Reliability), defaultdict(Reliability), defaultdict(list)
    generator = torch.Generator().manual_seed(options.seed)
    for name, way, shots in cells:
        for _ in range(each):
            support, further = fewshot_features.draw(sets[name], way, shots, generator)
            examples, asked = support.flatten(0, 1).double(), further.flatten(0, 1).double()
            targets = torch.arange(way).repeat_interleave(shots)
            labels = torch.arange(way).repeat_interleave(further.shape[1])
            left_out = hold_out(model, examples, targets, way)
            logits = model.fitted(examples[None], targets[None], way)(asked[None])[0]
            accuracy = float((logits.argmax(1) == labels).double().mean())
            outlook = expected_accuracy(left_out)
            temperature = fit_temperature(model, left_out, shots)
            for group in (name, f"{way} classes", f"{shots} examples", "all"):
                held[group].append(outlook.low <= accuracy <= outlook.high)
                widths[group].append(outlook.high - outlook.low)
                accuracies[group].append(accuracy - outlook.accuracy)
                before[group].add(logits, labels)
                after[group].add(logits / temperature, labels)
    print(f"{each * len(cells)} tasks\n")
    print("| tasks | held, % | width, points | bias, points | calibration error | without | nats | without |")
    print("|---" * 8 + "|")
    for group in held:
        print(
            f"| {group} | {100 * np.mean(held[group]):.1f} | {100 * np.mean(widths[group]):.0f} | "
            f"{-100 * np.mean(accuracies[group]):+.1f} | {after[group].error:.3f} | {before[group].error:.3f} | "
            f"{np.mean(after[group].nats):.3f} | {np.mean(before[group].nats):.3f} |"
        )


if __name__ == "__main__":
    main()
