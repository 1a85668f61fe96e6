"""Evaluation as papers do it: many fixed episodes, a mean with its 95 % intervals, and paired comparison of models.

Each image is embedded once; an episode is then a lookup of features and one batched fit of the base learner.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pauca.errors import ConfigError, InputError
from pauca.fewshot.answers.in_episodes import episode_temperatures
from pauca.fewshot.embedding import embed_images
from pauca.fewshot.intervals import Interval, class_interval, mean_interval, p_value
from pauca.fewshot.network import FewShotModel
from pauca.fewshot.types import PADDING, Episodes, ImageSet
from pauca.fewshot.views_at_test import AS_IT_IS, ViewsAtTest

CALIBRATION_BINS = 15
# Enough episodes to fill the device, few enough that support, query and kernel fit beside the features.
_VALUES_PER_HEAD_CALL = {"cpu": 4_000_000, "cuda": 256_000_000}


@dataclass(frozen=True, eq=False)
class Calibration:
    """Stated confidence against observed accuracy, in bins of equal width from 0 to 1; NaN where a bin is empty."""

    confidence: Float[np.ndarray, "bins"]
    accuracy: Float[np.ndarray, "bins"]
    counts: Int64[np.ndarray, "bins"]

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean |confidence - accuracy|, weighted by the queries in each bin."""
        filled = self.counts > 0
        gaps = np.abs(self.confidence[filled] - self.accuracy[filled])
        return float((gaps * self.counts[filled]).sum() / self.counts.sum())


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model did on a list of episodes."""

    episode_accuracy: Float[np.ndarray, "e"]  # share of each episode's queries
    confusion: Int64[np.ndarray, "classes classes"]  # [true, predicted] counts of queries
    calibration: Calibration  # of the model's own confidence
    class_names: tuple[str, ...]
    episodes: Episodes
    data_fingerprint: str
    seen_classes: tuple[str, ...] = ()  # those of class_names that the model was trained on
    calibration_with_temperature: Calibration | None = None  # of the answers of a `FewShotClassifier`

    @property
    def accuracy(self) -> Interval:
        """Mean accuracy with its 95 % interval over episodes, as papers state it: of these classes."""
        return mean_interval(self.episode_accuracy)

    @property
    def accuracy_over_classes(self) -> Interval:
        """The same mean with its 95 % interval over classes: of other classes of the same kind."""
        return class_interval(self.episode_accuracy, self.episodes.classes.cpu().numpy(), self.class_accuracy)

    @property
    def class_count(self) -> int:
        """How many classes the episodes hold."""
        return int((~np.isnan(self.class_accuracy)).sum())

    def summary(self) -> str:
        """Accuracy in percent with both intervals, named."""
        wide = 100 * self.accuracy_over_classes.half_width
        return f"{self.accuracy} % over {len(self.episodes)} episodes, ± {wide:.2f} over {self.class_count} classes"

    def calibration_summary(self) -> str:
        """The expected calibration errors, named."""
        own = f"{self.calibration.expected_error:.3f}"
        if self.calibration_with_temperature is None:
            return f"calibration error {own}"
        return f"calibration error {self.calibration_with_temperature.expected_error:.3f}, without temperature {own}"

    @property
    def class_accuracy(self) -> Float[np.ndarray, "classes"]:
        """Share of each class's queries that were recognized; NaN for a class that was never asked for."""
        asked = self.confusion.sum(1)
        return np.divide(self.confusion.diagonal(), asked, out=np.full(len(asked), np.nan), where=asked > 0)

    def seen_warning(self) -> str:
        """That the model was trained on tested classes, in a sentence; empty if it was not, as far as it remembers."""
        if not self.seen_classes:
            return ""
        return (
            f"the model was trained on {len(self.seen_classes)} of these {len(self.class_names)} classes, first "
            f"{self.seen_classes[0]!r}: this is not its accuracy on new classes"
        )

    def confused_pairs(self, count: int = 10) -> list[tuple[str, str, int]]:
        """The most frequent mistakes: true class, predicted class, number of queries."""
        mistakes = self.confusion.copy()
        np.fill_diagonal(mistakes, 0)
        order = np.argsort(mistakes, axis=None, kind="stable")[::-1][:count]
        pairs = ((int(i), int(j)) for i, j in zip(*np.unravel_index(order, mistakes.shape), strict=True))
        return [(self.class_names[i], self.class_names[j], int(mistakes[i, j])) for i, j in pairs if mistakes[i, j]]


@dataclass(frozen=True)
class Comparison:
    """Two models on the same episodes: the mean of the differences in accuracy, which is far sharper than the
    difference of the means, because hard episodes are hard for both."""

    difference: Interval  # first minus second, over episodes
    p_value: float  # two-sided paired t test over episodes
    wins: int  # episodes in which the first is better
    losses: int
    over_classes: Interval  # the same difference, over classes
    p_value_over_classes: float

    @property
    def significant(self) -> bool:
        """Whether both 95 % intervals of the difference leave out zero: the same model would win on other episodes of
        these classes, and on other classes."""
        return all(abs(interval.mean) > interval.half_width for interval in (self.difference, self.over_classes))


