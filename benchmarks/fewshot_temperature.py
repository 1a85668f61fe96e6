"""Is the temperature of few examples ever worse than none? Cross-entropy with it, without it, and with the best one.

    PAUCA_DATA=data python benchmarks/fewshot_temperature.py

Tasks of 2, 5 and 10 classes with 1 to 4 examples each, of four kinds of features and with every base learner; the
cross-entropy in nats is that of the probabilities of all images of these classes that are left. "Best" is the one
temperature that is best for all tasks of a row together, which nobody knows. A row is worse if its tasks are, paired,
by more than two standard errors.
"""

import argparse
from collections import defaultdict

import numpy as np
import torch

import fewshot_features
from pauca.fewshot.answers.held_out import hold_out
from pauca.fewshot.answers.temperature import class_spread, fit_temperature
from pauca.fewshot.pretrained import Features

LEARNERS = ("ridge", "logistic", "cosine", "prototypes", "svm")
WAYS, SHOTS = (2, 5, 10), (1, 2, 3, 4)
FACTORS = torch.exp(torch.linspace(-4, 4, 81, dtype=torch.float64))


@torch.no_grad()
def one_task(
    model: Features, features: torch.Tensor, way: int, shots: int, generator: torch.Generator
) -> tuple[float, float, np.ndarray]:
    """Cross-entropy with the temperature, without, and under each of `FACTORS`."""
    support, further = fewshot_features.draw(features, way, shots, generator)
    examples, asked = support.flatten(0, 1).double(), further[:, :40].flatten(0, 1).double()
    targets = torch.arange(way).repeat_interleave(shots)
    labels = torch.arange(way).repeat_interleave(len(asked) // way)
    logits = model.fitted(examples[None], targets[None], way)(asked[None])[0]
    held_out = hold_out(model, examples, targets, way)
    spread = float(class_spread(examples[None], torch.nn.functional.one_hot(targets)[None]))
    temperature = fit_temperature(model, held_out, shots, spread)
    nats = [
        float(torch.nn.functional.cross_entropy(logits / factor, labels)) for factor in (temperature, 1.0, *FACTORS)
    ]
    return nats[0], nats[1], np.array(nats[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=40, help="for each number of classes and examples")
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    print("| base learner | features | examples | nats | without | best | worse |")
    print("|---" * 7 + "|")
    for learner in LEARNERS:
        model = Features(learner)
        for name in fewshot_features.NAMES:
            features = fewshot_features.load(name)
            model.is_known = name == fewshot_features.NAMES[0]  # as `Pretrained` says of it
            generator = torch.Generator().manual_seed(options.seed)
            found = defaultdict(list)
            for shots in SHOTS:
                for way in WAYS:
                    found[shots] += [one_task(model, features, way, shots, generator) for _ in range(options.tasks)]
                using, without = (np.array([task[k] for task in found[shots]]) for k in (0, 1))
                best = np.mean([task[2] for task in found[shots]], 0)
                loss = using - without
                worse = loss.mean() > 2 * loss.std() / len(loss) ** 0.5
                print(
                    f"| {learner} | {name} | {shots} | {using.mean():.3f} | {without.mean():.3f} | {best.min():.3f} "
                    f"(T {float(FACTORS[best.argmin()]):.2f}) | {'worse' if worse else ''} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
