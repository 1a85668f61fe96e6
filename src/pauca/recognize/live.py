"""A stream in, labels out: as soon as the evidence suffices, and "not yet" until then."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pauca import events
from pauca.errors import ConfigError
from pauca.recognize.estimator import EventClassifier
from pauca.recognize.pictures import FEWEST_EVENTS, Picture, picture_of

_TWICE = 2  # windows in a row that must agree: one alone may be an accident


@dataclass(frozen=True)
class LiveConfig:
    """When the evidence suffices, and how long it is waited for."""

    confidence: float = 0.9
    """Probability from which on a label is given."""
    patience_s: float = 1.0
    """Seconds of events after which the best label is given in any case, marked as uncertain."""
    deadline_s: float = 0.1
    """Seconds that an event waits for its window's end."""

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence {self.confidence}: give a probability between 0 and 1")
        if not self.patience_s > 0 or not self.deadline_s > 0:
            raise ConfigError(f"patience_s {self.patience_s} and deadline_s {self.deadline_s} must be positive")


@dataclass(frozen=True)
class Decision:
    """What is known after a window of a stream."""

    t_us: int  # end of the window
    label: Any | None  # None: not yet
    certain: bool  # whether the evidence sufficed, or patience was over
    best: Any  # the most probable label so far
    probability: float  # of that one
    waited_s: float  # since the first event that counts


def decide(
    classifier: EventClassifier, stream: Iterable[events.Events], config: LiveConfig | None = None
) -> Iterator[Decision]:
    """Follow a stream; after each window say what is known, and after a label begin anew.

    Args:
        classifier: fitted.
        stream: events as they come, any number at a time.
        config: when the evidence suffices.
    """
    config = config or LiveConfig()
    evidence: _Evidence | None = None
    for window in stream:
        if len(window) == 0:
            continue
        evidence = evidence or _Evidence(classifier, window.size)
        yield from evidence.push(window, config)
    if evidence is not None:
        yield from evidence.flush(config)


@dataclass(eq=False)
class _Evidence:
    classifier: EventClassifier
    size: tuple[int, int]
    _pictures: list[Picture] = field(default_factory=list)  # of views that have ended
    _recent: list[events.Events] = field(default_factory=list)  # not yet in a window
    _since_us: int | None = None
    _agreed: int = 0
    _last: int = -1

    def __post_init__(self) -> None:
        self._config = self.classifier.picture_config
        self._aligner = self._config.aligner(self.size, self.classifier.camera)
        self._builder = events.ViewBuilder(self._aligner, self._config.view_config())
        self._side = self.classifier.image_size

    def push(self, window: events.Events, config: LiveConfig) -> Iterator[Decision]:
        self._recent.append(window)
        for alignment in self._aligner.push(window, config.deadline_s):
            yield from self._take(alignment, config)

    def flush(self, config: LiveConfig) -> Iterator[Decision]:
        for alignment in self._aligner.flush():
            yield from self._take(alignment, config)

    def _take(self, alignment: events.Alignment, config: LiveConfig) -> Iterator[Decision]:
        finished = self._builder.add(self._events_of(alignment), alignment)
        if finished is not None and finished.n_events >= FEWEST_EVENTS:
            self._pictures.append(self._picture(finished))
        self._since_us = alignment.start_us if self._since_us is None else self._since_us
        view = self._builder.view
        assert view is not None
        seen = [*self._pictures, self._picture(view)] if view.n_events >= FEWEST_EVENTS else self._pictures
        if seen:
            yield self._decision(seen, alignment.end_us, config)

    def _decision(self, seen: list[Picture], t_us: int, config: LiveConfig) -> Decision:
        assert self._since_us is not None
        probabilities = self.classifier.answer([seen]).probabilities[0]
        place, waited_s = int(np.argmax(probabilities)), (t_us - self._since_us) * 1e-6
        sure = probabilities[place] >= config.confidence
        self._agreed = self._agreed + 1 if sure and place == self._last else int(sure)
        self._last = place
        certain, over = self._agreed >= _TWICE, waited_s >= config.patience_s
        best = self.classifier.classes_[place]
        label = best if certain or over else None
        if label is not None:
            self._begin()
        return Decision(t_us, label, certain, best, float(probabilities[place]), waited_s)

    def _begin(self) -> None:
        self._builder = events.ViewBuilder(self._aligner, self._config.view_config())
        self._pictures, self._since_us, self._agreed, self._last = [], None, 0, -1

    def _picture(self, view: events.View) -> Picture:
        return picture_of(view, self._aligner, self._side, self._config)

    def _events_of(self, alignment: events.Alignment) -> events.Events:
        """The events of a window, which are given away with it."""
        stream = events.joined(self._recent)
        end = int(np.searchsorted(stream.t_us, alignment.end_us, side="right"))
        self._recent = [stream[end:]]
        return stream[:end]
