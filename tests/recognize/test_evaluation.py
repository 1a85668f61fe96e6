"""What is said of a few recordings: no more than a few recordings show."""

import numpy as np
import pytest
from scipy.stats import binomtest

from pauca.fewshot import mean_interval
from pauca.recognize.evaluation import Outcome, Share


def outcome(right: list[int], right_unaligned: list[int], things: int = 3) -> Outcome:
    truth = np.arange(len(right)) % things
    one_hot = np.eye(things)[truth]
    return Outcome(truth, truth, one_hot, np.array(right, dtype=bool), np.array(right_unaligned, dtype=bool), ())


@pytest.mark.parametrize(("right", "count"), [(9, 9), (0, 9), (1, 1), (15, 18), (11, 18), (500, 1000)])
def test_a_share_has_wilsons_interval(right, count):
    share = Share.of(np.arange(count) < right)
    known = binomtest(right, count).proportion_ci(method="wilson")
    assert (share.mean, share.low, share.high) == pytest.approx((right / count, known.low, known.high), abs=1e-5)


def test_nine_of_nine_right_are_not_said_to_be_sure():
    assert str(Share.of(np.ones(9, dtype=bool))) == "100.0 % (70.1 to 100.0)"


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (2, 0), (6, 0), (0, 6), (9, 1), (5, 5), (40, 20)])
def test_the_gain_is_tested_exactly(won, lost):
    right = [1] * won + [0] * lost + [1, 0]
    unaligned = [0] * won + [1] * lost + [1, 0]
    known = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert outcome(right, unaligned).p_value == pytest.approx(known)


def test_the_gain_over_things_has_its_last_bit_in_every_process():
    generator = np.random.default_rng(0)
    for _ in range(50):  # a set of names comes in another order in each process
        right, unaligned = generator.integers(0, 2, (2, 40)).astype(bool)
        truth = np.array([f"thing {number}" for number in generator.integers(0, 9, 40)])
        found = Outcome(truth, truth, np.ones((40, 9)), right, unaligned, ()).gain_over_classes
        by_name = [(right.astype(float) - unaligned)[truth == name].mean() for name in sorted(set(truth))]
        assert found == mean_interval(np.array(by_name))


def test_two_recordings_that_gain_alike_prove_nothing():
    found = outcome([1, 1], [0, 0], things=2)
    assert found.gain.half_width == 0
    assert found.verdict == "+100.0 points by alignment, no significant difference (p = 0.5)"


def test_what_many_recordings_show_is_said_with_its_interval():
    found = outcome([1] * 30, [0] * 20 + [1] * 10)
    assert "+66.7 points by alignment, a significant difference" in found.verdict
    assert found.as_dict()["aligned"]["low"] == pytest.approx(0.886, abs=1e-3)


def test_one_recording_has_no_interval_of_its_gain_in_json():
    assert outcome([1], [0], things=1).as_dict()["gain"] == {"mean": 1.0, "half_width": None}
