"""One process owns the device, and answers the questions of others: those that have come by then, at once.

A device that several processes use themselves changes between them, and each needs half a gigabyte of it.
"""

import os
import selectors
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import numpy as np
from jaxtyping import Float64

from pauca.errors import PaucaError
from pauca.events.device.requests import QUESTION

_LONGEST = 1 << 17  # bytes of a message: 1,400 questions, or the answers to 90; Linux has 200 KB


class Server:
    """Answers in a thread. Use it as a context manager.

    Args:
        answer: to each question, a row of numbers.
    """

    def __init__(self, answer: Callable[[Float64[np.ndarray, "r 11"]], list[np.ndarray]]) -> None:
        self._answer = answer
        self.error: BaseException | None = None
        self._ended = False

    def __enter__(self) -> "Server":
        with ExitStack() as stack:
            folder = stack.enter_context(TemporaryDirectory(prefix="pauca-"))  # which nobody else can read
            place = os.open(folder, os.O_PATH)
            stack.callback(os.close, place)
            self._socket = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            # By the open folder: of an address, Linux takes 107 bytes, and TMPDIR may be longer.
            self.address = f"/proc/{os.getpid()}/fd/{place}/questions"
            self._socket.bind(self.address)
            self._socket.listen(1024)
            self._thread = Thread(target=self._serve, daemon=True)
            self._thread.start()
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        with suppress(OSError):  # it has ended before, by an error
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join()
        self._opened.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            try:
                while not self._ended:
                    self._round([key.fileobj for key, _ in selector.select()], selector)
            except BaseException as error:  # raised where results are asked for
                self.error = error
            for key in [*selector.get_map().values()]:  # who waits for an answer learns that none will come
                key.fileobj.close()  # type: ignore[union-attr]

    def _round(self, ready: list[Any], selector: selectors.BaseSelector) -> None:
        asking, questions = [], []
        for each in ready:
            if each is self._socket:
                if not self._ended:
                    selector.register(each.accept()[0], selectors.EVENT_READ)
            elif message := _received(each):
                asking.append(each)
                questions.append(np.frombuffer(message).reshape(-1, QUESTION))
            else:
                selector.unregister(each)
                each.close()
        if asking:
            answers = iter(self._answer(np.concatenate(questions)))
            for each, some in zip(asking, questions, strict=True):
                message = b"".join(next(answers).tobytes() for _ in some)
                with suppress(ConnectionError):  # it has died, which is found when it is read next; the others go on
                    each.sendall(message)


def _received(connection: socket.socket) -> bytes:
    """A message; nothing where the other side has ended, also without reading its answer."""
    try:
        return connection.recv(_LONGEST)
    except ConnectionError:
        return b""


class Connection:
    """Another process's way to ask a `Server`. Use it as a context manager."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def answers(self, questions: Float64[np.ndarray, "r 11"], lengths: list[int]) -> list[np.ndarray]:
        """To each question, so many numbers.

        Raises:
            PaucaError: the server has ended.
        """
        message = bytearray()
        with suppress(ConnectionError):
            self._socket.sendall(questions.tobytes())
            message += _received(self._socket)  # writable: numba compiles for other arrays anew
        if not message:
            raise PaucaError("the process that owns the GPU has ended")
        return np.split(np.frombuffer(message), np.cumsum(lengths)[:-1])
