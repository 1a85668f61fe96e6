"""How well recordings are recognized, and what alignment adds: the same recordings, with and without it."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from pauca import events, fewshot
from pauca.recognize.estimator import EventClassifier
from pauca.recognize.pictures import Picture
from pauca.recognize.plots import Shown, best_picture, gallery
from pauca.runs import Report

_log = logging.getLogger(__name__)

_SIGMAS_95 = 1.96
_SURE = 0.05


class Share(NamedTuple):
    """A share of right answers with its 95 % interval (Wilson 1927), which is honest for a few and at 0 and 1, too."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, right: Bool[np.ndarray, "n"]) -> "Share":
        n, share = len(right), float(right.mean())
        middle = (share + _SIGMAS_95**2 / (2 * n)) / (1 + _SIGMAS_95**2 / n)
        half = _SIGMAS_95 * sqrt(share * (1 - share) / n + (_SIGMAS_95 / (2 * n)) ** 2) / (1 + _SIGMAS_95**2 / n)
        return cls(share, max(0.0, middle - half), min(1.0, middle + half))

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


@dataclass(frozen=True, eq=False)
class Outcome:
    """Recordings of known labels, named with alignment and without."""

    truth: Shaped[np.ndarray, "n"]
    labels: Shaped[np.ndarray, "n"]  # with alignment
    probabilities: Float[np.ndarray, "n classes"]
    right: Bool[np.ndarray, "n"]
    right_unaligned: Bool[np.ndarray, "n"]
    pictures: tuple[Picture, ...]  # the best of each recording

    @property
    def aligned(self) -> Share:
        """Accuracy, its interval over recordings."""
        return Share.of(self.right)

    @property
    def unaligned(self) -> Share:
        return Share.of(self.right_unaligned)

    @property
    def gain(self) -> fewshot.Interval:
        """What alignment adds, paired by recording."""
        return fewshot.mean_interval(self._difference())

    @property
    def gain_over_classes(self) -> fewshot.Interval:
        """The same, its interval over things: for other things of the same kind."""
        difference = self._difference()
        return fewshot.mean_interval(
            np.array([difference[self.truth == name].mean() for name in np.unique(self.truth)])
        )

    @property
    def p_value(self) -> float:
        """Of no gain, two-sided and exact (McNemar): by how many recordings are right in one way alone."""
        difference = self._difference()
        won, lost = int((difference > 0).sum()), int((difference < 0).sum())
        tail = sum(comb(won + lost, fewer) for fewer in range(min(won, lost) + 1)) / 2 ** (won + lost)
        return min(1.0, 2 * tail)

    @property
    def verdict(self) -> str:
        """What alignment adds, in words."""
        over_classes = self.gain_over_classes
        sure = self.p_value < _SURE and abs(over_classes.mean) > over_classes.half_width
        word = "a significant difference" if sure else "no significant difference"
        return f"{100 * self.gain.mean:+.1f} points by alignment, {word} (p = {self.p_value:.2g})"

    def as_dict(self) -> dict[str, Any]:
        """The same for machines."""
        numbers: dict[str, Any] = {"recordings": len(self.truth), "p_value": self.p_value}
        numbers |= {name: getattr(self, name)._asdict() for name in ("aligned", "unaligned")}
        for name in ("gain", "gain_over_classes"):
            interval = getattr(self, name)
            half = interval.half_width if np.isfinite(interval.half_width) else None
            numbers[name] = {"mean": interval.mean, "half_width": half}
        return numbers

    def _difference(self) -> Float[np.ndarray, "n"]:
        return self.right.astype(float) - self.right_unaligned


def compare_alignment(
    classifiers: dict[bool, EventClassifier],
    examples: Iterable[events.Recording],
    example_labels: Sequence[str],
    asked: Iterable[events.Recording],
    labels: Sequence[str],
) -> Outcome:
    """Learn from some recordings, name others, with alignment and without.

    Args:
        classifiers: with alignment (True) and without (False), alike but for that.
        examples: recordings to learn from.
        example_labels: theirs.
        asked: recordings to name.
        labels: theirs.
    """
    learned = list(examples)
    for classifier in classifiers.values():
        classifier.fit(learned, list(example_labels))
    truth, seen = np.asarray(labels), {True: [], False: []}
    if strangers := sorted(set(labels) - set(example_labels)):
        _log.warning("%s: no example has this label, so that every answer is wrong", ", ".join(strangers))
    for recording in asked:
        for align, classifier in classifiers.items():
            seen[align].append(classifier.pictures(recording))
    answers = {align: classifiers[align].answer(seen[align]) for align in seen}
    right = {align: found.labels == truth for align, found in answers.items()}
    return Outcome(
        truth,
        answers[True].labels,
        answers[True].probabilities,
        right[True],
        right[False],
        tuple(best_picture(pictures) for pictures in seen[True]),
    )


def describe_outcome(report: Report, outcome: Outcome) -> None:
    """Add an evaluation to its page: the table, and recordings with their answers."""
    report.table(
        ["pictures", "accuracy"],
        [["aligned", str(outcome.aligned)], ["as the sensor saw them", str(outcome.unaligned)]],
        f"{len(outcome.truth)} recordings of {len(set(outcome.truth))} things, 95 % intervals over recordings; "
        f"{outcome.verdict}; the gain with 95 % intervals: {outcome.gain} over recordings, {outcome.gain_over_classes} "
        "over things.",
    )
    shown = [
        Shown(picture, str(label), str(truth), float(row.max()))
        for picture, label, truth, row in zip(
            outcome.pictures, outcome.labels, outcome.truth, outcome.probabilities, strict=True
        )
    ]
    report.figure(
        gallery(_spread(shown)),
        "Recordings: above as the sensor saw them, below aligned, with the answer and its probability: green "
        "where it is right, else red, with the truth below.",
    )


def _spread(shown: list[Shown]) -> list[Shown]:
    """At most 30 of them, from all parts of the list."""
    places = np.linspace(0, len(shown) - 1, min(len(shown), 30)).astype(int)
    return [shown[place] for place in places]
