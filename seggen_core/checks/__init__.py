"""Checks of the results of stages, before other stages compute more from them.

Each check reads the output of a stage and returns a `Finding`. All checks have the same arguments:
the folder that the stage wrote, the project's paths, and the limits, which are the section `checks`
of params.yaml.

- `samples`: samples can be decoded and fit the taxonomy; no test image is in another split
- `synthesis`: classes, histogram, and agreement of images and masks of a synthetic partition
- `scores`: captions, checkpoints and judged methods against their limits
- `registry`: which stage has which checks
- `results`: evaluates checks, stores the results and finds them again
- `gate`: stops what reads an output whose checks fail
"""
