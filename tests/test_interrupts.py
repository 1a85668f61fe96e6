"""Ctrl-C, as a terminal gives it: to every process of the group at once."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

SLOW = """
import sys, time
print("importing", flush=True)
time.sleep(60)
def work(): pass
"""
MAIN = """
import multiprocessing, signal, sys, time
from concurrent.futures import ProcessPoolExecutor
from pauca.interrupts import end_at_interrupt, interrupts_wait

class Work:
    def __reduce__(self):
        return __import__, ("slow",)
    def __call__(self): pass

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where these tests run in the background
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, context, initializer=end_at_interrupt)
    try:
        with interrupts_wait():
            waiting = pool.submit(Work())
        print("started", flush=True)
        waiting.result()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        pool.shutdown(cancel_futures=True)
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="this system has no signal masks")
@pytest.mark.parametrize("moment", ["started", "importing"])
def test_a_process_that_begins_ends_without_a_word(tmp_path, moment):
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "main.py").write_text(MAIN)
    process = subprocess.Popen(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while process.stdout.readline() != f"{moment}\n":
            assert process.poll() is None
        begun = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert said == "interrupted\n"
    assert time.monotonic() - begun < 30  # the import would take a minute


@pytest.mark.parametrize("enter", ["end_at_interrupt()", "interrupts_raise().__enter__()"])
def test_an_interrupt_that_is_ignored_stays_so(enter):
    """As in a job of a script, in the background."""
    lines = (
        "import os, signal",
        "from pauca.interrupts import end_at_interrupt, interrupts_raise",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
        enter,
        "os.kill(os.getpid(), signal.SIGINT)",
        "print('alive')",
    )
    found = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    assert found.stdout == "alive\n", found.stderr


WORKERS = """
import os, time
from pauca.events.workers import Workers

def pid(_): return os.getpid()

if __name__ == "__main__":
    with Workers(2) as workers:
        print(*set(workers.map(pid, range(4))), flush=True)
        time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no signals")
def test_processes_that_share_work_end_with_the_one_that_started_them(tmp_path):
    """One that was killed cannot tell them: they waited for work for good, and held the memory of a GPU."""
    (tmp_path / "main.py").write_text(WORKERS)
    process = subprocess.Popen(
        [sys.executable, "main.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout.readline().split()
        process.kill()
        assert process.communicate(timeout=10) == ("", None)  # the end comes when nobody can write any more
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
