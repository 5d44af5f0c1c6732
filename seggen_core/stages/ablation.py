"""Stage `ablation`: one comparison over all arms, from what `evaluate`, `judge` and `memorization` wrote."""

import json
import shutil
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from seggen_core.config import SYNTHESIS_METHODS, SegGenConfig
from seggen_core.errors import SegGenError
from seggen_core.project.paths import ProjectPaths
from seggen_core.reports.ablation import (
    Arm,
    JudgeScores,
    ablation_markdown,
    ablation_table,
    flat_metrics,
    judge_table,
    per_class_delta,
    per_class_table,
    seed_table,
)
from seggen_core.reports.figures import ablation_figure, per_class_figure
from seggen_core.reports.memorization import (
    MemorizationScores,
    flat_memorization,
    memorization_markdown,
)
from seggen_core.taxonomy import Taxonomy
from seggen_core.tracking import track_stage

Report = TypeVar("Report", bound=BaseModel)


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/reports/ablation: the comparison as CSV, Markdown, PNG, and for `dvc metrics` and `dvc plots`.

    ablation.csv, per_class.csv, seeds.csv and judge.csv hold the tables of `reports.ablation`;
    ablation.md all of it to read; ablation.png and per_class.png the charts; metrics.json single
    figures; plots.csv one row an arm. Methods that haven't been judged, or compared with the
    training set, are left out there.

    Raises:
        SegGenError: an arm hasn't been evaluated, or a report can't be read.
    """
    assert item is None, item
    params = config.ablation.model_dump(mode="json")
    with track_stage(
        "ablation", item=None, params=params, runtime=config.runtime, paths=paths
    ) as tracked:
        # 1. What the arms and the judge scored.
        taxonomy = Taxonomy.read(paths.taxonomy)
        arms = read_arms(config, paths=paths, taxonomy=taxonomy)
        judges = read_judges(paths=paths, taxonomy=taxonomy)
        memorization = read_memorization(paths=paths)
        for kind in ("evaluate", "judge", "memorization"):
            if (folder := paths.ablation.parent / kind).is_dir():
                tracked.log_input(name=kind, path=folder)

        # 2. Tables.
        baseline = config.ablation.baseline
        title = f"Ablation: {config.profile}"
        seeds = seed_table(arms, taxonomy=taxonomy)
        table = ablation_table(arms, seeds=seeds, judges=judges, baseline=baseline)
        per_class = per_class_table(arms, seeds=seeds, taxonomy=taxonomy)
        metrics = flat_metrics(table, judges=judges) | flat_memorization(memorization)
        plots = table[
            [
                "variant",
                "model",
                "miou",
                "miou_std",
                "delta_miou",
                "miou_things",
                "miou_stuff",
                "pixel_accuracy",
            ]
        ]
        scratch = paths.scratch / "ablation"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        table.round(4).to_csv(scratch / "ablation.csv", index=False)
        per_class.round(4).to_csv(scratch / "per_class.csv", index_label="variant")
        seeds.round(4).to_csv(scratch / "seeds.csv", index=False)
        plots.round(4).to_csv(scratch / "plots.csv", index=False)
        if judges:
            judge_table(judges, taxonomy=taxonomy).round(4).to_csv(
                scratch / "judge.csv", index_label="method"
            )
        (scratch / "metrics.json").write_text(
            json.dumps(metrics, indent=1) + "\n", encoding="utf-8"
        )
        report = ablation_markdown(
            table, per_class=per_class, judges=judges, taxonomy=taxonomy, title=title
        )
        sections = [report, memorization_markdown(memorization)]
        (scratch / "ablation.md").write_text(
            "\n".join(section for section in sections if section), encoding="utf-8"
        )

        # 3. Charts.
        ablation_figure(table, seeds=seeds, baseline=baseline, title=title).savefig(
            scratch / "ablation.png"
        )
        delta = per_class_delta(per_class, table=table)
        per_class_figure(
            per_class, delta=delta, table=table, taxonomy=taxonomy, title=title
        ).savefig(scratch / "per_class.png")

        # 4. Report, and into place.
        tracked.log_metrics({name.replace(".", "/"): value for name, value in metrics.items()})
        for name in ("ablation.md", "ablation.csv", "ablation.png", "per_class.png"):
            tracked.log_artifact(scratch / name)
        shutil.rmtree(paths.ablation, ignore_errors=True)
        paths.ablation.parent.mkdir(parents=True, exist_ok=True)
        scratch.replace(paths.ablation)


def read_arms(config: SegGenConfig, *, paths: ProjectPaths, taxonomy: Taxonomy) -> list[Arm]:
    """Return the scores of every variant in `config`, in its order; SegGenError names the ones that are missing."""
    files = {name: paths.report("evaluate", name) / "metrics.json" for name in config.variants}
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        raise SegGenError(
            f"{len(missing)} of {len(files)} arms have no report in {paths.ablation.parent / 'evaluate'}: {', '.join(missing)}. "
            f"Run: dvc repro {' '.join(f'evaluate@{name}' for name in missing)}"
        )
    arms = []
    for name, file in files.items():
        tree, variant = _read_json(file, stage=f"evaluate@{name}"), config.variants[name]
        known = {
            "variant": name,
            "model": tree.get("model", variant.model or config.train_seg.model),
            "real": variant.real,
            "methods": variant.methods,
            "shuffle_masks": variant.shuffle_masks,
            "seeds": tree.get("seeds"),
        }
        arm = _validate(Arm, known, file=file, stage=f"evaluate@{name}")
        for scores in arm.seeds.values():
            _check_classes(
                scores.per_class_iou, taxonomy=taxonomy, file=file, stage=f"evaluate@{name}"
            )
        arms.append(arm)
    return arms


def read_judges(*, paths: ProjectPaths, taxonomy: Taxonomy) -> list[JudgeScores]:
    """Return the judge's scores of every method that has been judged."""
    judges = []
    for method in SYNTHESIS_METHODS:
        file = paths.report("judge", method) / "metrics.json"
        if not file.is_file():
            continue
        stage = f"judge@{method}"
        tree = _read_json(file, stage=stage)
        own = {"miou", "per_class_iou", "samples"}
        further = {
            k: float(v) for k, v in tree.items() if k not in own and isinstance(v, int | float)
        }
        known = {k: v for k, v in tree.items() if k in own} | {"method": method, "further": further}
        judge = _validate(JudgeScores, known, file=file, stage=stage)
        _check_classes(judge.per_class_iou, taxonomy=taxonomy, file=file, stage=stage)
        judges.append(judge)
    return judges


