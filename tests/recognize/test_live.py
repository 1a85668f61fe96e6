"""A stream is named as soon as the evidence suffices, and in bounded time in any case."""

from itertools import pairwise

import numpy as np
import pytest

from pauca import events
from pauca.errors import ConfigError
from pauca.recognize import EventClassifier, LiveConfig, decide

from .scenes import recording, recordings


@pytest.fixture(scope="module")
def fitted() -> EventClassifier:
    return EventClassifier().fit(*recordings(range(4)))


def _chunks(stream: events.Events, chunk_us: int = 5_000):
    edges = np.arange(0, stream.t_us[-1] + chunk_us + 1, chunk_us)
    for begin, end in pairwise(np.searchsorted(stream.t_us, edges)):
        yield stream[begin:end]


def test_a_label_comes_before_the_recording_ends_and_not_at_once(fitted):
    found = list(decide(fitted, _chunks(recording(0, 5).events), LiveConfig(confidence=0.5)))
    labeled = [decision for decision in found if decision.label is not None]
    assert labeled[0].label == "thing 0"
    assert labeled[0].certain
    assert found[0].label is None  # one window is never enough
    assert labeled[0].t_us < 250_000


def test_patience_bounds_the_wait_and_the_answer_is_marked_as_uncertain(fitted):
    found = list(decide(fitted, _chunks(recording(1, 5).events), LiveConfig(confidence=0.9999, patience_s=0.1)))
    labeled = [decision for decision in found if decision.label is not None]
    assert labeled
    assert not any(decision.certain for decision in labeled)
    assert all(decision.waited_s < 0.1 + 0.12 for decision in labeled)  # a window may last so much longer
    assert all(decision.label == decision.best for decision in labeled)


def test_after_a_label_the_evidence_is_gathered_anew(fitted):
    first, second = recording(0, 5).events, recording(3, 5).events
    later = events.Events(second.t_us + 300_000, second.x, second.y, second.p, second.size)
    stream = [*_chunks(first), *_chunks(later)]
    labels = [d.label for d in decide(fitted, stream, LiveConfig(confidence=0.5)) if d.label is not None]
    assert labels[0] == "thing 0"
    assert labels[-1] == "thing 3"


def test_a_stream_without_events_says_nothing(fitted):
    assert list(decide(fitted, [recording(0, 0).events[:0]] * 3)) == []
    assert list(decide(fitted, [])) == []


@pytest.mark.parametrize("wrong", [{"confidence": 1.0}, {"confidence": 0.0}, {"patience_s": 0.0}, {"deadline_s": -1.0}])
def test_settings_that_never_decide_are_refused(wrong):
    with pytest.raises(ConfigError):
        LiveConfig(**wrong)
