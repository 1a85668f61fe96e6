"""Do MCRNet's episodes on top of the recipe `strong` make it more accurate?

    python benchmarks/fewshot_on_top.py cifar-fs|fc100 MODEL [--learner ridge|cosine] [--steps 2500] [--minutes 3]

Goes on from a model that the recipe has trained, with episodes of base classes: the network learns through its base
learner, as MCRNet does, by its features of test time (of length one about a share of their mean). Every episode is
seen in one of the four turns; its five examples a class teach at one and at five shots. So that the network forgets
nothing, it still tells all base classes and turns apart (`--class-weight`), and its features stay near those that it
had (`--anchor`). Batch norm keeps its statistics. Prints the accuracy on the validation classes, with the mean over
image and mirror image, as it goes; and, where the best step has gained 0.3 points there, the differences on the test
classes, paired by episode.
"""

import argparse
import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cifar_benchmarks
from fewshot_strong import EPISODE_SEED, HEADS, SHOTS, WAYS
from pauca.fewshot.embedding import embed_images
from pauca.fewshot.episodes import sample_episodes
from pauca.fewshot.evaluation import evaluate
from pauca.fewshot.intervals import mean_interval
from pauca.fewshot.model import MCRNet
from pauca.fewshot.training.augment import AugmentConfig, augment
from pauca.fewshot.types import EpisodeConfig, Episodes, ImageSet
from pauca.fewshot.windows import TURNS
from pauca.runs import seed_of

WAY, SHOT, QUERY = 5, 5, 6
GAIN = 0.003  # on the validation classes, from which on it is worth a look at the test classes
Accuracies = dict[tuple[str, int], np.ndarray]  # of each episode, by base learner and shot


class Student(nn.Module):
    """The model, a classifier of all base classes in each turn, and how sure both are."""

    def __init__(self, model: MCRNet, images: Tensor, labels: Tensor, learner: str) -> None:
        super().__init__()
        self.model = model
        self.model.base_learner = HEADS["ridge:1" if learner == "ridge" else "cosine"]().to(images.device)
        self.teacher = deepcopy(model.backbone).requires_grad_(False)
        self.see, self.see_before = self.model.backbone.forward, self.teacher.forward
        self.classes = int(labels.max()) + 1
        self.prototypes = nn.Parameter(class_means(self, images, labels))
        self.sureness = nn.Parameter(torch.tensor(20.0, device=images.device))

    def features(self, raw: Tensor, turns: Tensor) -> Tensor:
        """Of length one about a share of the mean of their turn, as at test time."""
        unit = F.normalize(raw.float(), dim=1)
        return F.normalize(unit - self.model.config.center_features * self.model.feature_mean[turns], dim=1)

    def loss(self, pixels: Tensor, turns: Tensor, episodes: Episodes, labels: Tensor, weights: tuple) -> Tensor:
        """Of episodes whose images, support before query, are `pixels`, in the turn that `turns` says."""
        normalized = self.model.normalize(pixels)
        raw = self.see(normalized)
        with torch.no_grad():
            before = self.see_before(normalized)
        features = self.features(raw, turns)
        with torch.autocast(features.device.type, enabled=False):
            scores = self.sureness * features @ F.normalize(self.prototypes, dim=1).T
            of_classes = F.cross_entropy(scores, labels * TURNS + turns)
            apart = 1 - F.cosine_similarity(raw.float(), before.float(), dim=1).mean()
            of_episodes = torch.stack([self.episode_loss(features, episodes, shot) for shot in SHOTS]).mean()
        return of_episodes + weights[0] * of_classes + weights[1] * apart

    def episode_loss(self, features: Tensor, episodes: Episodes, shot: int) -> Tensor:
        """Cross-entropy of the queries, told from the first examples of each class."""
        rows = features.unflatten(0, (len(episodes), -1))
        used = torch.arange(WAY * SHOT, device=rows.device) % SHOT < shot  # the support holds class after class
        support, query = rows[:, : WAY * SHOT][:, used], rows[:, WAY * SHOT :]
        logits = self.model.base_learner(support, episodes.support_labels[:, used], query, WAY)
        return F.cross_entropy(logits.flatten(0, 1), episodes.query_labels.flatten())


