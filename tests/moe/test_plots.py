"""Figures of trainings show what was logged."""

import math

from pauca.moe.plots import gradient_curve, health_curves, load_curves, loss_curves

LINES = [
    {"step": 0, "underflow.x/first": 0.1, "underflow.x/last": 0.2, "inexact.rows/first": 0.0},
    {"step": 10, "cross_entropy": 3.0, "gradient_norm": 1.0, "learning_rate": 0.1, "load_imbalance/first": 2.0},
    {"step": 20, "cross_entropy": "nan", "gradient_norm": "inf", "learning_rate": 0.2, "load_imbalance/first": 1.0},
    {"step": 20, "validation_loss": 2.5},
]


def test_losses_of_several_runs_are_told_apart():
    axis = loss_curves({"bf16": LINES, "fp4": LINES[:2]}).axes[0]
    labels = [line.get_label() for line in axis.lines]
    assert labels == ["bf16, training", "bf16, validation", "fp4, training"]
    steps, losses = axis.lines[0].get_data()
    assert list(steps) == [10, 20]
    assert losses[0] == 3.0
    assert math.isnan(losses[1])
    assert axis.lines[0].get_color() != axis.lines[2].get_color()


def test_each_measure_has_a_panel_and_each_layer_a_line():
    figure = health_curves(LINES)
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in panels] == [
        "input: became zero",
        "rows of FC1's input: lost bits under a shared scale",
    ]
    assert [len(axis.lines) for axis in panels] == [2, 1]
    assert health_curves(LINES[1:]) is None


def test_loads_and_gradients_are_drawn():
    assert list(load_curves(LINES).axes[0].lines[0].get_ydata()) == [2.0, 1.0]
    assert list(gradient_curve(LINES).axes[1].lines[0].get_ydata()) == [0.1, 0.2]


def test_an_empty_log_is_drawn_empty():
    for figure in (loss_curves({"bf16": []}), gradient_curve([]), load_curves([])):
        figure.canvas.draw()
        assert [axis.get_xlabel() for axis in figure.axes] == ["step"] * len(figure.axes)
        assert not [line for axis in figure.axes for line in axis.lines if len(line.get_xdata())]
