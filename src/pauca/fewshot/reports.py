"""What the commands write about a training and an evaluation: pages for people, numbers for machines."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from pauca.fewshot.backbones import parameter_count
from pauca.fewshot.evaluation import Comparison, Evaluation
from pauca.fewshot.intervals import Interval
from pauca.fewshot.model import MCRNet
from pauca.fewshot.named import MapMethod
from pauca.fewshot.network import FewShotModel
from pauca.fewshot.training.loop import TrainResult
from pauca.fewshot.types import ImageSet
from pauca.runs import Report, Run, atomic_write


def evaluation_numbers(result: Evaluation) -> dict[str, Any]:
    """An evaluation as plain numbers."""
    by_class = zip(result.class_names, result.class_accuracy.tolist(), strict=True)
    return {
        "accuracy": result.accuracy.mean,
        "half_width": _half_width(result.accuracy),
        "half_width_over_classes": _half_width(result.accuracy_over_classes),
        "episodes": len(result.episodes),
        "classes": result.class_count,
        "classes_seen_in_training": list(result.seen_classes),
        **_calibration_numbers(result),
        "class_accuracy": {name: value for name, value in by_class if not np.isnan(value)},
        "confused_pairs": result.confused_pairs(),
    }


def _half_width(interval: Interval) -> float | None:
    """None where it is infinite, of a single episode or class: JSON has no infinity."""
    return interval.half_width if np.isfinite(interval.half_width) else None


def _calibration_numbers(result: Evaluation) -> dict[str, float]:
    """With the temperature that a classifier finds, which its users get, and of the model's own confidence."""
    own, warm = result.calibration.expected_error, result.calibration_with_temperature
    if warm is None:
        return {"expected_calibration_error": own}
    return {
        "expected_calibration_error": warm.expected_error,
        "expected_calibration_error_without_temperature": own,
    }


def comparison_numbers(first: Evaluation, second: Evaluation, found: Comparison) -> dict[str, Any]:
    """A comparison of two models as plain numbers."""
    return {
        "first": first.accuracy.mean,
        "second": second.accuracy.mean,
        "difference": found.difference.mean,
        "half_width": _half_width(found.difference),
        "p_value": found.p_value,
        "half_width_over_classes": _half_width(found.over_classes),
        "p_value_over_classes": found.p_value_over_classes,
        "significant": found.significant,
        "wins": found.wins,
        "losses": found.losses,
    }


def comparison_sentence(first: Evaluation, second: Evaluation, found: Comparison) -> str:
    """A comparison of two models in words."""
    verdict = "a significant difference" if found.significant else "no significant difference"
    return (
        f"{first.accuracy} % and {second.accuracy} %; difference {found.difference} points over "
        f"{len(first.episodes)} episodes (p = {found.p_value:.2g}), ± {100 * found.over_classes.half_width:.2f} over "
        f"{first.class_count} classes (p = {found.p_value_over_classes:.2g}): {verdict}"
    )


def write_predictions(
    path: Path,
    class_names: Sequence[str],
    files: Sequence[str],
    labels: Shaped[np.ndarray, "n"],
    probabilities: Float[np.ndarray, "n classes"],
    force: bool = False,
) -> None:
    """Write a table (.csv) with a line for each image: file, label, probability of each class."""
    with atomic_write(path, force) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", *class_names])
        for name, label, row in zip(files, labels, probabilities, strict=True):
            writer.writerow([name, label, *(f"{value:.4f}" for value in row)])


def predictions_report(
    words: str,
    examples: ImageSet | None,
    pixels: UInt8[Tensor, "n c h w"],
    labels: Shaped[np.ndarray, "n"],
    probabilities: Float[np.ndarray, "n classes"],
) -> Report:
    """The page of predictions: what `words` say, and the pictures with their labels."""
    from pauca.fewshot import plots  # with it comes matplotlib, 26 MB

    report = Report("Predictions", words)
    shown = f"The first {plots.LARGEST_GALLERY} images" if len(pixels) > plots.LARGEST_GALLERY else "The images"
    below = "" if examples is None else ", below one example of each class"
    report.figure(
        plots.prediction_gallery(examples, pixels, labels, probabilities),
        f"{shown} with label and probability, as the model sees them{below}.",
    )
    return report


