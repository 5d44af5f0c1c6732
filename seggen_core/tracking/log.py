"""The log of all runs on disk. Stages only append to it; `follow` sends it to MLflow.

    .seggen/metrics/
        runs/<start>.<stage>[@item].<uid>.jsonl   one run: one event a line, its start first
        artifacts/<md5>/<name>                    copies of the pictures and tables of runs
        sent/<store>/<uid>.json                   how much a store has; only `follow` writes it

The uid identifies a run, not its place, so a project may be moved or copied. While a stage runs,
its process holds a lock on its file. If nobody holds the lock and the file has no end, the run was
killed.
"""

import fcntl
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from seggen_core.project.digests import content_digest

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 18
"""A reader takes about so many bytes at a time: some thousand metrics, which a store takes in a
second.
"""

MAX_UNWRITTEN_BYTES = 1 << 24
"""Most bytes that a stage holds in memory while the disk is full; later events are lost."""


def _as_unicode(text: Any) -> Any:
    return text.encode(errors="backslashreplace").decode() if isinstance(text, str) else text


Integer = Annotated[int, Field(gt=-(1 << 63), lt=1 << 63)]
"""An integer of at most 64 bits, as databases have."""

Text = Annotated[str, BeforeValidator(_as_unicode)]
"""Any text; bytes of a file name that are not UTF-8 become escapes."""


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    time: Integer = Field(default_factory=lambda: time.time_ns() // 1_000_000)
    """Time of writing, in ms since the epoch."""


class Start(_Event):
    """The start of an execution of a stage ("masksyn") for an item ("car")."""

    event: Literal["start"] = "start"
    run: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """The run's uid."""
    name: Text
    stage: Text
    item: Text | None
    experiment: Text
    params: dict[Text, Text]
    tags: dict[Text, Text]
    kind: Literal["stage", "arm", "seed"] = "stage"
    """"arm" is the run of an ablation arm, and "seed" one of its segmenters."""
    parent: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    """The uid of the run that this one is a part of."""


class Params(_Event):
    """Parameters that were known after the start."""

    event: Literal["params"] = "params"
    params: dict[Text, Text]


class Metrics(_Event):
    """Values at a step; NaN and infinities are allowed."""

    event: Literal["metrics"] = "metrics"
    step: Integer
    metrics: dict[str, float]


class Tags(_Event):
    """Tags that were set after the start."""

    event: Literal["tags"] = "tags"
    tags: dict[Text, Text]


class Input(_Event):
    """An artifact that the run read."""

    event: Literal["input"] = "input"
    name: Text
    path: Text
    digest: str
    """Its md5."""
    digest_from: Literal["dvc", "content"]
    """Whether the md5 is DVC's or ours of the content."""


class Output(_Event):
    """An artifact that the run made, with the md5 that DVC records for it."""

    event: Literal["output"] = "output"
    path: Text
    digest: str


class Model(_Event):
    """A segmenter to be logged and registered in MLflow."""

    event: Literal["model"] = "model"
    name: Text
    """Name of the registered model."""
    architecture: Literal["hrnet", "mask2former", "eomt", "detectron2"]
    files: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{32}/[^/]*[^/.][^/]*$")]]
    """Its copies below artifacts/, by name in the model's folder."""
    tags: dict[Text, Text]
    """Tags of its version."""


class Artifact(_Event):
    """A picture or table."""

    event: Literal["artifact"] = "artifact"
    path: Text
    file: Annotated[str, Field(pattern=r"^[0-9a-f]{32}/[^/]*[^/.][^/]*$")]
    """Its copy below artifacts/."""


class End(_Event):
    """How the run ended."""

    event: Literal["end"] = "end"
    status: Literal["FINISHED", "FAILED", "KILLED"]


Event = Start | Params | Metrics | Tags | Input | Output | Artifact | Model | End
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


class RunLog:
    """Appends the events of one run. A full disk causes one warning and never stops the stage."""

    def __init__(self, folder: Path, *, name: str) -> None:
        """Name the file of a new run of `name` in `folder`; the first event opens it."""
        self.uid = uuid.uuid4().hex
        stamp = _stamp(time.time())
        for newest in run_files(folder, name)[:1]:
            # A clock that was set back makes no run older than the one before it.
            earlier = newest.name.partition(".")[0]
            with suppress(ValueError):
                stamp = max(stamp, _stamp(_seconds(earlier) + 0.001))
        self._folder = folder
        self._path = folder / "runs" / f"{stamp}.{name}.{self.uid}.jsonl"
        self._descriptor: int | None = None
        self._unwritten = b""
        self._is_warned = False
        # A forked worker that outlives a killed stage must not keep the lock.
        os.register_at_fork(after_in_child=self.close)

    def append(self, event: Event) -> None:
        """Write an event, after earlier events that a full disk delayed."""
        if len(self._unwritten) < MAX_UNWRITTEN_BYTES:
            self._unwritten += event.model_dump_json().encode() + b"\n"
        try:
            descriptor = self._open()
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(descriptor, self._unwritten) :]
        except OSError as error:
            self._warn(f"metrics of {self._path.stem}", error)

    def copy_artifact(self, source: Path, *, link: bool = False) -> str | None:
        """Copy a file below artifacts/; return its path there, or None if the disk is full.

        Args:
            source: the file.
            link: whether a hard link will do, because nobody writes into `source` again.
        """
        try:
            file = f"{content_digest(source)}/{_as_unicode(source.name)}"
            copy = self._folder / "artifacts" / file
            if not copy.is_file():
                copy.parent.mkdir(parents=True, exist_ok=True)
                unfinished = copy.with_name(f"{self.uid}.unfinished")
                _copy(source, unfinished, link=link)
                unfinished.replace(copy)
        except OSError as error:
            self._warn(str(source), error)
            return None
        return file

    def close(self) -> None:
        """Close the file and release its lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            with suppress(OSError):  # without locks, a run counts as killed until it ends
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self._descriptor

    def _warn(self, subject: str, error: OSError) -> None:
        if not self._is_warned:
            logger.warning(
                "%s can't be written to %s (%s); the stage continues. Free space or change the "
                "folder's permissions to get a complete log",
                subject,
                self._folder,
                error.strerror,
            )
        self._is_warned = True


def _copy(source: Path, copy: Path, *, link: bool) -> None:
    if link:
        with suppress(OSError):  # another file system, or one without links
            copy.hardlink_to(source.resolve())
            return
    shutil.copyfile(source, copy)


class Chunk(NamedTuple):
    """Some lines of a run's file."""

    events: list[Event]
    """The events of the whole lines."""
    offset: int
    """The byte position behind them."""
    num_damaged: int
    """Lines that couldn't be read."""


