"""The samples of a partition's last run, so that the next one makes only those whose own inputs changed.

DVC deletes a stage's outs before it runs it. So what was published is kept a second time, outside
of the outs: as hard links where the file system has them, which take no space. Beside each sample
lies a digest of all that it is made from; a sample is taken over only where that digest is the
same, so the result is the same bytes as if all of it were made anew.
"""

import hashlib
import inspect
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from seggen_core.errors import SampleStoreError
from seggen_core.store.reader import Sample, SampleStore

logger = logging.getLogger(__name__)

_DIGESTS = "digests.json"


def sample_digest(parts: Sequence[Any]) -> str:
    """Return the digest of what one sample is made from; `parts` are JSON-ready."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def code_digest(modules: Sequence[ModuleType]) -> str:
    """Return a digest of the source of `modules` and of the versions of torch and diffusers: other code, other samples."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(inspect.getsource(module).encode())
    for package in ("torch", "diffusers"):
        digest.update(f"{package} {version(package)}\n".encode())
    return digest.hexdigest()[:32]


class KeptSamples:
    """What an earlier run left, to be asked by key and digest."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`; where there is nothing, or it is damaged, nothing is found."""
        self._digests: dict[str, str] = {}
        self._store: SampleStore | None = None
        if not (folder / _DIGESTS).is_file():
            return
        try:
            self._store = SampleStore(folder / "store")
            self._digests = json.loads((folder / _DIGESTS).read_text(encoding="utf-8"))
        except (SampleStoreError, OSError, ValueError) as error:
            logger.warning(
                "the samples kept in %s can't be used, all are made anew: %s", folder, error
            )

    def find(self, key: str, *, digest: str) -> Sample | None:
        """Return the sample `key` if it was made from the same inputs and is whole."""
        if self._store is None or self._digests.get(key) != digest:
            return None
        try:
            return self._store[key]
        except SampleStoreError as error:
            logger.warning("a kept sample can't be used and is made anew: %s", error)
            return None


def keep_samples(folder: Path, *, published: Path, digests: Mapping[str, str]) -> None:
    """Replace what is kept in `folder` by the store in `published`; the digests come last, so that half of it is nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "store").mkdir(parents=True)
    for path in sorted(p for p in published.iterdir() if p.is_file()):
        try:
            os.link(path, folder / "store" / path.name)
        except OSError:  # another file system, or one without links
            shutil.copy2(path, folder / "store" / path.name)
    unfinished = folder / f"{_DIGESTS}.tmp"
    unfinished.write_text(json.dumps(digests), encoding="utf-8")
    unfinished.replace(folder / _DIGESTS)
