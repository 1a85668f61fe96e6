"""Work that asks: each gets its own answers, results come in order, and what goes wrong reaches the caller."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from pauca.events.device.chains import in_step


def test_questions_of_all_are_answered_together_and_results_are_in_order():
    rounds = []

    def asking(i):
        return lambda ask: (i, [ask((i, k)) for k in range(i)])

    def answer(questions):
        rounds.append(questions)
        return [10 * i + k for i, k in questions]

    found = list(in_step((asking(i) for i in (3, 0, 1, 2, 3)), answer, 3))
    assert found == [(i, [10 * i + k for k in range(i)]) for i in (3, 0, 1, 2, 3)]
    # The second one asks nothing, and ends at once: the next takes its place in the next round.
    assert [len(questions) for questions in rounds] == [2, 3, 3, 1]


def test_the_next_work_is_taken_only_when_there_is_a_place():
    taken = []

    def works():
        for i in range(5):
            taken.append(i)
            yield lambda ask, i=i: ask(i)

    results = in_step(works(), lambda questions: questions, 2)
    assert next(results) == 0
    assert taken == [0, 1, 2, 3]
    assert list(results) == [1, 2, 3, 4]


def test_no_work():
    assert list(in_step([], lambda questions: questions, 3)) == []


@pytest.mark.parametrize("where", ["work", "answer"])
def test_an_error_is_raised_and_every_work_ends(where):
    begun, ended = [], []

    def work(ask):
        begun.append(1)
        try:
            ask(1)
            if where == "work":
                raise ValueError("broken")
        finally:
            ended.append(1)

    def answer(questions):
        if where == "answer":
            raise ValueError("broken")
        return questions

    with pytest.raises(ValueError, match="broken"):
        list(in_step([work] * 3, answer, 3))
    assert len(begun) == len(ended) == 3


def test_works_end_when_results_are_not_wanted_any_more():
    ended = []

    def long(ask):
        try:
            return [ask(k) for k in range(5)]
        finally:
            ended.append(True)

    results = in_step([lambda ask: ask(0), long], lambda questions: questions, 2)
    assert next(results) == 0
    assert not ended
    results.close()
    assert ended


def test_works_in_several_threads_keep_to_their_own():
    def found(seed):
        return list(in_step([lambda ask: [ask(seed) for _ in range(50)]] * 3, lambda questions: questions, 3))

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(found, range(3))) == [[[seed] * 50] * 3 for seed in range(3)]
