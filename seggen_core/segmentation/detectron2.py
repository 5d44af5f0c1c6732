"""A project's samples as datasets of detectron2.

`register` enters them into detectron2's catalogues. An official training script finds them without
a change: detectron2 calls `setup_environment` of the module that its variable
DETECTRON2_ENV_MODULE names, in each process (docs/detectron2.md).

An arm is a stream of dicts in the order in which seggen's own loop trains: `BatchPlan` says which
real or synthetic sample fills which place of which step. So the mapper of the script, with its
augmentations, sees what the arm sees.
"""

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any, Literal

from torch.utils.data import IterableDataset, get_worker_info

from seggen_core.colors.class_colors import read_class_colors
from seggen_core.config import SegGenConfig
from seggen_core.config.load import load_config
from seggen_core.datasets.reader import SPLITS
from seggen_core.errors import ConfigError
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.arm_stores import ArmStores
from seggen_core.segmentation.arms import Arm, ArmConfig, open_arm
from seggen_core.segmentation.dataset_dicts import (
    TASKS,
    DetectronTask,
    DictFormat,
    GroundTruth,
    is_empty,
    metadata,
    store_dicts,
    things_of,
)
from seggen_core.segmentation.detectron2_library import (
    DatasetCatalog,
    MetadataCatalog,
    PathHandler,
    PathManager,
    comm,
    get_event_storage,
    has_event_storage,
)
from seggen_core.segmentation.labels import LabelSpace
from seggen_core.segmentation.mixing import TrainingSeed
from seggen_core.segmentation.shard_files import PREFIX, ShardFile
from seggen_core.store.reader import SampleStore, open_partitions
from seggen_core.taxonomy import Taxonomy

Phase = Literal["all", "pretrain", "finetune"]
_LABELS = "labels"
"""Name of the folder that stands for COCO's files of a split's labels."""


class ShardHandler(PathHandler):
    """Opens files within shards, and COCO's files of a real split's labels, by their names."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> IO[Any]:
        """Open a file for reading; labels are written first, where they weren't before."""
        if mode not in ("r", "rb"):
            raise ConfigError(f"{path} is in a sample store, and stores are read alone")
        if f"/{_LABELS}/" in path:
            return Path(self._get_local_path(path)).open(mode, buffering)
        data = ShardFile.parse(path).read()
        return io.BytesIO(data) if mode == "rb" else io.StringIO(data.decode())

    def _get_local_path(self, path: str, **_: Any) -> str:
        """Return where labels are on the disk, as panopticapi and pycocotools need them."""
        store, _slash, name = path.removeprefix(PREFIX).rpartition(f"/{_LABELS}/")
        if not store:
            raise ConfigError(f"{path} is within a shard, and has no place of its own on the disk")
        root = Path(store).parents[2]  # the project of data/real/<split>
        truth = GroundTruth.of(SampleStore(Path(store)), cache=ProjectPaths(root).detectron2)
        truth.write()
        return str(truth.folder / name)


