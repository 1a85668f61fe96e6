"""Modules that become ones of another class in place, and back: how a conversion changes a model and is undone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from torch import nn

Converted = TypeVar("Converted", bound=nn.Module)


@contextmanager
def becoming(module: nn.Module, target: type[Converted]) -> Iterator[Converted]:
    """Make the module one of that class; `restore` takes away what is set within."""
    original_class, before = type(module), set(vars(module))
    module.__class__ = target
    converted: Any = module
    yield cast(Converted, converted)
    converted._original = original_class, (*(vars(module).keys() - before), "_original")


def restore(module: Any) -> None:
    """Make it what it was before."""
    original_class, settings = module._original
    for setting in settings:
        delattr(module, setting)
    module.__class__ = original_class
