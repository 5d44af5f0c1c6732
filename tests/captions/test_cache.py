"""Captions that were made once are never made again.

They depend on image, model, revision, prompt and length.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from seggen_core.captions.cache import CachedCaptioner
from seggen_core.captions.model_captioner import ModelCaptioner
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter


class CountingCaptioner(ModelCaptioner):
    """Answers with the image's first pixel, and remembers what it was shown.

    The networks themselves are tested elsewhere.
    """

    name, title, default_model, default_prompt = "counting", "Counting", "a/b", "what?"

    def __init__(
        self, revision: str = "c" * 40, *, prompt: str = "what?", fail_after: int = 10**9
    ) -> None:
        super().__init__(
            "a/b", revision=revision, prompt=prompt, batch_size=2, max_new_tokens=5, device="cpu"
        )
        self.shown: list[str] = []
        self._fail_after = fail_after

    def captions(self, store: SampleStore, *, keys: Sequence[str]) -> Iterator[str]:
        for key in keys:
            if len(self.shown) == self._fail_after:
                raise KeyboardInterrupt
            self.shown.append(key)
            yield f"{self.prompt} größe {store.read_image(key)[0, 0, 0]}"


def write_store(folder: Path, values: list[int]) -> SampleStore:
    with SampleStoreWriter(folder, num_classes=2) as writer:
        for i, value in enumerate(values):
            writer.add(
                Sample(
                    f"train-{i:05d}",
                    np.full((4, 4, 3), value, np.uint8),
                    np.zeros((4, 4), np.uint8),
                    None,
                    {},
                )
            )
        writer.finish(manifest={})
    return SampleStore(folder)


def caption(captioner: CountingCaptioner, store: SampleStore, folder: Path) -> list[str]:
    return list(CachedCaptioner(captioner, folder=folder).captions(store, keys=store.keys()))


def test_each_image_is_shown_once_and_captions_come_in_order(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a", [7, 3, 7, 9, 3])
    first = CountingCaptioner()
    captions = caption(first, store, tmp_path / "cache")
    assert captions == [f"what? größe {v}" for v in (7, 3, 7, 9, 3)]
    assert first.shown == ["train-00000", "train-00001", "train-00003"], (
        "the same image twice is shown once"
    )
    again = CountingCaptioner()
    assert caption(again, store, tmp_path / "cache") == captions and again.shown == []
    # Renumbered, one more: only the new image is shown.
    third = CountingCaptioner()
    more = write_store(tmp_path / "b", [9, 1, 7])
    assert caption(third, more, tmp_path / "cache") == [f"what? größe {v}" for v in (9, 1, 7)]
    assert third.shown == ["train-00001"]


@pytest.mark.parametrize("changed", [{"revision": "d" * 40}, {"prompt": "how?"}])
def test_another_model_or_prompt_is_asked_again(tmp_path: Path, changed: dict[str, str]) -> None:
    store = write_store(tmp_path / "a", [1, 2])
    caption(CountingCaptioner(), store, tmp_path / "cache")
    other = CountingCaptioner(**changed)
    caption(other, store, tmp_path / "cache")
    assert len(other.shown) == 2


def test_a_run_that_was_killed_goes_on_after_its_last_caption(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a", [1, 2, 3, 4, 5])
    with pytest.raises(KeyboardInterrupt):
        caption(CountingCaptioner(fail_after=3), store, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("records-*")
    file.write_bytes(file.read_bytes() + file.read_bytes()[:50])  # killed while it wrote
    rest = CountingCaptioner()
    assert caption(rest, store, tmp_path / "cache") == [f"what? größe {v}" for v in (1, 2, 3, 4, 5)]
    assert rest.shown == ["train-00003", "train-00004"]
    assert caption(CountingCaptioner(fail_after=0), store, tmp_path / "cache") == caption(
        rest, store, tmp_path / "cache"
    )
