from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import pytest

from zoo.errors import UserError
from zoo.system.prefetch import prefetch


@pytest.mark.parametrize("in_bursts", [False, True])
@pytest.mark.parametrize("ahead", [1, 5, 100])
def test_results_keep_their_order_and_no_more_than_allowed_are_started(in_bursts: bool, ahead: int) -> None:
    started = 0
    lock = threading.Lock()

    def work(item: int) -> int:
        nonlocal started
        with lock:
            started += 1
        time.sleep(0.002 * (item % 3))
        return item

    taken = []
    for result in prefetch((partial(work, n) for n in range(40)), ahead, threads=4, in_bursts=in_bursts):
        taken.append(result)
        limit = -(-len(taken) // ahead) * ahead if in_bursts else len(taken) + ahead
        assert started <= limit
    assert taken == list(range(40))


def test_calls_are_computed_while_the_consumer_works() -> None:
    done = [threading.Event() for _ in range(3)]
    with closing(prefetch((event.set for event in done), ahead=1)) as results:
        next(results)
        assert done[1].wait(5)
        assert not done[2].is_set()  # only one is ahead


def test_in_bursts_the_threads_rest_while_the_last_results_are_used() -> None:
    active = threading.Event()
    calls: Iterator[Callable[[], object]] = (active.set for _ in range(12))
    with closing(prefetch(calls, 4, threads=2, in_bursts=True)) as results:
        for _ in range(4):
            next(results)
        active.clear()
        assert not active.wait(0.1)
        next(results)
        assert active.is_set()


@pytest.mark.parametrize("in_bursts", [False, True])
def test_an_error_is_raised_at_its_place_and_ends_the_threads(in_bursts: bool) -> None:
    def work(item: int) -> int:
        if item == 3:
            raise UserError("an image cannot be read")
        return item

    before = threading.active_count()
    results = prefetch((partial(work, n) for n in range(100)), 4, threads=2, in_bursts=in_bursts)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match="cannot be read"):
        next(results)
    assert threading.active_count() == before
    assert list(results) == []


def test_an_error_of_the_iterable_reaches_the_consumer() -> None:
    def calls() -> Iterator[Callable[[], int]]:
        yield lambda: 0
        raise ZeroDivisionError

    before = threading.active_count()
    results = prefetch(calls(), ahead=1)
    with pytest.raises(ZeroDivisionError):
        list(results)
    assert threading.active_count() == before


def test_closing_drops_what_has_not_started_and_leaves_no_thread() -> None:
    done = []

    def slow(item: int) -> int:
        time.sleep(0.02)
        done.append(item)
        return item

    before = threading.active_count()
    with closing(prefetch((partial(slow, n) for n in range(1000)), 500, threads=2)) as results:
        assert next(results) == 0
    assert threading.active_count() == before
    assert len(done) < 10


def test_a_consumer_that_fails_leaves_no_thread() -> None:
    def consume() -> None:
        with closing(prefetch((int for _ in range(100)), 3)) as results:
            for _ in results:
                raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        consume()
    assert threading.active_count() == before


def test_no_calls_give_no_results() -> None:
    assert list(prefetch(())) == []
