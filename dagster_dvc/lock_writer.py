"""Lets DVC write one stage into dvc.lock without taking the others apart.

DVC parses the whole file and writes it anew after every stage, with a parser and a writer in Python
that keep comments: among 600 stages, four fifths of the CPU time of `dvc repro --single-item` (1.7
of 2.1 s). `install` gives DVC another `modify_yaml` for dvc.lock: one stage is parsed, one is
written, and the text of all others stays. What comes out is the same, byte for byte. A file that
isn't as DVC writes it (comments, anchors, datasets) is left to DVC's own.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dvc.fs import FileSystem

LOCK_FILE = "dvc.lock"
_HEAD = "schema: '2.0'\nstages:\n"
_PLAIN = re.compile(
    r"(?:  (?:[^\s#?'\"&*!|>%@`\[\]{},-][^\n]*|'[^\n]*'|\"[^\n]*\"):\n(?:(?:    [^\n]*)?\n)+)+"
)
"""What DVC writes below the head: stages two spaces in, each with more lines further in."""
_KEY = re.compile(r"^  (?! ).*:\n", re.MULTILINE)
_ANCHOR = re.compile(r"(?:^|[\s-])[&*]id\d+", re.MULTILINE)
"""What one stage shares with another in the file: cutting one out would break the other."""


class LockText:
    """The text of a dvc.lock, as the mapping of stages that DVC's `Lockfile.dump_stages` works with.

    Args:
        text: of a file for which `is_plain` holds.
    """

    def __init__(self, text: str) -> None:
        """Find where each stage begins."""
        self._before = _HEAD
        starts = [match.start() for match in _KEY.finditer(text, len(_HEAD))]
        blocks = [
            text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)
        ]
        self._blocks = {_name(block.partition("\n")[0]): block for block in blocks}

    @staticmethod
    def is_plain(text: str) -> bool:
        """Whether stages can be cut out of the text by looking at the indentation of its lines alone."""
        return (
            text.startswith(_HEAD)
            and _PLAIN.fullmatch(text, len(_HEAD)) is not None
            and _ANCHOR.search(text) is None
        )

    def get(self, name: str, default: Any) -> Any:
        """What the file says of a stage."""
        return _parse(self._blocks[name])[name] if name in self._blocks else default

    def update(self, stages: dict[str, Any]) -> None:
        """Put stages in the place of what the file says of them, or at its end."""
        from dvc.utils.serialize import dumps_yaml

        for name, stage in stages.items():
            self._blocks[name] = dumps_yaml({"stages": {name: stage}}).removeprefix("stages:\n")

    def __str__(self) -> str:
        """The text as it is now."""
        return self._before + "".join(self._blocks.values())


def install() -> None:
    """Let DVC in this process write dvc.lock this way."""
    from dvc import dvcfile

    original = dvcfile.modify_yaml

    def modify_yaml(path: str, fs: "FileSystem | None" = None) -> AbstractContextManager[Any]:
        file = Path(path)
        if file.name == LOCK_FILE and file.is_file():
            text = file.read_bytes().decode()
            if LockText.is_plain(text):
                return _modify_text(file, text)
        return original(path, fs=fs)

    dvcfile.modify_yaml = modify_yaml


@contextmanager
def _modify_text(path: Path, text: str) -> Iterator[dict[str, Any]]:
    stages = LockText(text)
    yield {"stages": stages}
    path.write_bytes(str(stages).encode())


def _name(key: str) -> str:
    """The stage that a line begins."""
    text = key.strip().removesuffix(":")
    return text if text[0] not in "'\"" else str(next(iter(_parse(key))))


def _parse(text: str) -> Any:
    from dvc.utils.serialize import loads_yaml

    return loads_yaml(text)
