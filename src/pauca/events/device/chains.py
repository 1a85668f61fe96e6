"""Many pieces of work that ask questions, in step: all that wait for an answer get theirs together.

Each runs in a greenlet of its own, one after the other in one thread: work that was written for one packet after the
other stays as it is, and asks in the middle of a search. Threads that wake each other did the same for 20 microseconds
a question on two cores, and more on many, where each ran on another core.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

from greenlet import getcurrent, greenlet

Q = TypeVar("Q")
A = TypeVar("A")
R = TypeVar("R")


class _Chain(Generic[Q, A, R]):
    """One piece of work, which runs until it asks or ends."""

    question: Q
    result: R

    def __init__(self, work: Callable[[Callable[[Q], A]], R]) -> None:
        self._greenlet = greenlet(work)
        self._go_on(getcurrent().switch)

    @property
    def ended(self) -> bool:
        return self._greenlet.dead

    def answer(self, answer: A) -> None:
        self._go_on(answer)

    def stop(self) -> None:
        """End a work that waits for an answer."""
        self._greenlet.throw()

    def _go_on(self, told: Any) -> None:
        said = self._greenlet.switch(told)
        if self.ended:
            self.result = said
        else:
            self.question = said


def in_step(
    works: Iterable[Callable[[Callable[[Q], A]], R]], answer: Callable[[list[Q]], list[A]], at_once: int
) -> Iterator[R]:
    """Results of the works, in order.

    Args:
        works: each is called with a function that takes a question and returns its answer. The next one is taken when
            one before has ended.
        answer: the answers to questions of several works, one of each.
        at_once: how many works there are at a time.
    """
    waiting_works = iter(works)
    chains: deque[_Chain[Q, A, R]] = deque()  # from the first one whose result was not given yet
    try:
        while True:
            asking = [chain for chain in chains if not chain.ended]
            if asking:
                for chain, found in zip(asking, answer([chain.question for chain in asking]), strict=True):
                    chain.answer(found)
            room = at_once - sum(not chain.ended for chain in chains)
            chains.extend(_Chain(work) for work in islice(waiting_works, room))
            if not chains:
                return
            while chains and chains[0].ended:
                yield chains.popleft().result
    finally:
        for chain in chains:
            chain.stop()
