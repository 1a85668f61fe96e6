"""A look at the other ranks of a training while this one may be waiting for them where nothing else ends the wait.

A message by NCCL has no end until its process group aborts the process, with pages of text. So a thread of each rank
says at short intervals that the rank is alive and what it is doing, reads what the others say, and ends the process
with one line if one of them has failed, is gone, or keeps it waiting for longer than allowed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pauca
from pauca.runs.processes import (
    OtherStopped,
    count_ranks,
    duration,
    own_rank,
    shared_store,
    stop_by_signal,
    tell_failure,
    timeout_s,
    told_failure,
)

_SOURCE = str(Path(pauca.__file__).parent)


class Watch:
    """While it is entered, this rank notices what becomes of the others; in a process alone only SIGTERM.

    Args:
        what_is_left: which checkpoint a training can go on from, in words, for the last line.
        limit_s: seconds that a rank may keep the others waiting; default: what it joined with.
    """

    def __init__(self, what_is_left: Callable[[], str], limit_s: float | None = None) -> None:
        self._what_is_left = what_is_left
        self._limit = timeout_s() if limit_s is None else limit_s
        self._pause = min(2.0, self._limit / 20)
        self._grace = min(2.0, self._limit / 2)  # of one whose main thread sees for itself that another has stopped
        self._doing: tuple[str, float] | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._main = threading.main_thread().ident
        self._handler: Any = None
        self._wakeup: int | None = None
        self._ear: socket.socket | None = None  # hears of signals, for which Python's handlers wait in the main thread
        self._bell: socket.socket | None = None
        self._heard: dict[int, tuple[bytes, float]] = {}  # rank: its latest word, and when it came

    def __enter__(self) -> Watch:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main:
            self._handler = signal.signal(signal.SIGTERM, stop_by_signal)
        if count_ranks() > 1:
            self._store = shared_store()
            if is_main:
                self._ear, self._bell = socket.socketpair()
                self._ear.setblocking(False)
                self._bell.setblocking(False)
                self._wakeup = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._run, name="watch of the other ranks", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._wakeup is not None:
            signal.set_wakeup_fd(self._wakeup)
            self._wakeup = None
        for end in (self._ear, self._bell):
            if end is not None:
                end.close()
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Around work that needs the other ranks: more than the limit for it means that one of them hangs."""
        self._doing = what, time.monotonic()
        try:
            yield
        finally:
            self._doing = None

    def _run(self) -> None:
        words = 0
        failed_since: float | None = None
        while not self._over.wait(self._pause):
            words += 1
            if self._told_to_stop() and not self._over.wait(self._grace):
                self._end("it was told to (SIGTERM), as torchrun does when another rank has failed or was killed")
            try:
                self._say(words)
                now = time.monotonic()
                failed = told_failure(self._store)
                failed_since = (failed_since or now) if failed else None
                if failed and now - (failed_since or now) > self._grace:
                    self._end(failed)
                self._listen(now)
            except RuntimeError:
                self._end("the store of the ranks is gone: torchrun or its host has ended")

    def _told_to_stop(self) -> bool:
        try:
            return self._ear is not None and signal.SIGTERM in self._ear.recv(64)
        except BlockingIOError:
            return False

    def _say(self, words: int) -> None:
        assert self._store is not None
        word = {"words": words, "host": socket.gethostname(), "at": self._place()}
        self._store.set(f"alive/{own_rank()}", json.dumps(word))

    def _listen(self, now: float) -> None:
        assert self._store is not None
        for rank in range(count_ranks()):
            name = f"alive/{rank}"
            word = self._store.get(name) if self._store.check([name]) else b""
            if rank not in self._heard or self._heard[rank][0] != word:
                self._heard[rank] = word, now
        silent = [rank for rank, (_, since) in self._heard.items() if now - since > self._limit]
        if silent:
            host = json.loads(self._heard[silent[0]][0] or "{}").get("host", "a host that never came")
            self._end(f"rank {silent[0]} on {host} has not answered for {duration(self._limit)}: it hangs or is gone")
        doing = self._doing
        if doing is not None and now - doing[1] > self._limit:
            self._end(f"{doing[0]} takes longer than {duration(self._limit)}; {self._where_all_are()}")

    def _where_all_are(self) -> str:
        words = {rank: json.loads(word or "{}") for rank, (word, _) in self._heard.items()}
        places: dict[str, list[int]] = {}
        for rank, word in words.items():
            places.setdefault(word.get("at", "nowhere"), []).append(rank)
        # The fewest are named first: one that hangs keeps all others waiting in one place.
        ordered = sorted(places.items(), key=lambda place: len(place[1]))[:3]
        return ", ".join(f"{_named(ranks)} at {place}" for place, ranks in ordered)

    def _place(self) -> str:
        """Where the main thread is, in our own code."""
        frame = sys._current_frames().get(self._main or 0)
        while frame is not None and not frame.f_code.co_filename.startswith(_SOURCE):
            frame = frame.f_back
        if frame is None:
            return "code outside pauca"
        return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} ({frame.f_code.co_name})"

    def _end(self, reason: str) -> None:
        """End the process, whose main thread cannot: it waits within a message."""
        if self._over.is_set():
            return
        line = f"rank {own_rank()} stops, because {reason}; {self._what_is_left()}"
        print(f"pauca: {' '.join(line.split())}", file=sys.stderr, flush=True)
        tell_failure(OtherStopped(reason))
        os._exit(1)


def _named(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" + (f" and {len(ranks) - 1} more" if len(ranks) > 1 else "")
