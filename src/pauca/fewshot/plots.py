"""Figures of few-shot tasks and models, each a function from data to Figure."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pauca.errors import InputError
from pauca.fewshot.embedding import images_per_pass
from pauca.fewshot.evaluation import Evaluation
from pauca.fewshot.model import MCRNet
from pauca.fewshot.named import MapMethod
from pauca.fewshot.types import PADDING, Episodes, ImageSet

LARGEST_GALLERY = 60  # images; more make a picture that nobody looks through
_RIGHT, _WRONG = "#1a7f5a", "#c0392b"


def episode_gallery(
    images: ImageSet,
    episodes: Episodes,
    logits: Float[Tensor, "e q way"],
    episode: int = 0,
    queries_per_class: int = 6,
) -> Figure:
    """One episode as a person sees it: a row for each class, its support on the left, some queries on the right, framed
    by whether they were recognized and titled with what they were taken for."""
    task = episodes[episode : episode + 1]
    predicted = logits[episode].argmax(-1).cpu()
    way = int((task.classes[0] != PADDING).sum())
    names = [images.class_names[int(label)] for label in task.classes[0][:way]]
    used = task.support_labels[0] != PADDING
    shots = int(torch.bincount(task.support_labels[0][used], minlength=way).max())
    widths = [1.0] * shots + [0.3] + [1.0] * queries_per_class  # a narrow gap between support and queries
    figure = Figure(figsize=(1.1 * sum(widths), 1.25 * way + 0.4), layout="constrained")
    axes = figure.subplots(way, len(widths), squeeze=False, width_ratios=widths)
    for axis in axes.flat:
        axis.set_axis_off()
    for row in range(way):
        support = task.support[0][task.support_labels[0] == row]
        for axis, place in zip(axes[row], support, strict=False):
            _show(axis, images.images[place], "")
        axes[row][0].set_title(_short(names[row]), fontsize=8, loc="left")
        asked = (task.query_labels[0] == row).nonzero().squeeze(1)[:queries_per_class]
        for axis, slot in zip(axes[row][shots + 1 :], asked, strict=False):
            answer = int(predicted[slot])
            color = _RIGHT if answer == row else _WRONG
            _show(axis, images.images[task.query[0][slot]], _short(names[answer]), color)
    return figure


def prediction_gallery(
    examples: ImageSet | None,
    images: UInt8[Tensor, "n c h w"],
    predicted: Shaped[np.ndarray, "n"],
    probabilities: Float[np.ndarray, "n classes"],
    largest: int = LARGEST_GALLERY,
) -> Figure:
    """Queries with their label and its probability, below one example of each class, where there are examples."""
    way = 0 if examples is None else len(examples.class_names)
    columns = max(6, min(way, 12))
    rows_above, shown = -(-way // columns), min(len(images), largest)
    rows = rows_above + -(-shown // columns)
    figure = Figure(figsize=(1.25 * columns, 1.45 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    if examples is not None:
        for label, axis in zip(range(way), axes.flat, strict=False):
            first = int((examples.labels == label).nonzero()[0])
            _show(axis, examples.images[first], f"example: {_short(examples.class_names[label])}", "#35627d")
    for i, axis in zip(range(shown), axes[rows_above:].flat, strict=False):
        _show(axis, images[i], f"{_short(str(predicted[i]))} {probabilities[i].max():.2f}")
    return figure


def confusion_matrix(evaluation: Evaluation, largest: int = 20) -> Figure:
    """Shares of each true class's queries by predicted class, for the classes with the most mistakes."""
    rates = evaluation.confusion / np.maximum(evaluation.confusion.sum(1, keepdims=True), 1)
    asked = int((evaluation.confusion.sum(1) > 0).sum())
    hardest = np.argsort(evaluation.class_accuracy, kind="stable")[:asked]  # NaN, never asked, comes last
    chosen = np.sort(hardest[:largest])
    names = [_short(evaluation.class_names[i]) for i in chosen]
    size = 2 + 0.28 * len(chosen)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axis = figure.subplots()
    # From 0 to the largest: where there are many classes, mistakes spread over them and all shares are small.
    picture = axis.imshow(rates[np.ix_(chosen, chosen)], cmap="viridis", vmin=0)
    axis.set_xticks(range(len(chosen)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(chosen)), names, fontsize=7)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    figure.colorbar(picture, ax=axis, label="share of the true class's queries", shrink=0.8)
    return figure


