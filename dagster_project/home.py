"""The Dagster instance of `make ui`, in .seggen/dagster: `python -m dagster_project.home` makes it.

Dagster makes and migrates its databases in whatever process opens them first. Several that open a
fresh home at once break it for good. So it is made once, under a file lock, by `make setup` and
`make ui`; do so as well before scripts of yours open another one side by side:

    DAGSTER_HOME=/srv/dagster python -m dagster_project.home
"""

import fcntl
import os
import sys
from pathlib import Path

from dagster_project.resources import STATE_FOLDER, project_root

SETTINGS = """\
# Settings of the Dagster instance that `make ui` starts; made once, then yours.
telemetry:
  enabled: false
# No invitation to sign up for anything.
nux:
  enabled: false
concurrency:
  runs:
    max_concurrent_runs: {runs}
  pools:
    # Stages that name the same pool in dvc.yaml (meta.dagster.pool) share this many slots.
    default_limit: {slots}
run_monitoring:
  enabled: true
  # Starting a run is seconds of CPU: eight at once on a busy laptop take minutes.
  start_timeout_seconds: 900
"""
RUNS, SLOTS = 8, 1


def default_home() -> Path:
    """DAGSTER_HOME, else the folder of the project's own instance."""
    return Path(os.environ.get("DAGSTER_HOME") or project_root() / STATE_FOLDER / "dagster")


def make_home(home: Path, *, runs: int = RUNS, slots: int = SLOTS) -> None:
    """Make a Dagster instance in `home`, where there is none yet.

    Args:
        home: its folder; this process has it as DAGSTER_HOME afterwards.
        runs: Dagster runs at a time.
        slots: stages of one pool at a time.
    """
    from dagster import DagsterInstance

    home.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(home.resolve())
    with (home / ".making").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        settings = home / "dagster.yaml"
        if not settings.exists():
            settings.write_text(SETTINGS.format(runs=runs, slots=slots), encoding="utf-8")
        with DagsterInstance.get() as instance:
            instance.get_run_records(limit=1)
            instance.get_asset_keys(limit=1)


if __name__ == "__main__":
    make_home(default_home())
    print(f"The Dagster instance is in {default_home()}", file=sys.stderr)
