"""The run folder: what a training or an evaluation leaves behind, and how to repeat it."""

from __future__ import annotations

import json
import math
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pauca.errors import ConfigError, InputError
from pauca.runs.config import from_yaml, to_yaml
from pauca.runs.files import write_text


@dataclass(frozen=True)
class Run:
    """A folder `runs/SYSTEM/NAME/` with `config.yaml`, `machine.json`, `metrics.jsonl` and `checkpoints/`."""

    path: Path

    @classmethod
    def create(
        cls, path: Path, config: Any, force: bool = False, resume: bool = False, command: str | None = None
    ) -> Run:
        """Open `path` for a run of `config` (a dataclass).

        A new folder is made, or an old one is continued with `resume` (its config must be the same) or replaced with
        `force`: metrics and checkpoints of the earlier run are deleted.

        Raises:
            InputError: the folder holds a run already and neither `force` nor `resume` is set, or is a file.
            ConfigError: `resume` is set and the stored config differs; the first difference is named.
        """
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file, but a run is a folder; choose another name")
        run, text = cls(path), to_yaml(config)
        if run.config_path.exists():
            if resume:
                run._check_same_config(type(config), text)
                return run
            if not force:
                raise InputError(
                    f"{path}: holds a run already; continue it with --resume, replace it with --force (in "
                    "Python resume=True, force=True), or choose another name"
                )
        # Left behind, they would pass for this run's, and be resumed from. The config goes first and comes last:
        # without it there is no run, should this process be killed meanwhile.
        for stale in (run.config_path, run.metrics_path):
            stale.unlink(missing_ok=True)
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        run.checkpoints.mkdir(parents=True)
        write_text(run.path / "machine.json", json.dumps(describe_machine(command), indent=2) + "\n", force=True)
        write_text(run.config_path, text, force=True)
        return run

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def log(self, **metrics: Any) -> None:
        """Append one line to `metrics.jsonl`; a line is written whole, so a killed run leaves whole lines."""
        line = json.dumps({"time": round(time.time(), 3), **{k: _jsonable(v) for k, v in metrics.items()}})
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The logged lines, oldest first; one that a full disk has cut short is left out."""
        if self.metrics_path.exists():
            with self.metrics_path.open(encoding="utf-8", errors="replace") as file:
                yield from (self._parse(number, line) for number, line in enumerate(file, 1) if line.endswith("\n"))

    def _parse(self, number: int, line: str) -> dict[str, Any]:
        try:
            return json.loads(line)
        except ValueError as error:
            raise InputError(f"{self.metrics_path}: line {number} is damaged ({error}); remove it") from error

    def _check_same_config(self, kind: type, text: str) -> None:
        # Read as a config: one of an earlier version lacks the fields that are new.
        stored = to_yaml(from_yaml(kind, self.config_path)).splitlines()
        for old, new in zip([*stored, ""], [*text.splitlines(), ""], strict=False):
            if old != new:
                raise ConfigError(
                    f"{self.config_path}: the run was started with `{old.strip()}` and is resumed with "
                    f"`{new.strip()}`; resume it with its own settings, or start a new run"
                )


def describe_machine(command: str | None = None) -> dict[str, Any]:
    """What a run needs to be repeated: the command, Python, the machine and the versions of what computes."""
    packages = {}
    for name in ("pauca", "numpy", "numba", "scipy", "torch", "triton"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "command": command or " ".join(["pauca", *sys.argv[1:]]),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor_name(),
        "packages": packages,
    }


def processor_name() -> str:
    """The processor's name as people know it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _jsonable(value: Any) -> Any:
    """Numbers of numpy and torch as Python's; NaN and infinities as strings, since JSON has none."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
