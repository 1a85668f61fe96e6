"""pauca: perception and training with few events, few labels and few bits.

The systems (`pauca.events`, `pauca.fewshot`, `pauca.moe`, `pauca.recognize`) are imported when they are first used, so
`import pauca` loads neither torch nor matplotlib.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from pauca.errors import ConfigError, DeviceError, InputError, PaucaError

if TYPE_CHECKING:
    from pauca import events, fewshot, moe, recognize

__version__ = "0.2.0.dev0"
__all__ = [
    "ConfigError",
    "DeviceError",
    "InputError",
    "PaucaError",
    "__version__",
    "events",
    "fewshot",
    "moe",
    "recognize",
]

_SYSTEMS = ("events", "fewshot", "moe", "recognize")


def __getattr__(name: str) -> ModuleType:
    if name in _SYSTEMS:
        return import_module(f"pauca.{name}")
    raise AttributeError(f"module 'pauca' has no attribute {name!r}")