def read_memorization(*, paths: ProjectPaths) -> list[MemorizationScores]:
    """Return the distances of every method that has been compared with the training set."""
    files = {
        method: paths.report("memorization", method) / "metrics.json"
        for method in SYNTHESIS_METHODS
    }
    return [
        _validate(
            MemorizationScores,
            _read_json(file, stage=f"memorization@{method}") | {"method": method},
            file=file,
            stage=f"memorization@{method}",
        )
        for method, file in files.items()
        if file.is_file()
    ]


def _read_json(file: Path, *, stage: str) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SegGenError(
            f"{file} is not valid JSON ({error}); make it again with: dvc repro -f -s {stage}"
        ) from None
    if not isinstance(tree, dict):
        raise SegGenError(
            f"{file} holds {type(tree).__name__}, expected a mapping; make it again with: dvc repro -f -s {stage}"
        )
    return tree


def _validate(model: type[Report], tree: dict[str, Any], *, file: Path, stage: str) -> Report:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SegGenError(
            f"{file}: {where}: {first['msg']}; make it again with: dvc repro -f -s {stage}"
        ) from None


def _check_classes(scores: dict[str, float], *, taxonomy: Taxonomy, file: Path, stage: str) -> None:
    if foreign := sorted(set(scores) ^ set(taxonomy.slugs)):
        raise SegGenError(
            f"{file} doesn't fit the taxonomy in classes {', '.join(foreign)}; make it again with: dvc repro -f -s {stage}"
        )
