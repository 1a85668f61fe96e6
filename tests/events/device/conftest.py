"""Shapes are checked at run time in greenlets, too."""

import pytest
from greenlet import getcurrent
from jaxtyping import _storage


class _OfEachGreenlet:
    """Where jaxtyping remembers the shapes of calls that are under way: of each thread, in which chains take turns."""

    def __getattr__(self, name: str) -> object:
        return getattr(getcurrent(), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(getcurrent(), name, value)


@pytest.fixture(autouse=True)
def shapes_of_each_greenlet(monkeypatch):
    monkeypatch.setattr(_storage, "_shape_storage", _OfEachGreenlet())