@torch.no_grad()
def class_means(student: Student, images: Tensor, labels: Tensor) -> Tensor:
    """The mean features of each class in each turn: row class * TURNS + turn."""
    sums = torch.zeros(student.classes * TURNS, student.model.feature_mean.shape[1], device=images.device)
    for turn in range(TURNS):
        for part, names in zip(images.split(256), labels.split(256), strict=True):
            with torch.autocast(images.device.type, torch.bfloat16):
                raw = student.teacher(student.model.normalize(torch.rot90(part, turn, (2, 3))))
            turns = torch.full_like(names, turn)
            sums.index_add_(0, names * TURNS + turn, student.features(raw, turns))
    return F.normalize(sums, dim=1)


def turned(images: Tensor, turns: Tensor) -> Tensor:
    """Each image by its number of quarters."""
    views = torch.stack([torch.rot90(images, turn, (2, 3)) for turn in range(TURNS)])
    return views[turns, torch.arange(len(images), device=images.device)]


def train(student: Student, images: ImageSet, options: argparse.Namespace, validate: Callable[[int], None]) -> None:
    """Steps of SGD along a cosine; a running mean of the weights takes their place in the end and at validations."""
    device = student.prototypes.device
    pixels, labels = images.images.to(device), images.labels.to(device)
    augmentation = AugmentConfig().fitted_to(images)
    student.model.eval()  # batch norm keeps its statistics, and nothing is dropped
    fast = list(student.model.backbone.parameters())
    others = [student.prototypes, student.sureness, *student.model.base_learner.parameters()]
    optimizer = torch.optim.SGD(
        [{"params": fast, "weight_decay": 5e-4}, {"params": [p for p in others if p.requires_grad]}],
        lr=options.rate, momentum=0.9, nesterov=True,
    )  # fmt: skip
    mean = [parameter.detach().clone() for parameter in fast]
    if device.type == "cuda" and options.compile:
        student.see, student.see_before = torch.compile(student.see), torch.compile(student.see_before)
    started = time.monotonic()
    for step in range(options.steps):
        share = max(step / options.steps, (time.monotonic() - started) / (60 * options.minutes))
        if share >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1.0, (step + 1) / 50) * (1 + math.cos(math.pi * share)) / 2
        config = EpisodeConfig(WAY, SHOT, QUERY)
        episodes = sample_episodes(images, config, options.episodes_per_step, seed_of(options.seed, 0, step)).to(device)
        torch.manual_seed(seed_of(options.seed, 1, step))
        places = torch.cat([episodes.support, episodes.query], 1)
        turns = torch.randint(TURNS, (len(places), 1), device=device).expand_as(places).flatten()
        views = turned(augment(pixels[places.flatten()], augmentation), turns)
        with torch.autocast(device.type, torch.bfloat16):
            weights = (options.class_weight, options.anchor)
            loss = student.loss(views, turns, episodes, labels[places.flatten()], weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        kept = min(options.average, (1 + step) / (10 + step))
        torch._foreach_lerp_(mean, [parameter.detach() for parameter in fast], 1 - kept)
        if (step + 1) % options.validate_every == 0:
            with swapped(fast, mean):
                print(f"step {step + 1}, {time.monotonic() - started:.0f} s, loss {loss.item():.3f}", flush=True)
                validate(step + 1)
    with swapped(fast, mean):
        validate(step + 1)


class swapped:
    """Other weights, for a while."""

    def __init__(self, parameters: list[nn.Parameter], others: list[Tensor]) -> None:
        self.parameters, self.others = parameters, others

    def __enter__(self) -> None:
        self.kept = [parameter.data for parameter in self.parameters]
        for parameter, other in zip(self.parameters, self.others, strict=True):
            parameter.data = other.clone(memory_format=torch.preserve_format)

    def __exit__(self, *_: object) -> None:
        for parameter, kept in zip(self.parameters, self.kept, strict=True):
            parameter.data = kept


def accuracies(model: MCRNet, images: ImageSet, way: str, episodes: int) -> Accuracies:
    """With the base learners of `fewshot_strong.py`, on its episodes."""
    device = model.mean.device
    features = embed_images(model, images, device, bf16=True, views=WAYS[way])
    found = {}
    own = model.base_learner
    for name, make in HEADS.items():
        model.base_learner = make().to(device)
        for shot in SHOTS:
            drawn = sample_episodes(images, EpisodeConfig(WAY, shot, 15), episodes, EPISODE_SEED + shot)
            found[name, shot] = evaluate(model, images, drawn, device, features).episode_accuracy
    model.base_learner = own
    return found


def show(found: Accuracies, before: Accuracies) -> None:
    """Accuracy, and what was gained, paired by episode."""
    for name in HEADS:
        cells = [f"{mean_interval(found[name, s])} ({signed(found[name, s] - before[name, s])})" for s in SHOTS]
        print(f"  {name:13s} {cells[0]}   {cells[1]}", flush=True)


def signed(differences: np.ndarray) -> str:
    interval = mean_interval(differences)
    return f"{100 * interval.mean:+.2f} ± {100 * interval.half_width:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("benchmark", choices=cifar_benchmarks.NAMES)
    parser.add_argument("model", type=Path, help="a file that the recipe strong has written")
    parser.add_argument("--learner", choices=("ridge", "cosine"), default="ridge")
    parser.add_argument("--rate", type=float, default=0.003, help="learning rate")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--minutes", type=float, default=3.0, help="the rate falls to zero by then, if not sooner")
    parser.add_argument("--episodes-per-step", type=int, default=8)
    parser.add_argument("--class-weight", type=float, default=0.5, help="of telling base classes and turns apart")
    parser.add_argument("--anchor", type=float, default=1.0, help="weight of staying near the features of before")
    parser.add_argument("--average", type=float, default=0.995, help="of the running mean of the weights")
    parser.add_argument("--validate-every", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=300, help="of each validation class")
    parser.add_argument("--base-images", type=int, default=60, help="of each base class, for its means")
    parser.add_argument("--episodes", type=int, default=10_000, help="of the test; a fifth as many validate")
    parser.add_argument("--way", choices=WAYS, default="turns", help="of testing")
    parser.add_argument("--test-images", type=int, default=600, help="of each test class; default: all")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    options = parser.parse_args()
    splits = cifar_benchmarks.load(options.benchmark)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    model = MCRNet.load(options.model).to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    model.config = replace(model.config, whiten_features=0.0)  # before and after alike
    start = deepcopy(model)
    some = cifar_benchmarks.thinned(splits["train"], options.base_images)
    student = Student(model, some.images.to(device), some.labels.to(device), options.learner)
    validation = cifar_benchmarks.thinned(splits["val"], options.images)
    best: dict = {"score": -1.0}
    before = accuracies(start, validation, "mirror", options.episodes // 5)
    show(before, before)

    def validate(step: int) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            kept = model.feature_mean.clone()
            model.learn_center(some.images.to(device)[:: max(1, len(some) // 1200)])  # of the weights of now
        found = accuracies(model, validation, "mirror", options.episodes // 5)
        show(found, before)
        score = float(np.mean([found[name, shot].mean() - before[name, shot].mean() for name, shot in found]))
        if score > best["score"]:
            best.update(score=score, step=step, state=deepcopy(model.state_dict()))
        model.feature_mean.copy_(kept)

    train(student, splits["train"], options, validate)
    print(f"best: step {best['step']}, {100 * best['score']:+.2f} points on the validation classes, over all rows")
    if best["score"] < GAIN:
        print("less than 0.3: the test classes were not looked at")
        return
    model.load_state_dict(best["state"])
    test = cifar_benchmarks.thinned(splits["test"], options.test_images)
    show(*(accuracies(each, test, options.way, options.episodes) for each in (model, start)))


if __name__ == "__main__":
    main()
