"""Tracking of stages in MLflow, without a network call in a stage.

    with track_stage("text2mask", item=None, params=..., runtime=runtime, paths=paths) as run:
        run.log_metrics({"train/loss": 0.3}, step=10)
        run.log_input(name="captions", path=paths.captions)
        run.log_artifact(preview_path)

A stage only appends what it reports to a file in `.seggen/metrics/runs` (`log`). One follower
(`seggen track --follow`, which `make ui` and `make demo` start) sends new lines to MLflow within
seconds. `seggen track` sends everything that is missing, then ends.

The follower sends to MLFLOW_TRACKING_URI, else to `runtime.tracking_uri`, else to `mlflow.db`
(SQLite) in the project folder, with artifacts in `mlruns/`. The address "disk" sends nothing. A
stage chooses its experiment: MLFLOW_EXPERIMENT_NAME in its environment, else "seggen/<profile>"
with the profile that params.yaml names.
"""

from seggen_core.tracking.run import StageRun, track_stage
from seggen_core.tracking.steps import tracked_steps

__all__ = ["StageRun", "track_stage", "tracked_steps"]
