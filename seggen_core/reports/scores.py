"""The scores that `evaluate`, `judge` and `memorization` wrote, read back and checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seggen_core.config import SegGenConfig, Task
from seggen_core.errors import SegGenError
from seggen_core.metrics.tasks import FIGURES, PER_CLASS
from seggen_core.project.artefacts import damaged, is_there, read_artefact
from seggen_core.project.paths import ProjectPaths
from seggen_core.reports.memorization import MemorizationScores
from seggen_core.reports.tables import Score
from seggen_core.taxonomy import REST, Taxonomy

Report = TypeVar("Report", bound=BaseModel)


class SeedScores(BaseModel):
    """Scores of one trained segmenter, in percent."""

    model_config = ConfigDict(frozen=True)

    miou: Score
    """At one scale."""
    miou_ms: Score | None = None
    """At several scales and mirrored, if these were tested."""
    pixel_accuracy: Score
    """Share of the pixels that are right."""
    boundary_miou: Score | None = None
    """Boundary mIoU; None in a report of an earlier seggen."""
    per_class_iou: dict[str, Score]
    """By class slug."""
    miou_seen: Score | None = None
    """Over the classes that the arm knows, if it doesn't know all."""
    miou_unseen: Score | None = None
    """Over the other classes."""
    miou_harmonic: Score | None = None
    """Harmonic mean of the two."""
    groups: dict[str, dict[str, Score]] = {}
    """By name of a group of classes (`evaluate.groups`)."""

    @property
    def further(self) -> dict[str, float]:
        """What not every project has, by column: several scales, zero-shot, groups of classes."""
        names = ("miou_ms", "miou_seen", "miou_unseen", "miou_harmonic")
        values = {name: getattr(self, name) for name in names}
        for name, groups in self.groups.items():
            values |= {f"{name}/{group}": value for group, value in groups.items()}
        return {name: value for name, value in values.items() if value is not None}


class ArmData(BaseModel):
    """One ablation arm and its training data.

    Attributes:
        variant: its name.
        model: the segmenter.
        real: its real samples: "subset", "all" or "none".
        methods: the methods of its synthetic samples.
        shuffle_masks: whether each synthetic image has the mask of another one (the control).
        known_classes: slugs of the classes that its segmenters have besides "rest"; empty for all.
    """

    model_config = ConfigDict(frozen=True)

    variant: str
    model: str
    real: str
    methods: tuple[str, ...]
    shuffle_masks: bool
    known_classes: tuple[str, ...] = ()


class Arm(ArmData):
    """An arm for semantic segmentation, and its scores by seed, at least one."""

    seeds: dict[int, SeedScores] = Field(min_length=1)


class SegmentScores(BaseModel):
    """Scores of one segmenter that tells instances apart, in percent."""

    model_config = ConfigDict(frozen=True)

    figures: dict[str, Score]
    """By figure: PQ, AP and so on."""
    per_class: dict[str, Score]
    """The task's figure of each class, by class slug."""


class SegmentArm(ArmData):
    """An arm for panoptic or instance segmentation, and its scores by seed, at least one."""

    task: Task
    seeds: dict[int, SegmentScores] = Field(min_length=1)


class JudgeScores(BaseModel):
    """How well one method's pairs agree with the segmenter that was trained on all real samples."""

    model_config = ConfigDict(frozen=True)

    method: str
    """Name of the synthetic method."""
    samples: int
    """Number of pairs."""
    miou: Score
    """In percent."""
    per_class_iou: dict[str, Score]
    """By class slug."""
    further: dict[str, float] = {}
    """Other scores that the judge reports for this method."""