def read_chunk(path: Path, offset: int = 0) -> Chunk:
    """Read about `CHUNK_BYTES` of whole lines from a byte position on."""
    with path.open("rb") as log:
        log.seek(offset)
        lines = log.readlines(CHUNK_BYTES)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    events: list[Event] = []
    for line in lines:
        with suppress(ValidationError):
            events.append(_EVENT.validate_json(line))
    return Chunk(events, offset + sum(map(len, lines)), len(lines) - len(events))


def is_being_written(path: Path) -> bool:
    """Whether the stage that writes this file still runs."""
    with path.open("rb") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
    return False


def _stamp(seconds: float) -> str:
    """Return a time in UTC as text that sorts, to the millisecond: 20260131T235959123."""
    milliseconds = round(seconds * 1000)
    text = time.strftime("%Y%m%dT%H%M%S", time.gmtime(milliseconds // 1000))
    return f"{text}{milliseconds % 1000:03d}"


def _seconds(stamp: str) -> float:
    """Inverse of `_stamp`; ValueError for other text."""
    whole = datetime.strptime(stamp[:-3], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return whole.timestamp() + int(stamp[-3:]) / 1000


def run_files(folder: Path, name: str | None = None) -> list[Path]:
    """Return the files of all runs, or of the runs of one stage ("masksyn@car"), newest first."""
    files = sorted((folder / "runs").glob("*.jsonl"), reverse=True)
    if name is None:
        return files
    return [file for file in files if file.name.split(".", 1)[1].rsplit(".", 2)[0] == name]


def find_run(folder: Path, uid: str) -> Path | None:
    """Return the file of the run with this uid."""
    return next((folder / "runs").glob(f"*.{uid}.jsonl"), None)


def read_events(path: Path) -> list[Event]:
    """Return all events of a run."""
    events: list[Event] = []
    offset = 0
    while (chunk := read_chunk(path, offset)).offset > offset:
        events += chunk.events
        offset = chunk.offset
    return events


@contextmanager
def file_lock(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold a lock on `path` among processes; TimeoutError after `timeout` seconds of waiting."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    with path.open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    message = f"{path} has been locked by another process for {timeout:.0f} s"
                    raise TimeoutError(message) from None
                time.sleep(0.05)
        yield