@dataclass(frozen=True, eq=False)
class ArmStream(IterableDataset):
    """The samples of an arm in the order of its training, as dataset dicts, without an end.

    Each process of a training gets its share of each step, and each of its workers every n-th step,
    so that a loader's batches are the arm's. A training that `--resume` continues goes on with the
    samples of its next step.

    Attributes:
        paths: the project.
        arm_name: the arm, in `variants`.
        subset_seed: of the real samples.
        task: of the dicts.
        phase: "pretrain" and "finetune" are the two phases of an arm with that strategy, each a
            training of its own; "all" is any other arm.
        first_step: the step that the training was at when a worker process was started.
    """

    paths: ProjectPaths
    arm_name: str
    subset_seed: int
    task: DetectronTask
    phase: Phase = "all"
    first_step: int = 0

    @cached_property
    def arm(self) -> Arm:
        """The arm's samples and its plan.

        Raises:
            ConfigError: there is no such arm, or it changes samples in a way that a mapper can't.
            SampleStoreError: its samples aren't there.
        """
        config = load_config(self.paths.root / "params.yaml")
        arm = ArmConfig.read(config, self.arm_name)
        variant, settings = arm.variant, arm.settings
        unusual = [
            name
            for name in ("synthetic_augment", "noise_filter", "known_classes")
            if getattr(variant, name)
        ]
        if unusual:
            raise ConfigError(
                f"the arm {self.arm_name} has {' and '.join(unusual)}, which the datasets of "
                f"detectron2 don't show: train it by dvc repro train_seg@{self.arm_name}, or "
                "remove that"
            )
        if self.phase != "all":
            # The phase never ends: the script's own settings say how long it trains.
            share = 1.0 if self.phase == "pretrain" else 0.0
            endless = {"pretrain_share": share, "num_steps": 1_000_000_000}
            settings = settings.model_copy(update=endless)
        stores = ArmStores.open(self.paths, variant=variant, classes=config.classes)
        seed = TrainingSeed(config.seed, self.subset_seed)
        labels = LabelSpace.of(variant, Taxonomy.read(self.paths.taxonomy))
        samples = stores.samples(variant, labels=labels, seed=seed)
        return open_arm(variant, config=settings, samples=samples, seed=seed)

    @cached_property
    def _format(self) -> DictFormat:
        return DictFormat(self.task, things_of(Taxonomy.read(self.paths.taxonomy), task=self.task))

    def entries(self, step: int) -> list[dict[str, Any]]:
        """Return the dicts of a step, counted from the start of the phase."""
        plan = self.arm.plan
        return [
            self._format.entry(self.arm.pool.pair(slot), image_id=step * plan.batch_size + place)
            for place, slot in enumerate(plan.slots(step))
        ]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        size, processes = self.arm.plan.batch_size, comm.get_world_size()
        if size % processes:
            raise ConfigError(
                f"train_seg.common.batch_size is {size}; expected a multiple of the {processes} "
                "processes of this training, as SOLVER.IMS_PER_BATCH has to be"
            )
        share = size // processes
        shard = slice(comm.get_rank() * share, (comm.get_rank() + 1) * share)
        worker = get_worker_info()
        worker_id, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        step = self._current_step() + worker_id
        while True:
            for entry in self.entries(step)[shard]:
                if not is_empty(entry):
                    yield entry
            step += workers

    def _current_step(self) -> int:
        """Return how many steps the training under way has done."""
        return get_event_storage().iter if has_event_storage() else self.first_step

    def __reduce__(self) -> Any:
        """Open the arm again in a process that is started instead of forked."""
        state = (self.arm_name, self.subset_seed, self.task, self.phase, self._current_step())
        return type(self), (self.paths, *state)


def register(
    project: Path | str = ".", *, subset_seed: int | None = None, prefix: str = "seggen_"
) -> list[str]:
    """Enter a project's samples into detectron2's catalogues; return the names of the datasets.

    `<task>` is semantic, panoptic, instance or panoptic_separated (`dataset_dicts`), the last two
    if there are things:

        seggen_real_<split>_<task>             train, val and test
        seggen_data_<method>_<task>            all samples of a synthetic method
        seggen_arm_<arm>_<task>                an arm
        seggen_arm_<arm>_pretrain_<task>       an arm with strategy pretrain, and its second phase:
        seggen_arm_<arm>_finetune_<task>

    Nothing is read until detectron2 asks for a dataset. What was registered before under the same
    names is replaced.

    Args:
        project: the folder of params.yaml.
        subset_seed: of arms with ``real: subset``; None takes the first of dataset.subset_seeds.
        prefix: of the names.

    Raises:
        ConfigError: params.yaml is missing or wrong.
        ArtefactError: the classes can't be read.
    """
    paths = ProjectPaths(Path(project).resolve())
    config = load_config(paths.root / "params.yaml")
    if not paths.taxonomy.is_file():
        raise ConfigError(f"{paths.taxonomy} doesn't exist; run: dvc repro dataset")
    seed = config.dataset.subset_seeds[0] if subset_seed is None else subset_seed
    if seed not in config.dataset.subset_seeds:
        known = ", ".join(map(str, config.dataset.subset_seeds))
        raise ConfigError(f"there is no subset seed {seed}; dataset.subset_seeds has: {known}")
    PathManager.register_handler(ShardHandler(), allow_override=True)
    names: list[str] = []
    for task in _tasks(Taxonomy.read(paths.taxonomy)):
        for name, (load, files) in _datasets(config, paths, task=task, subset_seed=seed).items():
            full = f"{prefix}{name}_{task}"
            _enter(full, load, paths=paths, task=task, files=files)
            names.append(full)
    return names


