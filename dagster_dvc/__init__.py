"""Run and describe a DVC pipeline from Python, and as assets of Dagster.

It knows nothing of the project whose pipeline it is. README.md says how to use it.

DVC:
- `graph`: stages as plain data; `manifest`: makes them from dvc.yaml and params.yaml
- `repo`: opens a project with DVC's own classes; `busy`: DVC's locks, and who holds them
- `lock`: what DVC recorded of each stage's last run; `status`: which stages have changed
- `process`: `dvc` in a process group of its own
- `schedule`: the order in which stages run; `result`: how one ended; `durations`: how long it took
- `runner`: runs a schedule, several stages at a time
- `repro`: the command line
- `params`: parameters of one run, checked before DVC sees them; `experiment`: a run with them

Dagster:
- `translator`: how a group of stages becomes an asset, one method per property; `partitions`: its
  items as partitions; `versions`: data and code versions from DVC's records
- `blueprint`: a manifest, checks and how Dagster sees them; `assets`, `checks`, `jobs`, `sensor`:
  definitions made of it
- `follow`: runs stages inside of a Dagster run; `events`: metadata and failures of a stage
- `verdicts`: results of blocking checks, for the stages downstream
- `resource`: the project as a resource; `definitions`: all of it in one call; `component`: all of
  it from a few lines of YAML

`errors`: what can go wrong; `files`: small JSON files.
"""
