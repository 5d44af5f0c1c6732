"""Stage `memorization`: how near a method's samples come to the real training samples."""

from seggen_core.config import SegGenConfig
from seggen_core.evaluation.memorization import measure_memorization
from seggen_core.evaluation.methods import MethodSamples, check_method
from seggen_core.project.paths import ProjectPaths
from seggen_core.stage import open_stage
from seggen_core.store.reader import SampleStore


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/reports/memorization/<method>.

    metrics.json, distances.csv (a row a sample) and reference.csv (a row a validation sample) hold
    what `evaluation.memorization` measures; nearest.png shows the nearest pairs.

    Raises:
        ConfigError: there is no such method.
        SampleStoreError: the method has no sample.
    """
    method, settings = check_method(item, config=config), config.memorization
    with open_stage("memorization", item=item, config=config, paths=paths) as stage:
        samples = MethodSamples.open(paths, method=method, classes=config.classes)
        train, validation = SampleStore(paths.real("train")), SampleStore(paths.real("val"))
        inputs = {method: paths.synthetic(method), "real_train": train.folder}
        for name, path in (inputs | {"real_val": validation.folder}).items():
            stage.run.log_input(name=name, path=path)
        report = measure_memorization(
            samples,
            train=train,
            validation=validation,
            num_classes=len(stage.taxonomy),
            settings=settings,
            num_threads=config.runtime.num_threads,
            device=stage.device,
        )
        stage.publish_report(report, paths.report("memorization", method))
