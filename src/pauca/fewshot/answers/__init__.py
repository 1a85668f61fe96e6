"""Answers one can trust: calibrated probabilities, a threshold for unknown images, the accuracy to expect."""

from pauca.fewshot.answers.outlook import Outlook, expected_accuracy
from pauca.fewshot.answers.threshold import FewExamplesWarning, conformal_threshold, examples_needed

__all__ = ["FewExamplesWarning", "Outlook", "conformal_threshold", "examples_needed", "expected_accuracy"]
