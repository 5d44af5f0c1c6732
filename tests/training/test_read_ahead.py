import threading

import pytest

from seggen_core.training.read_ahead import read_ahead


@pytest.mark.parametrize("steps", [range(4, 9), range(7, 8), range(3, 3)])
def test_every_step_is_read_once_and_in_order(steps: range) -> None:
    read: list[int] = []
    with read_ahead(lambda step: read.append(step) or step * step, steps=steps) as values:
        assert list(values) == [step * step for step in steps]
    assert read == list(steps)


def test_the_next_one_is_read_meanwhile() -> None:
    begun = threading.Event()

    def read(step: int) -> int:
        if step == 1:
            begun.set()
        return step

    with read_ahead(read, steps=range(2)) as values:
        assert next(values) == 0 and begun.wait(10)
        assert list(values) == [1]


def test_calls_never_overlap_and_are_one_step_ahead_at_most() -> None:
    inside, most = 0, 0
    running = threading.Lock()
    read_steps: list[int] = []

    def read(step: int) -> int:
        nonlocal inside, most
        with running:
            inside += 1
            most = max(most, inside)
        read_steps.append(step)
        with running:
            inside -= 1
        return step

    with read_ahead(read, steps=range(50)) as values:
        for value in values:
            assert len(read_steps) <= value + 2
    assert most == 1 and len(read_steps) == 50


def test_an_error_reaches_the_training_loop_and_ends_the_thread() -> None:
    before = threading.active_count()

    def read(step: int) -> int:
        if step == 1:
            raise OSError("disk gone")
        return step

    with read_ahead(read, steps=range(3)) as values:
        assert next(values) == 0
        with pytest.raises(OSError, match="disk gone"):
            next(values)
    assert threading.active_count() == before


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_loop_that_stops_early_leaves_no_thread_and_reads_no_further(
    error: type[BaseException] | None,
) -> None:
    before = threading.active_count()
    read: list[int] = []

    def run() -> None:
        with read_ahead(lambda step: read.append(step) or step, steps=range(100)) as values:
            next(values)
            if error:
                raise error

    if error:
        with pytest.raises(error):
            run()
    else:
        run()
    assert threading.active_count() == before and len(read) <= 2


def test_the_last_read_is_waited_for_when_the_loop_stops() -> None:
    begun, finish, finished = threading.Event(), threading.Event(), threading.Event()

    def read(step: int) -> int:
        if step == 1:
            begun.set()
            assert finish.wait(10)
            finished.set()
        return step

    with read_ahead(read, steps=range(3)) as values:
        next(values)
        assert begun.wait(10)
        finish.set()
    assert finished.is_set()


def test_several_readers_keep_the_order_and_work_side_by_side() -> None:
    together = threading.Barrier(3)

    def read(step: int) -> int:
        if step < 3:
            together.wait(10)  # breaks unless three calls are under way at once
        return step * step

    with read_ahead(read, steps=range(20), num_readers=3) as values:
        assert list(values) == [step * step for step in range(20)]
