"""Questions of several connections reach one process, and each gets its own answers, or learns that none will come."""

import socket
import tempfile
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest

from pauca.errors import PaucaError
from pauca.events.device.requests import QUESTION
from pauca.events.device.serving import Connection, Server


def questions(*values: float) -> np.ndarray:
    return np.outer(values, np.ones(QUESTION))


def test_each_gets_its_own_answers_of_their_lengths():
    def answer(rows):
        return [np.arange(int(row[0])) + row[0] / 8 for row in rows]

    with Server(answer) as server, Connection(server.address) as one, Connection(server.address) as other:
        for _ in range(3):
            first, second = one.answers(questions(2, 5), [2, 5])
            (third,) = other.answers(questions(4), [4])
            np.testing.assert_array_equal(first, np.arange(2) + 2 / 8)
            np.testing.assert_array_equal(second, np.arange(5) + 5 / 8)
            np.testing.assert_array_equal(third, np.arange(4) + 4 / 8)


def test_those_that_wait_are_answered_at_once():
    rounds, go_on = [], threading.Event()

    def answer(rows):
        rounds.append(len(rows))
        go_on.wait(9)
        return list(rows[:, :1])

    with Server(answer) as server, ExitStack() as stack:
        connections = [stack.enter_context(Connection(server.address)) for _ in range(4)]
        go_on.set()
        for each in connections:  # known to the server from now on
            each.answers(questions(1), [1])
        go_on.clear()
        rounds.clear()
        for i, each in enumerate(connections):
            each._socket.sendall(questions(i).tobytes())
            while not rounds:  # the first one's is being answered
                time.sleep(0.01)
        go_on.set()
        assert [np.frombuffer(each._socket.recv(99)).tolist() for each in connections] == [[0], [1], [2], [3]]
    assert rounds == [1, 3]


def test_what_goes_wrong_is_kept_and_ends_the_waiting():
    def answer(rows):
        raise ZeroDivisionError("here")

    with Server(answer) as server:
        with Connection(server.address) as connection, pytest.raises(PaucaError, match="owns the GPU"):
            connection.answers(questions(1), [1])
        server._thread.join(9)
        with pytest.raises(OSError, match="refused"):
            Connection(server.address)
    assert isinstance(server.error, ZeroDivisionError)


def test_who_was_not_let_in_when_a_server_ends_does_not_wait():
    def answer(rows):
        others.append(Connection(server.address))
        others[0]._socket.sendall(questions(1).tobytes())
        raise ZeroDivisionError("here")

    others: list[Connection] = []
    with Server(answer) as server, Connection(server.address) as connection:
        with pytest.raises(PaucaError, match="owns the GPU"):
            connection.answers(questions(1), [1])
        with others[0], pytest.raises(OSError, match="reset"):
            others[0]._socket.recv(9)


def test_a_server_ends_while_others_are_connected():
    with Server(list) as server:
        connection = Connection(server.address)
        connection.answers(questions(1), [QUESTION])
    with connection, pytest.raises(PaucaError, match="owns the GPU"):
        connection.answers(questions(1), [QUESTION])
    assert not server._thread.is_alive()


@pytest.mark.parametrize("moment", ["before the answer", "before it is read"])
def test_one_that_dies_takes_nothing_from_the_others(moment):
    asked, go_on = threading.Event(), threading.Event()

    def answer(rows):
        asked.set()
        go_on.wait(9)
        return list(rows[:, :1])

    with Server(answer) as server, Connection(server.address) as other:
        with Connection(server.address) as dying:
            dying._socket.sendall(questions(1).tobytes())
            assert asked.wait(9)
            if moment == "before it is read":
                go_on.set()
                assert dying._socket.recv(9, socket.MSG_PEEK)
        go_on.set()
        for _ in range(2):
            assert [row.tolist() for row in other.answers(questions(3), [1])] == [[3]]
        assert server.error is None


def test_a_long_name_of_the_folder_for_temporary_files_does_not_matter(tmp_path, monkeypatch):
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with Server(lambda rows: list(rows[:, :1])) as server, Connection(server.address) as connection:
        assert [row.tolist() for row in connection.answers(questions(3), [1])] == [[3]]
    assert not [*long.iterdir()]
