"""The verbs for a user's own images, `fit` and `predict`: a few examples in, a classifier or answers out."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import Positional, arg

from pauca import fewshot
from pauca.errors import ConfigError, InputError
from pauca.fewshot.answers.examples import ExampleError
from pauca.fewshot.data.folder import Listing, Unreadable, list_folder, list_images, read_files
from pauca.fewshot.data.image_set import is_saved_set, read_images
from pauca.fewshot.model import read_safetensors
from pauca.fewshot.named import BaseLearnerName, open_for_images
from pauca.fewshot.reports import predictions_report, write_predictions
from pauca.fewshot.types import ImageSet
from pauca.fewshot.views_at_test import AS_IT_IS, ViewsAtTest
from pauca.runs import check_can_write
from pauca.typed import named_once


def fit(
    examples: Positional[Annotated[Path | None, arg(metavar="EXAMPLES")]] = None,
    support: Path | None = None,
    backbone: str = "efficientnet-lite0",
    out: Path = Path("classifier.safetensors"),
    base_learner: BaseLearnerName | None = None,
    reject: float | None = None,
    confidence: float | None = None,
    export: Path | None = None,
    report: bool = False,
    unreadable: Unreadable = "refuse",
    views: ViewsAtTest = AS_IT_IS,
    device: str = "auto",
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Learn your own classes from a few examples each, and write the classifier to one file.

    `pauca fewshot predict FILE --query ...` then answers without the examples.

    Args:
        examples: folder or zip archive with a folder of examples for each class.
        support: the examples, where they are not named by their place.
        backbone: a model's file, or any network: timm:NAME, hf:NAME_OR_FOLDER, onnx:FILE, or efficientnet-lite0.
        out: file to write (.safetensors).
        base_learner: classifier in place of the model's own.
        reject: call images unknown that fit no class, allowing so large a share of mistakes on known classes.
        confidence: keep that share for this very fit, so often (such as 0.9); otherwise on average over tasks.
        export: also write the classifier, from image to probabilities, to this ONNX file.
        report: say what accuracy to expect, how sure the classifier is, and how well it tells strangers apart.
        unreadable: stop at damaged images and name them, or leave them out.
        views: in which views the images are seen.
        device: where to compute: auto (the GPU if there is one), cpu, cuda or cuda:N.
        force: replace files that are there already.
        quiet: print only errors and the report.
    """
    support = named_once(examples, support)
    for path in filter(None, (out, export)):
        check_can_write(path, force)
    network = open_for_images(backbone, base_learner)
    _check_confidence(confidence, reject)
    classifier = fewshot.FewShotClassifier(
        network, reject, device=device, views=views, confidence=confidence, verbose=not quiet
    )
    learned = _learn(classifier, support, unreadable)
    classifier.save(out, force)
    if export is not None:
        classifier.export(export, force)
    if report:
        print("\n".join(report_lines(classifier)))
    if not quiet:
        written = f"{out} and {export}" if export else out
        print(f"learned {len(classifier.classes_)} classes from {len(learned)} examples: {written}")


