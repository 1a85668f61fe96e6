"""The verbs that belong to no system: `pauca demo` and `pauca doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from pauca import demo as _demo
from pauca import doctor as _doctor


def demo(out: Path = Path("runs/demo"), seed: int = 0, quiet: bool = False) -> None:
    """Show what pauca does, on data it makes itself, and write a report.

    Args:
        out: folder for the report and its pictures; an earlier demo there is replaced.
        seed: seed of everything random.
        quiet: no progress.
    """
    report = _demo.run_demo(out, seed, quiet)
    print(f"report: {report.resolve()}")


def doctor(as_json: Annotated[bool, arg(name="json")] = False) -> None:
    """Say what this machine can do, and why not.

    Args:
        as_json: machine-readable output.
    """
    checks = _doctor.examine()
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        _doctor.print_table(checks)


COMMANDS = {"demo": demo, "doctor": doctor}
