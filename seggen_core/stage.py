"""What every stage needs, opened once: its section, the classes, the device, tracking and scratch.

A stage module opens a `Stage`, calls one function of the room that does the work, and publishes
what it returns. It computes nothing itself.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from seggen_core.config import SYNTHESIS_METHODS, SegGenConfig
from seggen_core.datasets.identity import check_real_stores
from seggen_core.errors import ConfigError
from seggen_core.project.code import code_digest
from seggen_core.project.digests import json_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.publish import publish
from seggen_core.project.runtime import limit_threads, pick_device
from seggen_core.project.storage import disk_errors
from seggen_core.taxonomy import Taxonomy
from seggen_core.tracking import StageRun, track_stage

if TYPE_CHECKING:
    import torch
    from PIL import Image


class Report(Protocol):
    """What a stage that scores or compares writes."""

    @property
    def shown(self) -> tuple[str, ...]:
        """Names of the written files that the tracked run shows."""

    def write(self, folder: Path) -> Mapping[str, float]:
        """Write tables and pictures to `folder`; return the metrics of the tracked run."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One execution of a stage, as `open_stage` yields it.

    Attributes:
        name: the stage of dvc.yaml ("masksyn").
        item: its partition or arm ("car"); None where the stage has none.
        config: all of params.yaml.
        paths: where artifacts are.
        run: gets metrics, pictures and inputs.
    """

    name: str
    item: str | None
    config: SegGenConfig
    paths: ProjectPaths
    run: StageRun

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The classes that the stage `dataset` wrote."""
        return Taxonomy.read(self.paths.taxonomy)

    @cached_property
    def device(self) -> "torch.device":
        """The device that `runtime.device` asks for; the first look limits this process's threads.

        A stage that computes nothing with torch never asks, and so never imports it.

        Raises:
            ConfigError: it asks for CUDA, and there is none.
        """
        limit_threads(self.config.runtime)
        return pick_device(self.config.runtime)

    @cached_property
    def code_digest(self) -> str:
        """Digest of the code that the stage's result depends on (`project.code`)."""
        return code_digest(self.name)

    @property
    def class_slug(self) -> str:
        """The class whose partition this is."""
        assert self.item is not None
        return self.item

    def scratch(self, identity: Sequence[Any]) -> Path:
        """Return the folder of unfinished work that is made from `identity`.

        The folder is named by a digest, so a run resumes only work with the same inputs. Work of
        the same stage and item with other inputs is deleted.

        Args:
            identity: JSON-ready: every parameter and every digest that the result depends on. The
                digest of the stage's code is added.
        """
        folder = self._scratch_family / json_digest([self.code_digest, *identity])
        if self._scratch_family.is_dir():
            for other in self._scratch_family.iterdir():
                if other != folder and other.is_dir():
                    shutil.rmtree(other)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def show(self, picture: "Image.Image") -> None:
        """Write the stage's preview to .seggen/previews, and record it in the run."""
        file = self.paths.preview(self.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
        self.run.log_artifact(file)

    def empty_scratch(self) -> Path:
        """Return an empty folder for results that every run computes again."""
        folder = self.scratch([])
        shutil.rmtree(folder)
        folder.mkdir()
        return folder

    def publish_report(self, report: Report, out: Path) -> None:
        """Write a report, track its metrics and the files that it shows, and move it to `out`."""
        folder = self.empty_scratch()
        self.run.log_metrics(report.write(folder))
        for name in report.shown:
            self.run.log_artifact(folder / name)
        self.publish(folder, out)

    def publish(self, finished: Path, out: Path) -> Path:
        """Move a finished folder to `out`, delete the rest of the scratch folder, return `out`."""
        self.publish_all({finished: out})
        return out

    def publish_all(self, outs: Mapping[Path, Path]) -> None:
        """Move finished files and folders to their places, then delete the scratch folder.

        Args:
            outs: place of each finished file or folder.
        """
        for finished, out in outs.items():
            publish(finished, out)
            self.run.log_output(out)
        shutil.rmtree(self._scratch_family, ignore_errors=True)

    @property
    def _scratch_family(self) -> Path:
        """Where the scratch folders of the stage and item lie."""
        return self.paths.scratch.joinpath(self.name, *([self.item] if self.item else []))


@contextmanager
def open_stage(
    name: str,
    *,
    item: str | None,
    config: SegGenConfig,
    paths: ProjectPaths,
    params: Mapping[str, Any] | None = None,
) -> Iterator[Stage]:
    """Open a stage: start its tracked run.

    Args:
        name: the stage of dvc.yaml.
        item: its partition or arm.
        config: all of params.yaml.
        paths: where artifacts are.
        params: JSON-ready; what the run records. None: the section of params.yaml that has the
            stage's name.

    Raises:
        DatasetError: data/real holds the samples of another dataset than params.yaml names.
        StorageError: the disk is full, not writable or failing, whatever library met it.
        ConfigError: the stage makes a class partition, and there is no such class.
    """
    if name != "dataset":
        check_real_stores(paths, dataset=config.dataset.name)
    if name in SYNTHESIS_METHODS:
        check_class(item, config=config, paths=paths)
    if params is None:
        params = getattr(config, name).model_dump(mode="json")
    with (
        track_stage(name, item=item, params=params, runtime=config.runtime, paths=paths) as run,
        disk_errors(paths.root),
    ):
        yield Stage(name=name, item=item, config=config, paths=paths, run=run)


def check_class(slug: str | None, *, config: SegGenConfig, paths: ProjectPaths) -> None:
    """Check that a class partition can be made.

    Args:
        slug: of the class.
        config: its `classes` have to list the class.
        paths: if data/real has a taxonomy, this has to have the class.

    Raises:
        ConfigError: the class is not among them.
    """
    if slug not in config.classes:
        known = ", ".join(config.classes)
        raise ConfigError(f"there is no class partition {slug!r}; params.yaml has: {known}")
    if paths.taxonomy.is_file():
        slugs = Taxonomy.read(paths.taxonomy).slugs
        if slug not in slugs:
            raise ConfigError(
                f"the dataset has no class {slug!r}, which 'classes' in params.yaml lists; it has: "
                f"{', '.join(slugs)}"
            )
