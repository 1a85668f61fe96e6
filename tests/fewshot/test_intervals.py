"""Intervals over episodes and over classes, by simulation: what a 95 % interval promises, it keeps."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pauca.fewshot.intervals import class_interval, mean_interval, p_value
from pauca.fewshot.types import PADDING


def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "fewshot_intervals.py"
    spec = importlib.util.spec_from_file_location("fewshot_intervals", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("classes", "way"), [(20, 5), (8, 5)])
def test_the_interval_over_classes_holds_the_truth_and_that_over_episodes_does_not(classes, way):
    """80 sets: 0.95 has a standard error of 0.024. With 8 classes of 5 ways only accuracies by class speak."""
    for over_episodes, over_classes, width in benchmark().coverage(classes, way, 1, 120, 80).values():
        assert over_classes >= 0.86
        assert width < 1.6  # a promise kept by a wide margin would say nothing
        assert over_episodes < 0.75


def test_the_variance_is_that_of_a_mean_where_classes_act_alone():
    """If each class has its own accuracy whatever it is drawn with, the interval is Student's over the classes."""
    generator = np.random.default_rng(0)
    of_class = generator.uniform(0.4, 0.9, 20)
    classes = np.argsort(generator.random((4000, 20)), 1)[:, :5]
    values = of_class[classes].mean(1)
    ours = class_interval(values, classes, of_class)
    assert ours.half_width == pytest.approx(mean_interval(of_class).half_width, rel=0.03)


def test_too_few_episodes_are_not_known_better_than_their_spread():
    generator = np.random.default_rng(0)
    classes = np.argsort(generator.random((30, 20)), 1)[:, :5]
    values = generator.uniform(0, 1, 30)  # classes do not matter
    interval = class_interval(values, classes, np.full(20, 0.5))
    assert interval.half_width >= stats.t.ppf(0.975, 19) * values.std(ddof=1) / np.sqrt(30) - 1e-12


def test_episodes_of_several_ways_are_measured_against_their_own():
    """Accuracy depends on the way alone: the classes add nothing, and padding is no class."""
    generator = np.random.default_rng(0)
    classes = np.argsort(generator.random((600, 20)), 1)[:, :5]
    classes[::2, 3:] = PADDING
    values = np.where(np.arange(600) % 2, 0.5, 0.8)
    half_width = class_interval(values, classes, np.full(20, 0.65)).half_width
    assert half_width == pytest.approx(stats.t.ppf(0.975, 19) * values.std(ddof=1) / np.sqrt(600))


def test_one_class_or_episode_has_no_interval():
    classes = np.array([[0, 1]])
    assert class_interval(np.array([0.5]), classes, np.array([0.5, np.nan])).half_width == float("inf")
    assert class_interval(np.array([0.5]), classes, np.array([0.5, 0.6])).half_width == float("inf")


def test_the_p_value_is_that_of_students_test():
    values = np.random.default_rng(0).normal(0.02, 0.1, 50)
    assert p_value(mean_interval(values), 50) == pytest.approx(float(stats.ttest_1samp(values, 0.0).pvalue))
    assert p_value(mean_interval(np.zeros(50)), 50) == 1.0
    assert p_value(mean_interval(np.ones(50)), 50) == 0.0
