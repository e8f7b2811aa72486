"""Answers go out one caller at a time, and none waits for another."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from nova_netagent.rpc import answers
from nova_netagent.rpc.answers import Answer, Answers


class Message:
    """What came from a caller, who takes his answer when told so."""

    def __init__(self, reply_q: str | None, taken: threading.Event | None = None) -> None:
        self.reply_q = reply_q
        self.begun = threading.Event()
        self._taken = taken

    def reply(self, _result: object, _failure: object) -> None:
        self.begun.set()
        if self._taken is not None:
            assert self._taken.wait(30)


class Sent:
    """Counts what is done."""

    def __init__(self) -> None:
        self.done = 0
        self._changed = threading.Condition()

    def __call__(self) -> None:
        with self._changed:
            self.done += 1
            self._changed.notify_all()

    def wait(self, done: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.done >= done, 30)
            assert self.done == done


@pytest.fixture
def taken() -> Iterator[threading.Event]:
    found = threading.Event()
    yield found
    found.set()


@pytest.fixture
def sent() -> Sent:
    return Sent()


def test_each_is_sent_with_its_result_or_failure_in_order(sent: Sent) -> None:
    told: list[tuple[Any, ...]] = []

    class Telling(Message):
        def reply(self, *answer: Any) -> None:
            told.append(answer)

    out = Answers(sent)
    failure = (ValueError, ValueError("no"), None)
    for number in range(50):
        out.send(Answer(Telling("a"), number, failure if number == 25 else None))
    sent.wait(50)
    assert told == [(number, failure if number == 25 else None) for number in range(50)]


def test_one_who_takes_none_keeps_nobody_else_waiting(sent: Sent, taken: threading.Event) -> None:
    out = Answers(sent)
    stuck = [Message("stuck", taken) for _ in range(2 * answers.SENDERS)]
    for each in stuck:
        out.send(Answer(each))
    others = [Message(f"caller {number}") for number in range(100)] + [Message(None)]
    for each in others:
        out.send(Answer(each))
    sent.wait(len(others))
    assert [each.begun.is_set() for each in stuck] == [True] + [False] * (len(stuck) - 1)
    taken.set()
    sent.wait(len(others) + len(stuck))
    assert all(each.begun.is_set() for each in stuck)


def test_of_those_that_wait_the_oldest_are_given_up(
    sent: Sent, taken: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(answers, "WAITING", 3)
    out = Answers(sent)
    first = Message("stuck", taken)
    out.send(Answer(first))
    assert first.begun.wait(30)
    waiting = [Message("stuck", taken) for _ in range(5)]
    for each in waiting:
        out.send(Answer(each))
    assert sent.done == 2
    assert "3 wait for stuck" in caplog.text
    taken.set()
    sent.wait(6)
    assert [each.begun.is_set() for each in waiting] == [False, False, True, True, True]


def test_one_that_cannot_be_sent_is_logged_and_the_next_is_sent(sent: Sent, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Message):
        def reply(self, _result: object, _failure: object) -> None:
            raise OSError("gone")

    out = Answers(sent)
    out.send(Answer(Failing("a")))
    following = Message("a")
    out.send(Answer(following))
    sent.wait(2)
    assert following.begun.is_set()
    assert "an answer could not be sent" in caplog.text
