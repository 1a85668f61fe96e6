"""`pauca doctor`: what this machine can do, and why not."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import pauca
from pauca.runs import processor_name, usable_cores
from pauca.systems import SYSTEMS


@dataclass(frozen=True)
class Check:
    """One line of the table: `remedy` says what to do where `available` is False."""

    group: str
    name: str
    available: bool
    detail: str
    remedy: str = ""


def examine() -> list[Check]:
    """Look at the interpreter, the machine, the packages and the accelerator; nothing is changed."""
    parts: list[Callable[[], Iterator[Check]]] = [_machine, _packages, _accelerator, _systems, _data]
    return [check for part in parts for check in part()]


def print_table(checks: list[Check]) -> None:
    """Show the checks to a person, on standard output."""
    table = Table(title=f"pauca {pauca.__version__}", box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("", "what", "", "found", "to do"):
        table.add_column(column, overflow="fold")
    group = ""
    for check in checks:
        heading, group = ("" if check.group == group else check.group), check.group
        mark = "[green]yes[/]" if check.available else "[yellow]no[/]"
        table.add_row(heading, escape(check.name), mark, escape(check.detail), escape(check.remedy))
    Console().print(table)


def _machine() -> Iterator[Check]:
    yield Check("machine", "Python", True, platform.python_version())
    yield Check("machine", "system", True, platform.platform())
    yield Check("machine", "processor", True, f"{processor_name()}, {usable_cores()} cores usable")
    memory = _memory_gib()
    if memory:
        yield Check("machine", "memory", True, f"{memory:.1f} GiB")


def _memory_gib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return None


def _packages() -> Iterator[Check]:
    needed_by = {
        "numpy": "",
        "numba": "",
        "scipy": "",
        "h5py": "",
        "matplotlib": "",
        "torch": "pauca[all]",
        "triton": "pauca[moe]",
        "greenlet": "pauca[cuda]",
        "safetensors": "pauca[all]",
        "scikit-learn": "pauca[fewshot]",
        "tokenizers": "pauca[moe]",
        "transformers": "pauca[hf]",
    }
    for name, extra in needed_by.items():
        try:
            yield Check("packages", name, True, version(name))
        except PackageNotFoundError:
            yield Check("packages", name, False, "not installed", f"pip install '{extra or 'pauca'}'")


def _accelerator() -> Iterator[Check]:
    try:
        torch = import_module("torch")
    except ImportError:
        yield Check(
            "accelerator", "CUDA GPU", False, "not looked for: torch is not installed", "pip install 'pauca[all]'"
        )
        return
    if not torch.cuda.is_available():
        why = "this torch is a CPU build" if torch.version.cuda is None else "torch finds no CUDA device or driver"
        yield Check("accelerator", "CUDA GPU", False, why, "everything runs on the CPU; moe kernels want a Hopper GPU")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"sm_{properties.major}{properties.minor}"
        detail = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {capability}"
        yield Check("accelerator", f"CUDA GPU {index}", True, detail)
        hopper = properties.major == 9
        remedy = "" if hopper else "fp8 and fp4 recipes run in emulation or need sm_90; bf16 works"
        yield Check("accelerator", f"FP8 products on GPU {index}", hopper, capability, remedy)


def _systems() -> Iterator[Check]:
    for name, system in SYSTEMS.items():
        try:
            import_module(f"pauca.{name}")
            yield Check("systems", f"pauca.{name}", True, "imports")
        except ImportError as error:
            yield Check("systems", f"pauca.{name}", False, str(error), f"pip install '{system.package}'")


def _data() -> Iterator[Check]:
    folder = os.environ.get("PAUCA_DATA")
    if folder is None:
        yield Check("data", "PAUCA_DATA", False, "not set", "only tests and benchmarks on real data need it")
    elif Path(folder).is_dir():
        yield Check("data", "PAUCA_DATA", True, folder)
    else:
        yield Check(
            "data", "PAUCA_DATA", False, f"{folder} is not a folder", "name the folder that holds events/, fewshot/"
        )