def reliability(evaluation: Evaluation) -> Figure:
    """Observed accuracy against stated confidence; on the dotted line the model knows how sure it may be. The larger a
    dot, the more answers it stands for. Beside the answers of a classifier, with its temperature, the model's own."""
    figure = Figure(figsize=(4.2, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], ":", color="gray")
    own, warm = evaluation.calibration, evaluation.calibration_with_temperature
    shown = [(own, _RIGHT, "")]
    if warm is not None:
        shown = [(own, "gray", "without temperature"), (warm, _RIGHT, "with the classifier's temperature")]
    for calibration, color, label in shown:
        filled = calibration.counts > 0
        sizes = 10 + 190 * calibration.counts[filled] / calibration.counts.max()
        stated, observed = calibration.confidence[filled], calibration.accuracy[filled]
        axis.scatter(stated, observed, s=sizes, color=color, alpha=0.7, clip_on=False)  # whole at the corner, too
        axis.plot([], [], "o", color=color, alpha=0.7, label=label)
    if len(shown) > 1:
        axis.legend(fontsize=8, loc="upper left")
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="stated confidence", ylabel="observed accuracy")
    axis.set_title(f"expected {evaluation.calibration_summary()}", fontsize=8)
    return figure


def feature_map(
    features: Float[Tensor, "n d"],
    labels: Int64[Tensor, "n"],
    class_names: Sequence[str],
    seed: int = 0,
    method: MapMethod = "tsne",
) -> Figure:
    """Features or latent codes in two dimensions, by t-SNE or UMAP, a color for each class."""
    if len(features) < 5:
        raise InputError(f"a map of features needs at least 5 images, not {len(features)}")
    if method == "umap":
        neighbors = min(15, len(features) - 1)
        mapper = import_umap()(n_neighbors=neighbors, init="pca", random_state=seed, n_jobs=1)
    else:
        from sklearn.manifold import TSNE  # only maps need it

        mapper = TSNE(perplexity=min(30.0, (len(features) - 1) / 3), init="pca", random_state=seed)
    places = mapper.fit_transform(features.cpu().numpy())
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    axis = figure.subplots()
    present: list[int] = labels.unique().tolist()
    groups = [axis.scatter(*places[(labels == label).cpu().numpy()].T, s=12) for label in present]
    if len(present) <= 20:
        # Named here: matplotlib leaves out artists whose own label begins with an underscore.
        names = [_short(class_names[label]) for label in present]
        axis.legend(groups, names, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.set(xticks=[], yticks=[])
    return figure


def import_umap() -> Any:
    """UMAP's estimator; a package of its own, because few need it.

    Raises:
        InputError: it is not installed.
    """
    try:
        from umap import UMAP  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; pip install umap-learn, or draw the map by tsne") from error
    return UMAP


@torch.no_grad()
def latent_codes(model: MCRNet, images: ImageSet) -> Float[Tensor, "n d"]:
    """Mean latent codes, averaged over 4x4 fields so that their map shows content and not single pixels."""
    if model.stem is None:
        raise InputError("this model has no latent space (latent mode none)")
    per_pass = images_per_pass("cpu", images.images)
    codes = [model.stem.mean(model.normalize(batch)) for batch in images.images.split(per_pass)]
    return torch.nn.functional.adaptive_avg_pool2d(torch.cat(codes), 4).flatten(1)


@torch.no_grad()
def reconstructions(model: MCRNet, images: ImageSet, count: int = 10) -> Figure:
    """Images above what the decoder makes of their mean latent codes."""
    if model.stem is None:
        raise InputError("this model has no latent space (latent mode none)")
    chosen = images.images[torch.linspace(0, len(images) - 1, count).long()]
    decoded = model.stem.reconstruct(model.stem.mean(model.normalize(chosen)))
    decoded = (decoded * model.deviation[:, None, None] + model.mean[:, None, None]).clamp(0, 1)
    figure = Figure(figsize=(count, 2.3), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False)
    for column in range(count):
        for row, picture in enumerate((chosen[column], (255 * decoded[column]).byte())):
            axes[row][column].set_axis_off()
            _show(axes[row][column], picture, "")
    return figure


def training_curves(metrics: Iterable[dict[str, Any]]) -> Figure:
    """Loss of the training episodes and accuracy on the validation episodes, from the lines of `metrics.jsonl`."""
    lines = list(metrics)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    trained = [line for line in lines if "cross_entropy" in line]
    loss.plot([line["step"] for line in trained], [line["cross_entropy"] for line in trained], color="#35627d")
    loss.set(xlabel="step", ylabel="cross-entropy (nats)")
    checked = [line for line in lines if "validation_accuracy" in line]
    accuracy.errorbar(
        [line["step"] for line in checked],
        [100 * line["validation_accuracy"] for line in checked],
        [100 * float(line["half_width"]) for line in checked],
        marker="o",
        color=_RIGHT,
    )
    accuracy.set(xlabel="step", ylabel="validation accuracy (%), 95 % interval")
    return figure


def _show(axis: Axes, image: Tensor, title: str, color: str = "black") -> None:
    axis.set_axis_on()
    axis.imshow(image.cpu().permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=7, color=color)
    for side in axis.spines.values():
        side.set_color(color)
        side.set_linewidth(2 if title else 0.5)


def _short(name: str) -> str:
    short = name if len(name) <= 14 else name[:13] + "…"
    return short.replace("$", r"\$")  # matplotlib would read what stands between two as a formula