def setup_environment() -> None:
    """Register the project of $SEGGEN_PROJECT, with the subset of $SEGGEN_SUBSET_SEED if it is set.

    detectron2 calls this where DETECTRON2_ENV_MODULE names this module.
    """
    seed = os.environ.get("SEGGEN_SUBSET_SEED")
    if seed is not None and not seed.isdecimal():
        raise ConfigError(f"SEGGEN_SUBSET_SEED is {seed!r}; expected a whole number")
    register(os.environ.get("SEGGEN_PROJECT", "."), subset_seed=None if seed is None else int(seed))


def _tasks(taxonomy: Taxonomy) -> tuple[DetectronTask, ...]:
    has_things = any(c.is_thing for c in taxonomy)
    return TASKS if has_things else ("semantic", "panoptic")


_Load = Callable[[], Any]


def _datasets(
    config: SegGenConfig, paths: ProjectPaths, *, task: DetectronTask, subset_seed: int
) -> dict[str, tuple[_Load, dict[str, str]]]:
    """Return, by name, what loads each dataset of a task, and the files that its metadata name."""
    datasets: dict[str, tuple[_Load, dict[str, str]]] = {}
    for split in SPLITS:
        labels = f"{PREFIX}{paths.real(split)}/{_LABELS}"
        files = {} if task == "semantic" else {"json_file": f"{labels}/instances.json"}
        if task.startswith("panoptic"):
            files["panoptic_json"] = f"{labels}/panoptic.json"
            files["panoptic_root"] = f"{labels}/panoptic"
        datasets[f"real_{split}"] = partial(_load_split, paths, split, task), files
    for method in config.methods:
        load = partial(_load_method, paths, method, task, config.classes)
        datasets[f"data_{method}"] = load, {}
    for arm, variant in config.variants.items():
        phases: tuple[Phase, ...] = ("all",)
        if variant.strategy == "pretrain":
            phases = ("pretrain", "finetune")
        for phase in phases:
            name = f"arm_{arm}" if phase == "all" else f"arm_{arm}_{phase}"
            datasets[name] = partial(ArmStream, paths, arm, subset_seed, task, phase), {}
    return datasets


def _enter(
    name: str, load: _Load, *, paths: ProjectPaths, task: DetectronTask, files: dict[str, str]
) -> None:
    """Enter one dataset into both catalogues."""
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, load)
    taxonomy = Taxonomy.read(paths.taxonomy)
    about = metadata(taxonomy, colors=read_class_colors(paths.taxonomy), task=task)
    MetadataCatalog.get(name).set(**about, **files)


def _load_split(paths: ProjectPaths, split: str, task: DetectronTask) -> list[dict[str, Any]]:
    return _load([SampleStore(paths.real(split))], paths=paths, task=task)


def _load_method(
    paths: ProjectPaths, method: str, task: DetectronTask, classes: tuple[str, ...]
) -> list[dict[str, Any]]:
    taxonomy = Taxonomy.read(paths.taxonomy)
    stores = open_partitions(paths.synthetic(method), classes=classes, taxonomy=taxonomy)
    return _load(stores, paths=paths, task=task)


def _load(
    stores: list[SampleStore], *, paths: ProjectPaths, task: DetectronTask
) -> list[dict[str, Any]]:
    things = things_of(Taxonomy.read(paths.taxonomy), task=task)
    return store_dicts(stores, DictFormat(task, things), cache=paths.detectron2)
