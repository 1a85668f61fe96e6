"""Progress of long work: a bar with rate and remaining time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

# Plain lines are for logs: often enough to see that the work lives, rare enough to be read.
_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts work towards a total, on standard error; use it as a context manager.

    `with Progress("align", total=len(packets), unit="packets") as progress: ... progress.advance(note="0.3x")`
    """

    def __init__(self, title: str, total: int | None = None, unit: str = "steps", quiet: bool = False):
        self.title, self.total, self.unit, self.quiet = title, total, unit, quiet
        self.done = 0
        self._started = self._last_line = time.monotonic()
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        self._started = self._last_line = time.monotonic()
        if not self.quiet and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(f"{self.unit}  {{task.fields[rate]}}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, rate="", note="")
        return self

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` more units of work; `note` is shown behind them (a loss, a rate)."""
        self.done += amount
        if self._bar is not None:
            self._bar.update(self._task, advance=amount, rate=f"{self.rate:,.0f}/s", note=note)
        elif not self.quiet and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(self._line(note), file=sys.stderr, flush=True)

    @property
    def rate(self) -> float:
        """Units of work a second since the start."""
        return self.done / max(time.monotonic() - self._started, 1e-9)

    def _line(self, note: str) -> str:
        of_total, remaining = "", ""
        if self.total:
            of_total = f"/{self.total}"
            remaining = f", {(self.total - self.done) / max(self.rate, 1e-9):.0f} s left"
        return f"{self.title}: {self.done}{of_total} {self.unit}, {self.rate:,.1f}/s{remaining} {note}".rstrip()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
