"""Every error of this package that a user can put right.

    DagsterDvcError
    ├── DvcProjectError    the folder is no DVC project, or DVC can't read one of its files
    ├── DvcBusyError       another DVC process holds what has to be read
    ├── UnknownStageError  a target names no stage and no group
    └── ParamsError        parameters that were given for one run are refused

A stage that fails raises nothing: it has a `StageResult`, since other stages may run beside it.
"""


class DagsterDvcError(Exception):
    """Base of all errors of this package; anything else that escapes is a bug."""


class DvcProjectError(DagsterDvcError):
    """The folder is no DVC project, or DVC can't read one of its files."""


class DvcBusyError(DagsterDvcError):
    """Another DVC process holds what has to be read."""


class UnknownStageError(DagsterDvcError):
    """A target names no stage and no group of stages."""


class ParamsError(DagsterDvcError):
    """Parameters that were given for one run are refused."""
