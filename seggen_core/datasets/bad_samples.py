"""Going through all samples of a split without stopping at the first bad one."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

from seggen_core.errors import DatasetError
from seggen_core.project.parallel import ordered_map

Result = TypeVar("Result")


def attempt_all(
    keys: Sequence[str], function: Callable[[str], Result], *, num_threads: int, label: str
) -> Iterator[tuple[str, Result | DatasetError]]:
    """Yield each key with what `function` returns for it, or with the DatasetError it raises.

    Args:
        keys: of the samples, in the order of the results.
        function: reads one sample; it runs in a thread.
        num_threads: samples read side by side, see `ordered_map`.
        label: of the progress bar.
    """

    def attempt(key: str) -> Result | DatasetError:
        try:
            return function(key)
        except DatasetError as error:
            return error

    results = ordered_map(attempt, keys, num_threads=num_threads)
    bar = tqdm(results, total=len(keys), desc=label, unit="image", disable=None)
    yield from zip(keys, bar, strict=True)
