"""Run and describe a DVC pipeline from Python. Knows nothing of the project whose pipeline it is.

- `manifest`: what dvc.yaml and params.yaml define, and which stages have changed
- `execution`: one stage through DVC, in its own process group
- `fork_server`: the process that those are forked from, with DVC already imported
- `schedule`: the order in which stages run, and which needn't be looked at
- `repro`: the whole pipeline, several stages at a time
- `errors`: what can go wrong
"""
