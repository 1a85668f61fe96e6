"""`pauca demo`: each system on data made on the spot, and one report that shows the results."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path

import pauca
from pauca.runs import Report, check_can_write, describe_machine
from pauca.systems import SYSTEMS


def run_demo(out: Path, seed: int = 0, quiet: bool = False) -> Path:
    """Run every installed system's demonstration in `out` and return the path of `report.html`.

    Raises:
        InputError: `out` cannot be written.
    """
    path = out / "report.html"
    check_can_write(path, force=True)
    machine = describe_machine("pauca demo")
    report = Report(
        "pauca demo", f"pauca {pauca.__version__}, seed {seed}, {machine['processor']}, Python {machine['python']}"
    )
    for name, system in SYSTEMS.items():
        started = time.monotonic()
        try:
            part = import_module(f"pauca.{name}.demo")
        except ModuleNotFoundError as error:
            report.heading(f"pauca.{name}")
            report.text(f"Skipped: {error}. Install it with: pip install '{system.package}'")
            continue
        part.add_to_report(report, out / name, seed, quiet)
        if not quiet:
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    report.save(path)
    return path
