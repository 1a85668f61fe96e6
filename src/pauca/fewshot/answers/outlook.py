"""What accuracy to expect of one's own images, from the few examples that there are."""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import betaincinv, expit, logit

from pauca.fewshot.answers.examples import Words
from pauca.fewshot.answers.held_out import HeldOut

# An interval by Jeffreys' prior would take the left-out examples for independent trials of the classifier that will be
# used. They share their support with one another, and each class has one example less than it will have. Three numbers
# make up for both: the share of the trials that counts, the two halves of a trial that are added, and the gain in log
# odds for each unit of log(k / (k - 1)). Found on 5,100 tasks of 2 to 20 classes with 2 to 20 examples each, of
# CIFAR-100 and Omniglot, with features from raw pixels to EfficientNet-Lite0 (accuracies 49 to 85 %); they hold for all
# of these at once, within 2 points of 90 %. `benchmarks/fewshot_outlook.py` measures it on further tasks.
_WEIGHT, _ADDED, _GAIN = 0.6, 0.7, 0.65


@dataclass(frozen=True)
class Outlook:
    """The accuracy to expect on further images of the same classes, each class counting alike."""

    accuracy: float
    low: float  # of the interval that holds it in 90 % of all tasks
    high: float
    examples: int  # that were left out to find it
    groups: int | None = None  # in so many groups, where examples belong together
    words: Words = field(default_factory=Words)

    def __str__(self) -> str:
        together = "" if self.groups is None else f" in {self.groups} groups"
        left_out = f"{self.examples} {self.words.examples}{together} left out"
        return (
            f"{100 * self.accuracy:.0f} % of further {self.words.images} right, between {100 * self.low:.0f} and "
            f"{100 * self.high:.0f} % in nine of ten such tasks ({left_out})"
        )


def expected_accuracy(held_out: HeldOut, words: Words | None = None) -> Outlook:
    """The accuracy to expect, with the interval that holds it in 90 % of all tasks.

    Where examples belong together, it is that of images of further groups, and a group counts as one example: no less
    wide than it has to be if its members err together, and wider if they do not.
    """
    labels = held_out.labels.cpu().numpy()
    right = (held_out.logits.argmax(1) == held_out.labels).double().cpu().numpy()
    weights = held_out.weights.cpu().numpy()
    members = [labels == label for label in np.unique(labels)]
    share = float(np.mean([np.average(right[own], weights=weights[own]) for own in members]))
    trials = _WEIGHT * held_out.trials
    posterior = trials * share + _ADDED, trials * (1 - share) + _ADDED
    gain = _GAIN * np.log(held_out.shots / max(held_out.shots - 1, 1.0))
    low, middle, high = (float(expit(logit(betaincinv(*posterior, level)) + gain)) for level in (0.05, 0.5, 0.95))
    groups = round(held_out.trials)
    return Outlook(middle, low, high, len(labels), None if groups == len(labels) else groups, words or Words())