def read_arms(
    config: SegGenConfig, *, paths: ProjectPaths, taxonomy: Taxonomy
) -> list[Arm | SegmentArm]:
    """Return the scores of every variant in `config`, in its order.

    Raises:
        SegGenError: arms haven't been evaluated, or a report can't be read.
    """
    files = {name: paths.report("evaluate", name) / "metrics.json" for name in config.variants}
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        raise SegGenError(
            f"{len(missing)} of {len(files)} arms have no report in "
            f"{paths.ablation.parent / 'evaluate'}: {', '.join(missing)}. "
            f"Run: dvc repro {' '.join(f'evaluate@{name}' for name in missing)}"
        )
    arms: list[Arm | SegmentArm] = []
    for name, file in files.items():
        stage, variant = f"evaluate@{name}", config.variants[name]
        tree = _read_json(file, stage=stage)
        known = {
            "variant": name,
            "model": tree.get("model", variant.model),
            "real": variant.real,
            "methods": variant.methods,
            "shuffle_masks": variant.shuffle_masks,
            "known_classes": variant.known_classes,
            "seeds": tree.get("seeds"),
        }
        task, slugs = tree.get("task", "semantic"), taxonomy.slugs
        if variant.known_classes:
            slugs = [*variant.known_classes, REST]
        if task in ("panoptic", "instance"):
            known |= {"task": task, "seeds": _segment_seeds(tree.get("seeds"), task=task)}
            other = _validate(SegmentArm, known, file=file, stage=stage)
            for segment_scores in other.seeds.values():
                _check_classes(segment_scores.per_class, slugs=slugs, file=file, stage=stage)
            arms.append(other)
            continue
        arm = _validate(Arm, known, file=file, stage=stage)
        for scores in arm.seeds.values():
            _check_classes(scores.per_class_iou, slugs=slugs, file=file, stage=stage)
        arms.append(arm)
    return arms


def _segment_seeds(seeds: Any, *, task: Task) -> Any:
    """Return the scores by seed as `SegmentScores` holds them; what is no such tree as it is."""
    if not isinstance(seeds, dict):
        return seeds
    return {
        seed: {
            "figures": {name: scores[name] for name in FIGURES[task] if name in scores},
            "per_class": scores.get(PER_CLASS[task]),
        }
        if isinstance(scores, dict) and FIGURES[task].keys() <= scores.keys()
        else scores
        for seed, scores in seeds.items()
    }


def read_judges(
    methods: Sequence[str], *, paths: ProjectPaths, taxonomy: Taxonomy
) -> list[JudgeScores]:
    """Return the judge's scores of every one of the methods that has been judged."""
    judges = []
    for method in methods:
        file = paths.report("judge", method) / "metrics.json"
        if not is_there(file):
            continue
        stage = f"judge@{method}"
        tree = _read_json(file, stage=stage)
        named = {"miou", "per_class_iou", "samples"}
        further = {
            k: float(v) for k, v in tree.items() if k not in named and isinstance(v, int | float)
        }
        known = {k: tree[k] for k in named & tree.keys()} | {"method": method, "further": further}
        judge = _validate(JudgeScores, known, file=file, stage=stage)
        _check_classes(judge.per_class_iou, slugs=taxonomy.slugs, file=file, stage=stage)
        judges.append(judge)
    return judges


def read_memorization(methods: Sequence[str], *, paths: ProjectPaths) -> list[MemorizationScores]:
    """Return the distances of those methods that have been compared with the training set."""
    files = {method: paths.report("memorization", method) / "metrics.json" for method in methods}
    return [
        _validate(
            MemorizationScores,
            _read_json(file, stage=f"memorization@{method}") | {"method": method},
            file=file,
            stage=f"memorization@{method}",
        )
        for method, file in files.items()
        if is_there(file)
    ]


def _read_json(file: Path, *, stage: str) -> dict[str, Any]:
    return read_artefact(file, dict[str, Any], stage=stage)


def _validate(model: type[Report], tree: dict[str, Any], *, file: Path, stage: str) -> Report:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise damaged(file, f"{where}: {first['msg']}", stage=stage) from None


def _check_classes(
    scores: dict[str, float], *, slugs: Sequence[str], file: Path, stage: str
) -> None:
    if foreign := sorted(set(scores) ^ set(slugs)):
        classes = ", ".join(foreign)
        raise damaged(file, f"it doesn't fit the taxonomy in classes {classes}", stage=stage)
