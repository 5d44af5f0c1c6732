"""Every error that dvc_assets raises for something a user can put right.

    DvcAssetsError
    ├── DvcProjectError    the folder is no DVC project, or DVC can't read its dvc.yaml or params.yaml
    ├── DvcBusyError       another DVC process is writing what has to be read; try again when it has ended
    ├── UnknownStageError  a target names no stage and no group
    ├── ParamsError        parameters that were given for one run are refused
    └── DvcServerError     the process that stages are forked from has died

A stage that fails is no error but a `StageResult`, since other stages may be running beside it.
"""


class DvcAssetsError(Exception):
    """Base of all errors of this package; anything else that escapes is a bug."""


class DvcProjectError(DvcAssetsError):
    """The folder is no DVC project, or DVC can't read its dvc.yaml or params.yaml."""


class DvcBusyError(DvcAssetsError):
    """Another DVC process is writing what has to be read."""


class UnknownStageError(DvcAssetsError):
    """A target names no stage and no group of stages."""


class ParamsError(DvcAssetsError):
    """Parameters that were given for one run are refused."""


class DvcServerError(DvcAssetsError):
    """The process that stages are forked from has died."""