@torch.no_grad()
def evaluate(
    model: FewShotModel,
    images: ImageSet,
    episodes: Episodes,
    device: torch.device | str = "cpu",
    features: Float[Tensor, "n d"] | None = None,
    bf16: bool = False,
    mirror: bool = False,
    views: ViewsAtTest = AS_IT_IS,
    temperature: bool = False,
) -> Evaluation:
    """Classify the queries of every episode.

    Args:
        model: a trained model.
        images: the split that the episodes index.
        episodes: saved or freshly drawn tasks.
        device: where to compute.
        features: of `images`, if `embed_images` has given them already.
        bf16: as for `embed_images`.
        mirror: as for `embed_images`; without effect on `features` that are given.
        views: likewise.
        temperature: also say how well calibrated the answers of a `FewShotClassifier` are, which finds a temperature in
            the support of each episode; with five shots the base learner is fitted six times in place of once.
    """
    if not len(episodes):
        raise InputError("evaluation needs at least one episode")
    if features is None:
        features = embed_images(model, images, device, bf16=bf16, mirror=mirror, views=views)
    tally = _Tally(len(images.class_names), features.device)
    warm = _Bins(features.device)
    for part in _head_batches(episodes.to(features.device), features):
        support = features[part.support]
        logits = model.classify(support, part.support_labels, features[part.query], part.way)
        tally.add(logits, part)
        if temperature:
            divisor = episode_temperatures(model, support, part.support_labels, part.way)
            warm.add(logits / divisor[:, None, None], part)
    return Evaluation(
        episode_accuracy=torch.cat(tally.episode_accuracy).double().cpu().numpy(),
        confusion=tally.confusion.cpu().numpy(),
        calibration=tally.bins.calibration(),
        class_names=images.class_names,
        episodes=episodes,
        data_fingerprint=images.fingerprint,
        seen_classes=model.trained_on.classes_in(images) if model.trained_on else (),
        calibration_with_temperature=warm.calibration() if temperature else None,
    )


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Compare two models episode by episode.

    Raises:
        ConfigError: the evaluations were not made on the same episodes of the same images.
    """
    if first.data_fingerprint != second.data_fingerprint or not _same_episodes(first.episodes, second.episodes):
        raise ConfigError(
            "the two evaluations saw different images or episodes, so their difference cannot be paired; "
            "evaluate both on one saved episode file"
        )
    differences = first.episode_accuracy - second.episode_accuracy
    interval = mean_interval(differences)
    classes = first.episodes.classes.cpu().numpy()
    over_classes = class_interval(differences, classes, first.class_accuracy - second.class_accuracy)
    return Comparison(
        interval,
        p_value(interval, len(differences)),
        int((differences > 0).sum()),
        int((differences < 0).sum()),
        over_classes,
        p_value(over_classes, first.class_count),
    )


def _same_episodes(first: Episodes, second: Episodes) -> bool:
    return all(
        torch.equal(getattr(first, field).cpu(), getattr(second, field).cpu())
        for field in Episodes.__dataclass_fields__
    )


def _head_batches(episodes: Episodes, features: Tensor) -> Iterator[Episodes]:
    """Runs of episodes whose gathered features fit the device."""
    images_in_episode = episodes.support.shape[1] + episodes.query.shape[1]
    values = _VALUES_PER_HEAD_CALL["cuda" if features.is_cuda else "cpu"]
    size = max(1, values // (images_in_episode * features.shape[1]))
    for start in range(0, len(episodes), size):
        yield episodes[start : start + size]


class _Tally:
    """Sums over batches of episodes, kept on the device until the end."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.episode_accuracy: list[Tensor] = []
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64, device=device)
        self.bins = _Bins(device)

    def add(self, logits: Float[Tensor, "e q way"], episodes: Episodes) -> None:
        counted = episodes.query_labels != PADDING
        predicted = logits.argmax(-1)
        hit = (predicted == episodes.query_labels) & counted
        self.episode_accuracy.append(hit.sum(1) / counted.sum(1))
        true_class = episodes.classes.gather(1, episodes.query_labels.clamp_min(0))[counted]
        predicted_class = episodes.classes.gather(1, predicted)[counted]
        pairs = true_class * len(self.confusion) + predicted_class
        self.confusion += torch.bincount(pairs, minlength=self.confusion.numel()).view_as(self.confusion)
        self.bins.add(logits, episodes)


class _Bins:
    """Sums of a calibration."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, CALIBRATION_BINS, dtype=torch.float64, device=device)  # count, confidence, hits

    def add(self, logits: Float[Tensor, "e q way"], episodes: Episodes) -> None:
        counted = episodes.query_labels != PADDING
        confidence, predicted = (part[counted] for part in logits.softmax(-1).max(-1))
        hit = predicted == episodes.query_labels[counted]
        place = (confidence * CALIBRATION_BINS).long().clamp_max(CALIBRATION_BINS - 1)
        self.sums.index_add_(1, place, torch.stack([torch.ones_like(confidence), confidence, hit]).double())

    def calibration(self) -> Calibration:
        count, confidence, hits = self.sums.cpu().numpy()
        with np.errstate(invalid="ignore"):
            return Calibration(confidence / count, hits / count, count.astype(np.int64))
