"""Stage `judge`: how well a method's masks fit its images, by a segmenter of all real samples."""

from seggen_core.colors.palette import class_palette
from seggen_core.config import SegGenConfig
from seggen_core.evaluation.judge import Judge
from seggen_core.evaluation.methods import MethodSamples, check_method
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.publish import write_json
from seggen_core.reports.grids import image_grid, picture_scale, prediction_rows
from seggen_core.segmentation.arms import TrainedArm, find_variant
from seggen_core.stage import open_stage

_PICTURE_SIDE = 96
_NUM_PICTURES = 6
_LABELS = [f"{end} {kind}" for end in ("best", "worst") for kind in ("image", "mask", "judge")]


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/reports/judge/<method>.

    metrics.json and scores.csv hold what `evaluation.judge` computes; pairs.png shows the best and
    the worst pairs.

    Raises:
        ConfigError: there is no such method, or no such variant as `judge.variant`.
        SampleStoreError: the method has no sample.
    """
    method, settings = check_method(item), config.judge
    find_variant(config, settings.variant)
    with open_stage("judge", item=item, config=config, paths=paths) as stage:
        arm = TrainedArm.read(paths, variant=settings.variant)
        judge = Judge(
            f"{settings.variant}/seed{arm.seeds[0]}",
            arm.load(arm.seeds[0], device=stage.device),
            stage.taxonomy,
            settings.batch_size,
        )
        samples = MethodSamples.open(paths, method=method)
        stage.run.log_input(name=method, path=paths.synthetic(method))
        report, palette = judge.score(samples), class_palette(len(stage.taxonomy))
        folder = stage.empty_scratch()
        write_json(folder / "metrics.json", report.metrics)
        report.ranking.round(4).to_csv(folder / "scores.csv", index=False)
        rows = []
        for pairs in (report.ranking[:_NUM_PICTURES], report.ranking[: -_NUM_PICTURES - 1 : -1]):
            shown = judge.predict(pairs, samples=samples)
            triples = [(p.image, p.truth, p.predicted) for p in shown]
            rows += prediction_rows(triples, palette=palette)
        scale = picture_scale(config.dataset.image_size, side=_PICTURE_SIDE)
        image_grid(rows, scale=scale, labels=_LABELS).save(folder / "pairs.png")
        stage.run.log_metrics(report.figures)
        for name in ("pairs.png", "scores.csv"):
            stage.run.log_artifact(folder / name)
        stage.publish(folder, paths.report("judge", method))
