"""Optional packages, and timm where its torchvision is missing or was built for another torch."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import nn

from pauca.errors import DeviceError


def need(package: str, extra: str, what: str) -> ModuleType:
    """Import an optional package.

    Raises:
        DeviceError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise DeviceError(f"{what} needs the package {package} ({error}); pip install 'pauca[{extra}]'") from error


def import_timm() -> ModuleType:
    """timm, also without a working torchvision: its networks use none of it, its training transforms do.

    The package index has no torchvision for torch's CPU builds: what it has imports with "operator torchvision::nms
    does not exist".
    """
    if "timm" in sys.modules:
        return sys.modules["timm"]
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError):
        _forget("torchvision")
        with _stand_in("torchvision"):
            return need("timm", "timm", "a backbone timm:NAME")
    return need("timm", "timm", "a backbone timm:NAME")


class _AnyName(type):
    """Classes whose attributes are their own names, as those of enumerations."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _StandIn(ModuleType):
    """A module that has every name: a class that no object is of."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyName(name, (nn.Module,), {})


class _Finder:
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] == self.package else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def _stand_in(package: str) -> Iterator[None]:
    """Whatever is imported from `package` within is a stand-in; afterwards nobody finds it any more."""
    finder: Any = _Finder(package)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _forget(package)


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]
