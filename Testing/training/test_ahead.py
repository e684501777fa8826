"""Batches that are made ahead."""

from __future__ import annotations

import threading
import time

import pytest

from DISYRECore.errors import DisyreError
from DISYRECore.training.ahead import Ahead


class Slow:
    """A task whose batches take a while and say what they are."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.made, self.threads = seconds, list[tuple[int, int]](), set[str]()

    def make(self, count: int, seed: int) -> tuple[int, int]:
        if seed == 13:
            raise DisyreError("Seed 13 is unlucky; choose another.")
        time.sleep(self.seconds)
        self.threads.add(threading.current_thread().name)
        self.made.append((count, seed))
        return count, seed


@pytest.fixture
def ahead():
    ahead = Ahead(stride=2)
    yield ahead
    ahead.close()


def test_each_step_gets_its_own_batch_whatever_was_made_ahead(ahead: Ahead) -> None:
    one, other = Slow(), Slow()
    wanted = [(one, 4, 1), (one, 4, 3), (one, 4, 5), (other, 4, 7), (other, 2, 9), (other, 2, 4), (one, 4, 3)]
    assert [ahead.take(*each) for each in wanted] == [each[1:] for each in wanted]
    ahead.close()
    assert one.made.count((4, 3)) == 2


def test_the_network_waits_for_the_first_batch_alone(ahead: Ahead) -> None:
    task = Slow(0.2)
    ahead.take(task, 4, 1)
    first = ahead.waited_s
    for seed in (3, 5, 7):
        time.sleep(0.5)
        ahead.take(task, 4, seed)
    assert first >= 0.2
    assert ahead.waited_s - first < 0.1
    assert len(task.threads) == 2


def test_what_goes_wrong_ahead_is_told_by_the_step_that_needs_it(ahead: Ahead) -> None:
    task = Slow()
    assert ahead.take(task, 4, 11) == (4, 11)
    with pytest.raises(DisyreError, match="unlucky"):
        ahead.take(task, 4, 13)
    assert ahead.take(task, 4, 15) == (4, 15)
