"""Processes that share work, whose results come back in order."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from typing import TypeVar

from pauca.errors import ConfigError, PaucaError
from pauca.interrupts import begin_worker, interrupts_wait

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """Processes that share work; a single one is this process itself. Use it as a context manager.

    Raises:
        ConfigError: fewer than one.
    """

    def __init__(self, count: int = 1) -> None:
        if count < 1:
            raise ConfigError(f"workers {count} must be at least 1")
        self.count, self._pool = count, None

    def __enter__(self) -> "Workers":
        if self.count > 1:  # spawn: a fork would copy threads' locks
            # Ctrl-C reaches every process; this one alone has something to keep.
            self._pool = ProcessPoolExecutor(self.count, multiprocessing.get_context("spawn"), begin_worker)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[[T], R], items: Iterable[T], ahead: int = 1) -> Iterator[R]:
        """What the work makes of each item, in order; so many items more than there are processes wait their turn.

        Raises:
            PaucaError: a process has died.
        """
        if self._pool is None:
            yield from map(work, items)
            return
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                with interrupts_wait():  # a process may start here
                    waiting.append(self._pool.submit(work, item))
                if len(waiting) >= self.count + ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenExecutor:
            raise PaucaError(
                f"one of {self.count} processes ended in the middle of its work, for want of memory perhaps: try fewer "
                "workers; a script that starts them must do so below `if __name__ == '__main__':`"
            ) from None
