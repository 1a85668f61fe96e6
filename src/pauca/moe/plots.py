"""Figures of trainings and plans, each a function from data to Figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pauca.moe.layer.recipe import Precision
from pauca.moe.plan.task import Plan, PlanTask

Lines = Sequence[Mapping[str, Any]]
"""What `Run.metrics` yields, as a list."""

_COLORS = ("#1a7f5a", "#c0392b", "#2c5f9e", "#b8860b", "#6c4a9e", "#555555")
_MEASURES = {"underflow": "became zero", "saturation": "saturated", "inexact": "lost bits under a shared scale"}
_MATRICES = {
    "x": "input",
    "z": "FC1's output",
    "dy": "gradient of the output",
    "rows": "rows of FC1's input",
    "columns": "its columns",
}


def loss_curves(runs: Mapping[str, Lines]) -> Figure:
    """Cross entropy against steps, of one or several runs by name: training thin, validation in dots."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    for (name, lines), color in zip(runs.items(), _COLORS * len(runs), strict=False):
        steps, losses = _series(lines, "cross_entropy")
        axis.plot(steps, losses, color=color, alpha=0.55, linewidth=1, label=f"{name}, training")
        steps, losses = _series(lines, "validation_loss")
        if len(steps):
            axis.plot(steps, losses, color=color, marker="o", markersize=4, label=f"{name}, validation")
    _label(axis, "cross entropy / nats per token")
    _legend(axis)
    return figure


def few_bits(losses: Mapping[str, Sequence[float]], kept: Mapping[str, float]) -> Figure:
    """Losses of trainings by recipe, step by step, beside the KiB a token that each recipe keeps."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    window = np.ones(10) / 10
    for (name, values), color in zip(losses.items(), _COLORS, strict=False):
        smooth = np.convolve(values, window, "valid")
        left.plot(len(values) - len(smooth) + 1 + np.arange(len(smooth)), smooth, color=color, label=name)
    _label(left, "cross entropy / nats per token")
    left.legend(fontsize=8)
    bars = right.barh(list(kept), list(kept.values()), color=_COLORS[: len(kept)])
    right.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    right.set_xlim(0, 1.15 * max(kept.values()))
    right.set_xlabel("KiB kept per token", fontsize=8)
    right.tick_params(labelsize=8)
    right.invert_yaxis()
    return figure


def gradient_curve(lines: Lines) -> Figure:
    """Norm of the gradient before clipping, and the learning rate."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*_series(lines, "gradient_norm"), color=_COLORS[0], linewidth=1)
    _label(left, "gradient norm")
    left.set_ylim(bottom=0)
    right.plot(*_series(lines, "learning_rate"), color=_COLORS[2])
    _label(right, "learning rate")
    return figure


def load_curves(lines: Lines) -> Figure:
    """How evenly each layer's experts are used."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    _layers(left, lines, "load_imbalance", "tokens of the busiest expert / mean")
    _layers(right, lines, "load_entropy", "entropy of the load / largest possible")
    _legend(left)
    return figure


def health_curves(lines: Lines) -> Figure | None:
    """What each layer's formats lose, a panel for each measure and matrix; None if nothing was measured."""
    found = {name.split("/")[0]: None for line in lines for name in line if name.split(".")[0] in _MEASURES}
    if not found:
        return None
    columns = 2
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(8, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, name in zip(axes, found, strict=False):
        measure, matrix = name.split(".")
        _layers(axis, lines, name, "share of the nonzero")
        axis.set_ylim(bottom=0)
        axis.set_title(f"{_MATRICES[matrix]}: {_MEASURES[measure]}", fontsize=9)
    for axis in list(axes)[len(found) :]:
        axis.set_axis_off()
    _legend(figure.axes[0])
    return figure


# Parts of a GPU's memory: grays for what is there before a token is seen.
_PARTS = {
    "reserved": "#d9d9d9",
    "weights": "#9a9a9a",
    "gradients": "#7a7a7a",
    "optimizer": "#5a5a5a",
    "FP8 weights": "#e0b13c",
    "activations": "#2a7f62",
    "working set": "#8fc7b0",
}


def plan_figure(task: PlanTask, plans: Mapping[Precision, Plan]) -> Figure:
    """For each recipe's best plan a bar of memory, part by part, beside what a GPU has, and one of speed."""
    figure = Figure(figsize=(10, 1.1 + 0.8 * len(plans)), layout="constrained")
    memory, speed = figure.subplots(1, 2, width_ratios=(3, 1))
    places, left = range(len(plans)), [0.0] * len(plans)
    for part, color in _PARTS.items():
        sizes = [plan.memory[part] / 1e9 for plan in plans.values()]
        memory.barh(places, sizes, left=left, color=color, label=part, edgecolor="white", linewidth=0.5)
        left = [start + size for start, size in zip(left, sizes, strict=True)]
    memory.axvline(task.memory / 1e9, color=_COLORS[1], linestyle="--", label="a GPU's memory")
    names = [f"{recipe}\n{plan.way.layout}\nrecomputes {plan.way.policy}" for recipe, plan in plans.items()]
    memory.set_yticks(places, names, fontsize=8)
    memory.set_xlabel("GB on the fullest GPU")

    rates = [plan.tokens_per_second if plan.lacks <= 0 else 0.0 for plan in plans.values()]
    bars = speed.barh(places, rates, color=_COLORS[2])
    speed.bar_label(bars, [f"{rate:,.0f}" if rate else "does not fit" for rate in rates], padding=3, fontsize=8)
    speed.set_yticks([])
    speed.set_xlim(0, 1.35 * max(rates))
    speed.set_xlabel("tokens/s a GPU")
    for axis in (memory, speed):
        axis.invert_yaxis()
    figure.suptitle(f"{task.shape.name} on {task.gpus} GPUs of {task.memory / 1e9:.4g} GB", fontsize=10)
    figure.legend(*memory.get_legend_handles_labels(), loc="outside lower center", ncols=len(_PARTS) + 1, fontsize=8)
    return figure


def _layers(axis: Axes, lines: Lines, name: str, label: str) -> None:
    """A line for each layer, from dark (first) to light (last)."""
    layers = list(dict.fromkeys(key.split("/")[1] for line in lines for key in line if key.startswith(f"{name}/")))
    for place, layer in enumerate(layers):
        color = colormaps["viridis"](0.85 * place / max(1, len(layers) - 1))
        shown = layer if place in (0, len(layers) - 1) else None
        axis.plot(*_series(lines, f"{name}/{layer}"), color=color, linewidth=1, marker=".", markersize=3, label=shown)
    _label(axis, label)


def _series(lines: Lines, name: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(line["step"], float(line[name])) for line in lines if name in line]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(steps), np.array(values)


def _label(axis: Axes, label: str) -> None:
    axis.set_xlabel("step", fontsize=8)
    axis.set_ylabel(label, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)


def _legend(axis: Axes) -> None:
    if axis.get_legend_handles_labels()[0]:  # a run that stopped at once has logged nothing
        axis.legend(fontsize=8)
