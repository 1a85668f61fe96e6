"""Our episodes through easyfsl 1.5 and learn2learn 0.2, as their tutorials go through theirs.

Both read from a data set of images that are decoded and normalized already, which flatters them: their tutorials decode
and transform each image every time. Neither installs as it is beside torch 2.13:

- easyfsl asks for torchvision, which has no CPU build. With the CUDA build, the metadata of two operators that do not
  load must be registered by hand (`DEFINE_OPERATORS` below). Its `TaskSampler` passes an argument that torch's
  `Sampler` no longer takes, so `_GivenTasks` replaces its constructor.
- learn2learn's sdist holds C code of an old Cython that Python 3.11 refuses: delete learn2learn/data/*.c and run
  `cythonize -3 -i learn2learn/data/*.pyx` of Cython 0.29. It imports gym 0.26.

Give that environment's Python to the benchmarks; a peer that cannot be imported is left out and named.
"""

from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from pauca.fewshot import Episodes, ImageSet, MCRNet

DEFINE_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")


@cache
def import_peers() -> dict[str, Any]:
    """The peers that are installed, by name."""
    if find_spec("torchvision") and torch.version.cuda is None and not version("torchvision").endswith("+cpu"):
        for name in ("nms", "qnms"):
            DEFINE_OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    peers: dict[str, ModuleType] = {}
    try:
        import easyfsl.methods  # type: ignore[import-not-found]
        import easyfsl.samplers  # type: ignore[import-not-found]
        import easyfsl.utils  # type: ignore[import-not-found]

        peers["easyfsl"] = easyfsl
    except ImportError as error:
        print(f"without easyfsl ({error})")
    try:
        import learn2learn  # type: ignore[import-not-found]

        peers["learn2learn"] = learn2learn
    except ImportError as error:
        print(f"without learn2learn ({error})")
    return peers


class Decoded(Dataset):
    """Normalized images and their labels, one by one."""

    def __init__(self, model: MCRNet, images: ImageSet) -> None:
        self.images = model.normalize(images.images).contiguous()
        self.labels = images.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.images[place], self.labels[place]


def by_class(episodes: Episodes) -> Tensor:
    """The images of each episode, class by class, support before query within each; for one shot and one way."""
    parts = [places.unflatten(1, (episodes.way, -1)) for places in (episodes.support, episodes.query)]
    return torch.cat(parts, dim=2)


def easyfsl_loader(easyfsl: Any, data: Decoded, episodes: Episodes) -> DataLoader:
    class _GivenTasks(easyfsl.samplers.TaskSampler):
        def __init__(self) -> None:
            places = by_class(episodes)
            self.n_tasks, self.n_way, per_class = places.shape
            self.n_shot = episodes.support.shape[1] // self.n_way
            self.n_query = per_class - self.n_shot
            self.tasks = places.flatten(1).tolist()

        def __iter__(self) -> Iterator[list[int]]:
            return iter(self.tasks)

    sampler = _GivenTasks()
    return DataLoader(data, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)


def easyfsl_accuracy(easyfsl: Any, network: nn.Module, data: Decoded, episodes: Episodes) -> float:
    classifier = easyfsl.methods.PrototypicalNetworks(network)
    loader = easyfsl_loader(easyfsl, data, episodes)
    return easyfsl.utils.evaluate(classifier, loader, device="cpu", use_tqdm=False)


def easyfsl_training(easyfsl: Any, network: nn.Module, data: Decoded, episodes: Episodes) -> Iterator[float]:
    """A step of training for each episode; gives the loss."""
    classifier = easyfsl.methods.PrototypicalNetworks(network)
    optimizer = _sgd(classifier)
    classifier.train()
    for support, support_labels, query, query_labels, _ in easyfsl_loader(easyfsl, data, episodes):
        optimizer.zero_grad()
        classifier.process_support_set(support, support_labels)
        loss = F.cross_entropy(classifier(query), query_labels)
        loss.backward()
        optimizer.step()
        yield loss.item()


def learn2learn_loader(learn2learn: Any, data: Decoded, episodes: Episodes) -> DataLoader:
    meta = learn2learn.data.MetaDataset(data)
    load, remap = learn2learn.data.transforms.LoadData(meta), learn2learn.data.transforms.RemapLabels(meta)
    tasks = iter(by_class(episodes).flatten(1).tolist())

    def describe(_: None) -> list:
        return remap(load([learn2learn.data.DataDescription(place) for place in next(tasks)]))

    return DataLoader(learn2learn.data.Taskset(meta, describe, num_tasks=len(episodes)))


def learn2learn_logits(head: nn.Module, network: nn.Module, batch: list[Tensor], shot: int) -> tuple[Tensor, Tensor]:
    """Logits and labels of the queries of one task."""
    images, labels = (part.squeeze(0) for part in batch)
    way = len(labels.unique())
    features = network(images).unflatten(0, (way, -1))
    labels = labels.unflatten(0, (way, -1))
    head.fit_(features[:, :shot].flatten(0, 1), labels[:, :shot].flatten())
    return head(features[:, shot:].flatten(0, 1)), labels[:, shot:].flatten()


@torch.no_grad()
def learn2learn_accuracy(learn2learn: Any, network: nn.Module, data: Decoded, episodes: Episodes) -> float:
    network.eval()
    head = learn2learn.nn.PrototypicalClassifier()
    shot = episodes.support.shape[1] // episodes.way
    accuracies = []
    for batch in learn2learn_loader(learn2learn, data, episodes):
        logits, labels = learn2learn_logits(head, network, batch, shot)
        accuracies.append((logits.argmax(-1) == labels).float().mean().item())
    return sum(accuracies) / len(accuracies)


def learn2learn_training(
    learn2learn: Any, head: nn.Module, network: nn.Module, data: Decoded, episodes: Episodes
) -> Iterator[float]:
    """A step of training for each episode; gives the loss."""
    optimizer = _sgd(network)
    network.train()
    shot = episodes.support.shape[1] // episodes.way
    for batch in learn2learn_loader(learn2learn, data, episodes):
        logits, labels = learn2learn_logits(head, network, batch, shot)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def _sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)
