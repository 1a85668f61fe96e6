"""Shapes are checked at run time in greenlets, too."""

from importlib.util import find_spec

import pytest
from jaxtyping import _storage

if any(find_spec(name) is None for name in ("torch", "greenlet")):
    collect_ignore_glob = ["*"]  # of the extra `cuda`
else:
    from greenlet import getcurrent


class _OfEachGreenlet:
    """Where jaxtyping remembers the shapes of calls that are under way: of each thread, in which chains take turns."""

    def __getattr__(self, name: str) -> object:
        return getattr(getcurrent(), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(getcurrent(), name, value)


@pytest.fixture(autouse=True)
def shapes_of_each_greenlet(monkeypatch):
    monkeypatch.setattr(_storage, "_shape_storage", _OfEachGreenlet())
