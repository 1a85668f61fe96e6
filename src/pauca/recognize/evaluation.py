"""How well recordings are recognized, and what alignment adds: the same recordings, with and without it."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from pauca import events, fewshot
from pauca.recognize.estimator import EventClassifier
from pauca.recognize.pictures import Picture
from pauca.recognize.plots import Shown, best_picture, gallery
from pauca.runs import Report

_log = logging.getLogger(__name__)


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
    def aligned(self) -> fewshot.Interval:
        """Accuracy, its interval over recordings."""
        return fewshot.mean_interval(self.right.astype(float))

    @property
    def unaligned(self) -> fewshot.Interval:
        return fewshot.mean_interval(self.right_unaligned.astype(float))

    @property
    def gain(self) -> fewshot.Interval:
        """What alignment adds, paired by recording."""
        return fewshot.mean_interval(self._difference())

    @property
    def gain_over_classes(self) -> fewshot.Interval:
        """The same, its interval over things: for other things of the same kind."""
        difference = self._difference()
        return fewshot.mean_interval(np.array([difference[self.truth == name].mean() for name in set(self.truth)]))

    @property
    def verdict(self) -> str:
        """What alignment adds, in words."""
        gains = self.gain, self.gain_over_classes
        sure = all(abs(gain.mean) > gain.half_width for gain in gains)
        word = "a significant difference" if sure else "no significant difference"
        return f"{self.gain} points by alignment, {word}"

    def as_dict(self) -> dict[str, Any]:
        """The same for machines."""
        intervals = ("aligned", "unaligned", "gain", "gain_over_classes")
        numbers: dict[str, Any] = {"recordings": len(self.truth)}
        for name in intervals:
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
        ["pictures", "accuracy %"],
        [["aligned", str(outcome.aligned)], ["as the sensor saw them", str(outcome.unaligned)]],
        f"{len(outcome.truth)} recordings of {len(set(outcome.truth))} things, 95 % intervals over recordings; "
        f"{outcome.verdict} (95 % interval over recordings; over things ± "
        f"{100 * outcome.gain_over_classes.half_width:.2f}).",
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
