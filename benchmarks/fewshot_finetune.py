"""Is it worth while to train the end of a pretrained network on five examples of each class? Paired, by task.

    PAUCA_DATA=data python benchmarks/fewshot_finetune.py

EfficientNet-Lite0 at 128 pixels, 5 classes of CIFAR-100, 5 examples and 15 queries of each. `last` trains the last
block and the last convolution (1.1 M weights), `lora` additions of rank 4 to their pointwise convolutions; Adam,
cross-entropy of a cosine classifier that begins at the class means, examples and their mirror images, batch norm as it
was. Then ridge is fitted to the features, as without training. Rate and steps of each are chosen on tasks of 50 classes
and tested on tasks of the other 50.
"""

import argparse
from copy import deepcopy

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate, normalize

import fewshot_features
from pauca.fewshot import Features, open_backbone
from pauca.fewshot.pretrained import Preprocessing
from pauca.runs import Progress

WAY, SHOTS, QUERIES, RANK = 5, 5, 15, 4
RATES, STEPS = (1e-4, 3e-4, 1e-3), (10, 30)


class End(nn.Module):
    """What is trained: the last block and convolution of the network."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.block, self.head = deepcopy(model._blocks[-1]), deepcopy(model._conv_head)
        self.norm, self.act = deepcopy(model._bn1), deepcopy(model._swish)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return normalize(self.act(self.norm(self.head(self.block(maps)))).mean((2, 3)), dim=1)


class Lora(nn.Module):
    """A pointwise convolution and an addition of low rank."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        outputs, inputs = layer.weight.shape[:2]
        self.down = nn.Parameter(torch.randn(RANK, inputs, 1, 1) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, RANK, 1, 1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.layer(maps) + nn.functional.conv2d(nn.functional.conv2d(maps, self.down), self.up)


def prepared(model: nn.Module, kind: str) -> tuple[End, list[nn.Parameter]]:
    """A fresh end of the network, and what of it is trained."""
    end = End(model).eval()
    if kind == "last":
        return end, list(end.parameters())
    for parameter in end.parameters():
        parameter.requires_grad_(False)
    torch.manual_seed(0)
    end.block._expand_conv, end.block._project_conv = Lora(end.block._expand_conv), Lora(end.block._project_conv)
    end.head = Lora(end.head)
    return end, [p for p in end.parameters() if p.requires_grad]


def accuracy(end: nn.Module, task: tuple[torch.Tensor, ...]) -> float:
    """Of ridge on these features."""
    examples, _, queries, labels, asked = task
    with torch.no_grad():
        support, query = end(examples).double(), end(queries).double()
        logits = Features().fitted(support[None], labels[None], WAY)(query[None])[0]
    return float((logits.argmax(1) == asked).double().mean())


def trained(model: nn.Module, kind: str, rate: float, task: tuple[torch.Tensor, ...]) -> dict[int, float]:
    """Accuracy after each number of steps."""
    examples, mirrored, _, labels, _ = task
    end, parameters = prepared(model, kind)
    both, twice = torch.cat([examples, mirrored]), torch.cat([labels, labels])
    with torch.no_grad():
        first = end(examples)
        means = torch.stack([first[labels == k].mean(0) for k in range(WAY)])
    means = nn.Parameter(normalize(means, dim=1))
    optimizer = torch.optim.Adam([*parameters, means], lr=rate)
    found = {}
    for step in range(1, max(STEPS) + 1):
        optimizer.zero_grad()
        cross_entropy(20 * end(both) @ normalize(means, dim=1).mT, twice).backward()
        optimizer.step()
        if step in STEPS:
            found[step] = accuracy(end, task)
    return found


def draw_task(network: nn.Module, images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Maps before the end, of examples, their mirror images and queries; labels of both."""
    classes = torch.randperm(len(images), generator=generator)[:WAY]
    order = torch.stack([torch.randperm(images.shape[1], generator=generator) for _ in range(WAY)])
    drawn = images[classes[:, None], order[:, : SHOTS + QUERIES]]
    support, query = drawn[:, :SHOTS].flatten(0, 1), drawn[:, SHOTS:].flatten(0, 1)
    maps = [begin(network, pixels) for pixels in (support, support.flip(-1), query)]
    return *maps, torch.arange(WAY).repeat_interleave(SHOTS), torch.arange(WAY).repeat_interleave(QUERIES)


@torch.no_grad()
def begin(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """All but the end of the network."""
    model, rows = network.network.model, []
    for few in pixels.split(25):
        whole = interpolate(few.float(), 128, mode="bicubic", antialias=True).clamp(0, 255).round() / 255
        maps = model._swish(model._bn0(model._conv_stem(network.normalize(whole))))
        for block in model._blocks[:-1]:
            maps = block(maps)
        rows.append(maps)
    return torch.cat(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--validation", type=int, default=8, help="tasks to choose on")
    parser.add_argument("--tasks", type=int, default=20, help="tasks to test on")
    parser.add_argument("--kinds", nargs="+", default=["last", "lora"], choices=["last", "lora"])
    options = parser.parse_args()
    seen = Preprocessing(128, (127 / 255,) * 3, (128 / 255,) * 3)
    network = open_backbone("efficientnet-lite0", preprocessing=seen)
    model, images = network.network.model, fewshot_features._cifar()
    mixed = images[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    generator = torch.Generator().manual_seed(1)
    with Progress("embed", options.validation + options.tasks, "tasks") as progress:
        tasks = []
        for number in range(options.validation + options.tasks):
            half = mixed[:50] if number < options.validation else mixed[50:]
            tasks.append(draw_task(network, half, generator))
            progress.advance()
    choosing, testing = tasks[: options.validation], tasks[options.validation :]
    plain = np.array([accuracy(End(model).eval(), task) for task in testing])
    print(f"without training: {100 * plain.mean():.1f} % of {len(testing)} tasks\n")
    print(
        "| trained | rate | steps | validation, points | test, points | better, worse, equal tasks |\n"
        "|---|---|---|---|---|---|"
    )
    before = np.mean([accuracy(End(model).eval(), task) for task in choosing])
    for kind in options.kinds:
        found = {rate: [trained(model, kind, rate, task) for task in choosing] for rate in RATES}
        scores = {(r, s): np.mean([f[s] for f in rows]) - before for r, rows in found.items() for s in STEPS}
        rate, steps = max(scores, key=lambda key: scores[key])
        gains = np.array([trained(model, kind, rate, task)[steps] for task in testing]) - plain
        half = 2.09 * gains.std(ddof=1) / len(gains) ** 0.5
        counts = f"{(gains > 0).sum()}, {(gains < 0).sum()}, {(gains == 0).sum()}"
        print(
            f"| {kind} | {rate:g} | {steps} | {100 * scores[rate, steps]:+.1f} | {100 * gains.mean():+.1f} ± "
            f"{100 * half:.1f} | {counts} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
