"""Every error that seggen raises for something a user can put right.

    SegGenError
    ├── ConfigError        params.yaml: an unknown, mistyped or inconsistent value
    ├── DatasetError       a folder, image or mask of the real dataset
    ├── CaptionError       a caption is missing, empty or unreadable
    ├── FoundationError    the text-to-image pipeline can't be loaded or doesn't fit
    ├── PromptError        a class isn't found in a prompt
    ├── AttentionError     attention maps can't be captured or hold no usable signal
    ├── ArtefactError      a file that an earlier stage made is damaged
    ├── SampleStoreError   a shard or its index is missing, corrupt or inconsistent
    ├── CheckError         a blocking check of the data fails
    ├── ExportError        a format can't hold the samples, or the Hub doesn't take them
    └── StorageError       the disk is full or not writable

StorageError is an OSError too, all others are ValueErrors.

A message says what was found, what was expected, where, and what to do next.
The command line prints the message alone and exits with `exit_code`.
"""


class SegGenError(Exception):
    """Base of all errors for user input; anything else that escapes is a bug."""

    exit_code = 2


class ConfigError(SegGenError, ValueError):
    """params.yaml holds an unknown, mistyped or inconsistent value."""


class DatasetError(SegGenError, ValueError):
    """A folder, image or mask of the real dataset is missing, unreadable or invalid."""


class CaptionError(SegGenError, ValueError):
    """A caption is missing, empty or unreadable."""


class FoundationError(SegGenError, ValueError):
    """The text-to-image pipeline can't be loaded, or doesn't fit the stage that wants it."""


class PromptError(SegGenError, ValueError):
    """A class that a mask was asked for isn't found in the prompt."""


class AttentionError(SegGenError, ValueError):
    """Attention maps can't be captured from this pipeline, or hold no usable signal."""


class ArtefactError(SegGenError, ValueError):
    """A file that an earlier stage made is damaged."""


class SampleStoreError(SegGenError, ValueError):
    """A shard or its index is missing, corrupt or inconsistent."""


class CheckError(SegGenError, ValueError):
    """A blocking check fails on data that a stage was going to read."""


class ExportError(SegGenError, ValueError):
    """A format can't hold the samples, or the Hub doesn't take them."""


class StorageError(SegGenError, OSError):
    """The disk is full or not writable; what was committed before is intact."""

    exit_code = 3
