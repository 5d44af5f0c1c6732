"""Run and describe a DVC pipeline from Python, and as assets of Dagster. Knows nothing of the project whose pipeline it is.

DVC:
- `manifest`: what dvc.yaml and params.yaml define, and which stages have changed
- `lock`: what DVC recorded of each stage's last run
- `execution`: one stage through DVC, in its own process group
- `fork_server`: the process that those are forked from, with DVC already imported
- `lock_writer`: lets it write one stage into dvc.lock without taking the others apart
- `params`: parameters of one run, checked before DVC sees them
- `experiment`: one stage with other parameters, recorded as a DVC experiment
- `schedule`: the order in which stages run, and which needn't be looked at
- `repro`: the whole pipeline, several stages at a time

Dagster:
- `translator`: how a group of stages becomes an asset, one method per property; `partitions`: its
  items as partitions
- `provenance`: data and code versions from DVC's records; `bridge`: what Dagster has heard of them
- `assets`, `checks`, `jobs`, `sensor`: definitions made of a manifest
- `gate`: whether a failed check holds a stage up
- `events`: what is told of a stage that has ended
- `resource`: the project as a resource; `component`: all of it from a few lines of YAML

`errors`: what can go wrong.
"""
