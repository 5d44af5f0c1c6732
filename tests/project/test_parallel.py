"""`ordered_map` keeps the order and a bounded number of results in memory."""

import threading
import time

import pytest

from seggen_core.project.parallel import ordered_map


@pytest.mark.parametrize("num_threads", [1, 3])
def test_results_come_in_the_order_of_the_items(num_threads: int) -> None:
    def slow_at_first(i: int) -> int:
        time.sleep(0.02 if i % 4 == 0 else 0)
        return i * i

    assert list(ordered_map(slow_at_first, range(20), num_threads=num_threads)) == [
        i * i for i in range(20)
    ]


def test_no_more_than_twice_the_threads_are_ahead() -> None:
    started: list[int] = []
    lock = threading.Lock()

    def note(i: int) -> int:
        with lock:
            started.append(i)
        return i

    results = ordered_map(note, range(1000), num_threads=2)
    for taken in range(1, 50):
        next(results)
        assert len(started) <= taken + 2 * 2
    results.close()  # type: ignore[attr-defined]
    assert len(started) < 60


def test_an_error_comes_out_where_it_belongs() -> None:
    def fail(i: int) -> int:
        if i == 3:
            raise ValueError("three")
        return i

    results = ordered_map(fail, range(10), num_threads=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