def predict(
    model: Positional[Annotated[str | None, arg(metavar="MODEL")]] = None,
    backbone: str | None = None,
    support: Path | None = None,
    query: Path | None = None,
    out: Path = Path("predictions.csv"),
    base_learner: BaseLearnerName | None = None,
    reject: float | None = None,
    confidence: float | None = None,
    unreadable: Unreadable = "refuse",
    views: ViewsAtTest = AS_IT_IS,
    device: str = "auto",
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Classify your own images from a few examples; write a table and a gallery.

    Writes the table (file, label, probability of each class) to `out`, and beside it a page with the pictures. Says
    what accuracy to expect.

    Args:
        model: a classifier that `fit` wrote, which needs no --support; a model's file; or any backbone.
        backbone: in place of a model, any network: timm:NAME, hf:NAME_OR_FOLDER, onnx:FILE, or efficientnet-lite0.
        support: folder or zip archive with a folder of examples for each class.
        query: folder or zip archive of images to classify, or one image.
        out: table to write (.csv).
        base_learner: classifier in place of the model's own.
        reject: call images unknown that fit no class, allowing so large a share of mistakes on known classes.
        confidence: keep that share for this very fit, so often (such as 0.9); otherwise on average over tasks.
        unreadable: stop at damaged images and name them, or leave them out.
        views: in which views the images are seen.
        device: where to compute: auto (the GPU if there is one), cpu, cuda or cuda:N.
        force: replace results that are there already.
        quiet: print only errors.
    """
    if (model is None) == (backbone is None):
        raise ConfigError("give a model or --backbone" + (", and not both" if model else ""))
    if query is None:
        raise ConfigError("no images to classify; name them by --query")
    check_can_write(out, force)
    page = out.with_suffix(".html")
    check_can_write(page, force)
    name = model or backbone or ""
    options: dict[str, Any] = {"reject": reject, "confidence": confidence, "verbose": not quiet}
    fitted = _is_fitted(name)
    if fitted:
        if support is not None or base_learner is not None or views != AS_IT_IS:
            told = "--support, --base-learner, --mirror, --crops and --turns"
            raise ConfigError(f"{name}: is fitted already; leave out {told}")
        with spoken_warnings():
            classifier = fewshot.FewShotClassifier.load(name, device)
        classifier.set_params(**{key: value for key, value in options.items() if value is not None})
        _check_confidence(confidence, classifier.reject)
        examples = None
    else:
        if support is None:
            raise ConfigError(f"{name}: knows none of your classes yet; give --support, a folder of examples of each")
        network = open_for_images(name, base_learner)
        _check_confidence(confidence, reject)
        classifier = fewshot.FewShotClassifier(network, device=device, views=views, **options)
        examples = _learn(classifier, support, unreadable)
    config = classifier.model_.config
    told = config.image_size, config.channels, unreadable, config.fitting, quiet
    with spoken_warnings():
        pixels, files = read_files(list_images(query), *told)
        answers = classifier.answer(pixels)
    names = [image.name for image in files]
    write_predictions(out, list(classifier.classes_), names, answers.labels, answers.probabilities, force)
    learned = name if examples is None else f"{len(examples)} examples of {support}"
    words = f"{len(files)} images of {query}, {learned}"
    predictions_report(words, examples, pixels, answers.labels, answers.probabilities).save(page, force)
    if not quiet:
        print(f"classified {len(files)} image{'' if len(files) == 1 else 's'}: {out} and {page}")
        print(_expectation(classifier))


def report_lines(classifier: fewshot.FewShotClassifier) -> list[str]:
    """What a fitted classifier says of itself, a fact a line."""
    counts = np.bincount(classifier.targets_.cpu().numpy())
    lines = [
        f"classes: {', '.join(f'{name} ({n})' for name, n in zip(classifier.classes_, counts, strict=True))}",
        _expectation(classifier),
        f"temperature: {classifier.temperature_:.2f}",
    ]
    auroc = classifier.unknown_auroc()
    if auroc is None:
        lines.append("strangers: three classes with two examples are needed to say how well they are told apart")
    else:
        lines.append(f"strangers: farther from all classes than a known image in {100 * auroc:.0f} % of pairs (AUROC)")
    if classifier.reject is not None:
        if np.isinf(classifier.threshold_):
            lines.append("unknown: nothing is rejected, for want of examples")
        else:
            kept = "on average" if classifier.confidence is None else f"with confidence {classifier.confidence:g}"
            lines.append(
                f"unknown: farther than {classifier.threshold_:.3f}; no more than {100 * classifier.reject:g} % of "
                f"known images are lost {kept}"
            )
    return lines


def _expectation(classifier: fewshot.FewShotClassifier) -> str:
    try:
        return f"accuracy to expect: {classifier.expected_accuracy()}"
    except ExampleError as error:
        return f"accuracy to expect: not known; {error}"


def _learn(classifier: fewshot.FewShotClassifier, support: Path, unreadable: Unreadable) -> ImageSet:
    """Fit to the examples of a folder."""
    config = classifier.model.config
    told = {"unreadable": unreadable, "fitting": config.fitting, "quiet": not classifier.verbose}
    with spoken_warnings():
        listing = None if is_saved_set(support) else list_folder(support)
        examples = read_images(support, config.image_size, config.channels, listing=listing, **told)
        if listing is not None:
            _warn_of_splits(support, listing)
        labels = np.array(examples.class_names)[examples.labels.numpy()]
        classifier.fit(examples.images, labels)
    return examples


def _warn_of_splits(support: Path, listing: Listing) -> None:
    """Say that what was put aside to test on is learned, too."""
    splits = {file.split for file in listing.files if file.class_name}
    if len(splits) > 1:
        warnings.warn(
            f"{support}: learned from {' and '.join(sorted(splits))} alike; name one of these folders to learn from it "
            "alone",
            stacklevel=2,
        )


@contextmanager
def spoken_warnings(by_all: bool = True) -> Iterator[None]:
    """What is warned of as sentences, each once, without the place in the code; of several processes, by one."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    for sentence in dict.fromkeys(str(warning.message) for warning in said if by_all):
        print(f"warning: {sentence}", file=sys.stderr)


def _check_confidence(confidence: float | None, reject: float | None) -> None:
    if confidence is not None and reject is None:
        raise ConfigError(
            f"--confidence {confidence:g}: says how surely the share of --reject is kept, and nothing is rejected; "
            "give --reject, too"
        )


def _is_fitted(name: str) -> bool:
    """Whether a name is that of a fitted classifier's file."""
    if not Path(name).is_file():
        return False
    try:
        return "pauca.fewshot.classifier" in read_safetensors(name)[1]
    except InputError:
        return False
