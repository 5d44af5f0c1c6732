import threading
import time

import pytest
import torch

from seggen_core.training.read_ahead import read_ahead

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("device", [CPU, CUDA])
@pytest.mark.parametrize("steps", [range(4, 9), range(7, 8), range(3, 3)])
def test_every_step_is_made_once_and_in_order(device: torch.device, steps: range) -> None:
    made: list[int] = []
    yielded = list(
        read_ahead(lambda step: made.append(step) or step * step, steps=steps, device=device)
    )
    assert made == list(steps) and yielded == [step * step for step in steps]


def test_for_a_gpu_the_next_one_is_made_meanwhile() -> None:
    begun = threading.Event()

    def make(step: int) -> int:
        if step == 1:
            begun.set()
        return step

    batches = read_ahead(make, steps=range(2), device=CUDA)
    assert next(batches) == 0 and begun.wait(10)
    assert list(batches) == [1]


def test_calls_never_overlap() -> None:
    inside, most = 0, 0

    def make(step: int) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1
        return step

    assert list(read_ahead(make, steps=range(5), device=CUDA)) == [0, 1, 2, 3, 4] and most == 1


def test_an_error_reaches_the_training_loop() -> None:
    def make(step: int) -> int:
        if step == 1:
            raise OSError("disk gone")
        return step

    batches = read_ahead(make, steps=range(3), device=CUDA)
    assert next(batches) == 0
    with pytest.raises(OSError, match="disk gone"):
        next(batches)


def test_a_loop_that_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    batches = read_ahead(lambda step: step, steps=range(100), device=CUDA)
    next(batches)
    batches.close()
    assert threading.active_count() == before
