"""MLflow tracking of stages, which no tracking server can stop.

    with track_stage("text2mask", item=None, params=params, runtime=config.runtime, paths=paths) as
    run:
        run.log_metrics({"train/loss": 0.3}, step=10)
        run.log_input(name="captions", path=paths.captions)
        run.log_artifact(preview_path)

Everything a run reports is first appended to `.seggen/metrics/<stage>[@item].jsonl`
(`metrics_log`), then sent to MLflow in batches (`mlflow_store`, the only importer of mlflow). A
server that is down, or dies midway, is said once; the run tries again at ever longer intervals, and
`replay` sends what is still missing later.

Where runs go: MLFLOW_TRACKING_URI, else `runtime.tracking_uri`, else `mlflow.db` (SQLite) in the
project folder with artifacts in `mlruns/`. The address "disk" sends nothing and leaves everything
to `replay`, which then pays MLflow's import (2.5 s of CPU, 4 s with a database) once for all stages
instead of once a stage. The experiment is MLFLOW_EXPERIMENT_NAME, else "seggen/<profile>" with the
profile that params.yaml names.
"""

from seggen_core.tracking.replay import ReplayReport, replay
from seggen_core.tracking.run import StageRun, track_stage
from seggen_core.tracking.steps import tracked_steps
from seggen_core.tracking.target import prepare_tracking

__all__ = ["ReplayReport", "StageRun", "prepare_tracking", "replay", "track_stage", "tracked_steps"]
