"""Ctrl-C reaches every process of a terminal, also those that are still importing: they end without a word.

Where Ctrl-C is ignored, as in a job that a shell script started in the background, it stays so, here and in the
processes that are started. Imports nothing that takes time: a process is safe from its first moments on.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_mask = getattr(signal, "pthread_sigmask", None)  # Windows has none


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait until the end of the block; a process that is started in it lets it wait until
    `end_at_interrupt`."""
    if _mask is None:
        yield
        return
    before = _mask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        _mask(signal.SIG_SETMASK, before)


def end_at_interrupt() -> None:
    """From now on Ctrl-C ends this process at once and without a word, also one that has waited: for the beginning of a
    process that was started under `interrupts_wait`."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _mask is not None:
        _mask(signal.SIG_UNBLOCK, (signal.SIGINT,))


def begin_worker() -> None:
    """The beginning of a process that works for another: it ends at Ctrl-C, see `end_at_interrupt`, and when the other
    has ended, which cannot tell it where it was killed."""
    import multiprocessing
    import os
    from threading import Thread

    end_at_interrupt()
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()


@contextmanager
def interrupts_raise() -> Iterator[None]:
    """In the block Ctrl-C is a KeyboardInterrupt, as usual: for work that keeps what it has. For the main thread."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
