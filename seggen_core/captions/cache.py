"""A model's captions, kept by what they depend on: the image's bytes, the model's revision, the prompt, the longest answer.

A caption is on disk as soon as it is made, so a run that is killed goes on after the last one, and
samples that were added, removed or renumbered cost nothing.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seggen_core.captions.model_captioner import ModelCaptioner
from seggen_core.project.digests import json_digest

if TYPE_CHECKING:
    from seggen_core.store.reader import SampleStore

_BATCHES_AHEAD = 16
"""Batches whose images are looked up together: so many are decoded before the first caption of them is yielded."""


class CachedCaptioner:
    """A captioner that asks the model only about images that it hasn't seen."""

    def __init__(self, captioner: ModelCaptioner, *, folder: Path) -> None:
        """Read what is known; a line that was cut off when a run was killed is forgotten."""
        self._captioner = captioner
        self.name, self.revision = captioner.name, captioner.revision
        identity = [captioner.name, captioner.revision, captioner.prompt, captioner.max_new_tokens]
        if not captioner.revision.startswith("local-"):
            identity.append(captioner.model)
        self._file = folder / f"{captioner.name}-{json_digest(identity)}.jsonl"
        self._known: dict[str, str] = {}
        if self._file.exists():
            whole = self._file.read_bytes()
            whole = whole[: whole.rfind(b"\n") + 1]
            self._known = dict(json.loads(line) for line in whole.splitlines())
            with self._file.open("r+b") as file:
                file.truncate(len(whole))

    def captions(self, store: "SampleStore", *, keys: Sequence[str]) -> Iterator[str]:
        """Yield the captions of `keys` in their order; CaptionError as the captioner."""
        window = _BATCHES_AHEAD * self._captioner.batch_size
        for start in range(0, len(keys), window):
            part = keys[start : start + window]
            digests = [hashlib.sha256(store.read_bytes(key, "image")).hexdigest() for key in part]
            unseen: dict[str, str] = {}  # the first key of every image, in order
            for key, digest in zip(part, digests, strict=True):
                if digest not in self._known:
                    unseen.setdefault(digest, key)
            if unseen:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._file.open("a", encoding="utf-8") as file:
                    made = self._captioner.captions(store, keys=list(unseen.values()))
                    for digest, caption in zip(unseen, made, strict=True):
                        file.write(json.dumps([digest, caption], ensure_ascii=False) + "\n")
                        file.flush()
                        self._known[digest] = caption
            yield from (self._known[digest] for digest in digests)
