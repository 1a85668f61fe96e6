"""A round of questions is answered as each of them alone."""

import numpy as np
import pytest
import torch

from pauca.events import AlignConfig, Aligner, Events
from pauca.events.device import engine as device_engine
from pauca.events.device.engine import Engine

from ..scenes import CAMERA, random_events

COUNT = 4_000
ROWS = ((0, 0), (2, 0), (0, 1), (1, 0), (0, 0), (1, 1), (0, 1))  # level, whether about parts


def engine_and_events(slots: int) -> tuple[Engine, list[Events]]:
    aligner = Aligner(CAMERA, AlignConfig(border=20))
    rng = np.random.default_rng(slots)
    windows = [
        random_events(
            np.sort(rng.integers(0, 50_000, COUNT)), x=rng.integers(0, CAMERA.size[0], COUNT), size=CAMERA.size
        )
        for _ in range(slots)
    ]
    return Engine(torch.device("cpu"), CAMERA, aligner.scorers, slots, COUNT), windows


def asked(count: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    rows = [(*ROWS[i % len(ROWS)], 300 * i, 500 + 40 * i, 25_000) for i in range(count)]
    return np.hstack([np.array(rows, float), rng.normal(0, 2, (count, 6))])


@pytest.mark.parametrize("most", [1 << 21, 1_000], ids=["at once", "sums of few packets at a time"])
def test_a_round_is_answered_as_each_question_alone(monkeypatch, most):
    monkeypatch.setattr(device_engine, "_ROWS_AT_ONCE", most)
    engine, windows = engine_and_events(1)
    engine.take([windows])
    questions = asked(len(ROWS))
    alone = [engine.answer(row[None])[0] for row in questions]
    for some in (questions[:3], questions, questions[:1]):  # longer messages than before, and shorter ones
        for answer, expected in zip(engine.answer(some), alone, strict=False):
            np.testing.assert_array_equal(answer, expected)
    assert {len(answer) for answer in alone} == {26, 180}


def test_answers_stay_when_the_next_round_is_answered():
    engine, windows = engine_and_events(1)
    engine.take([windows])
    first, *others = asked(3)
    (kept,) = engine.answer(first[None])
    before = kept.copy()
    engine.answer(np.array(others))
    np.testing.assert_array_equal(kept, before)
