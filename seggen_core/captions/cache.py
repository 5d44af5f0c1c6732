"""A model's captions, kept by what they depend on.

That is the image's bytes, the model's revision, the prompt and the longest answer. A run that is
killed goes on after its last caption, and samples that were added, removed or renumbered cost
nothing.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seggen_core.captions.model_captioner import ModelCaptioner
from seggen_core.project.digests import json_digest
from seggen_core.store.cache import RecordCache
from seggen_core.store.records import Record

if TYPE_CHECKING:
    from seggen_core.store.reader import SampleStore

_BATCHES_AHEAD = 16
"""Batches whose images are looked up, and whose captions are synced, together."""


class CachedCaptioner:
    """A captioner that asks the model only about images that it hasn't seen."""

    def __init__(self, captioner: ModelCaptioner, *, folder: Path) -> None:
        """Keep captions in `folder`, which several models may share."""
        self._captioner, self._folder = captioner, folder
        self.name, self.revision = captioner.name, captioner.revision
        self._identity = [
            captioner.name,
            captioner.revision,
            captioner.prompt,
            captioner.max_new_tokens,
        ]
        if not captioner.revision.startswith("local-"):
            self._identity.append(captioner.model)

    def captions(self, store: "SampleStore", *, keys: Sequence[str]) -> Iterator[str]:
        """Yield the captions of `keys` in their order.

        Raises:
            CaptionError: as the captioner.
            SampleStoreError: another process uses the folder.
            StorageError: the folder can't be written.
        """
        window = _BATCHES_AHEAD * self._captioner.batch_size
        with RecordCache(self._folder) as cache:
            for start in range(0, len(keys), window):
                yield from self._captions(store, keys[start : start + window], cache)

    def _captions(
        self, store: "SampleStore", keys: Sequence[str], cache: RecordCache
    ) -> Iterator[str]:
        digests = [self._digest(store.read_bytes(key, "image")) for key in keys]
        infos = {digest: cache.info(digest) for digest in digests}
        unseen: dict[str, str] = {}  # the first key of every image, in order
        for key, digest in zip(keys, digests, strict=True):
            if infos[digest] is None:
                unseen.setdefault(digest, key)
        answers = self._captioner.captions(store, keys=list(unseen.values())) if unseen else ()
        for digest, caption in zip(unseen, answers, strict=True):
            infos[digest] = {"caption": caption}
            cache.add(digest, Record({"caption": caption}))
        cache.commit()
        for digest in digests:
            info = infos[digest]
            assert info is not None
            yield info["caption"]

    def _digest(self, image: bytes) -> str:
        return json_digest([*self._identity, hashlib.sha256(image).hexdigest()], length=32)