def training_report(
    run: Run, data: str, steps: int, model: MCRNet, result: TrainResult | None, why: str = ""
) -> Report:
    """The page of a training on `data`: what the model is made of, curves, validation.

    Without a result, of a training that stopped, and why.
    """
    from pauca.fewshot import plots  # with it comes matplotlib, 26 MB

    report = Report("Few-shot training", f"{data}, {steps} steps")
    if result is None:
        report.text(f"The training stopped before its end: {why}. The curves end there.")
    config = model.config
    parameters = parameter_count(model)
    report.table(
        ["backbone", "base learner", "latent", "parameters", "best step"],
        [
            [
                config.backbone,
                config.base_learner,
                config.latent.mode,
                parameters,
                result.best_step if result is not None else "",
            ]
        ],
    )
    report.figure(plots.training_curves(run.metrics()), "Loss of the training episodes, accuracy on validation.")
    if result is not None and result.validation is not None:
        report.heading("Validation")
        report.text(f"Accuracy {result.validation.summary()} (95 % intervals).")
        report.figure(plots.reliability(result.validation), "Confidence and accuracy.")
    return report


def describe_evaluation(
    report: Report,
    model: FewShotModel,
    images: ImageSet,
    features: Tensor,
    results: dict[int, Evaluation],
    map_by: MapMethod,
) -> None:
    """Add an evaluation to its page: tables, an episode, confusions, calibration, maps of features and codes.

    Args:
        report: to add to.
        model: that was tested, on the CPU.
        images: that it was tested on.
        features: of those images.
        results: by shot.
        map_by: how to lay features out in two dimensions.
    """
    from pauca.fewshot import plots  # with it comes matplotlib, 26 MB

    seen = next(iter(results.values())).seen_warning()
    if seen:
        report.text(seen)
    rows = [
        [
            shot,
            str(r.accuracy),
            f"± {100 * r.accuracy_over_classes.half_width:.2f}",
            len(r.episodes),
            r.class_count,
            "" if r.calibration_with_temperature is None else round(r.calibration_with_temperature.expected_error, 3),
            round(r.calibration.expected_error, 3),
        ]
        for shot, r in results.items()
    ]
    report.table(
        ["shot", "accuracy %", "over classes", "episodes", "classes", "calibration error", "without temperature"],
        rows,
        "Mean with its 95 % intervals: over other episodes of these classes, and over other classes of the same kind. "
        "Calibration errors: with the temperature that a classifier finds in its examples, and of the model's own "
        "confidence.",
    )
    shot, result = max(results.items())
    task = result.episodes[:1]
    logits = model.classify(features[task.support], task.support_labels, features[task.query], task.way)
    report.figure(
        plots.episode_gallery(images, task, logits),
        f"One {shot}-shot episode: the examples on the left; on the right queries and what they were taken for.",
    )
    report.figure(plots.confusion_matrix(result), f"The classes with the most mistakes, {shot}-shot.")
    pairs = [[true, predicted, count] for true, predicted, count in result.confused_pairs()]
    report.table(["true", "taken for", "queries"], pairs, "The most frequent confusions.")
    by_class = sorted(zip(result.class_accuracy.tolist(), result.class_names, strict=True))
    hardest = [[name, f"{100 * share:.1f}"] for share, name in by_class if not np.isnan(share)][:20]
    report.table(["class", "accuracy %"], hardest, f"The hardest classes, {shot}-shot; evaluation.json has all.")
    report.figure(plots.reliability(result), "Confidence and accuracy.")
    some = (images.labels < 10).nonzero().squeeze(1)
    some = some[:: -(-len(some) // 1000)]  # more take minutes and show no more
    by = "UMAP" if map_by == "umap" else "t-SNE"
    drawn = plots.feature_map(features[some], images.labels[some], images.class_names, method=map_by)
    report.figure(drawn, f"Features, by {by}.")
    if isinstance(model, MCRNet) and model.stem is not None:
        few = ImageSet(images.images[some], images.labels[some], images.class_names, images.split)
        codes = plots.latent_codes(model, few)
        drawn = plots.feature_map(codes, few.labels, few.class_names, method=map_by)
        report.figure(drawn, f"Latent codes, by {by}.")
        if model.stem.decoder is not None:
            report.figure(plots.reconstructions(model, images), "Images and their reconstructions.")
