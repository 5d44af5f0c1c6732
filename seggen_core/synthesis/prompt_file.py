"""Files of prompts, one a line, for `seggen mask` and the stages of the attention methods."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from seggen_core.errors import PromptError

_MAX_LISTED = 20
_MAX_BYTES = 1 << 26


class ListedPrompt(NamedTuple):
    """A prompt of a file or of the command line."""

    text: str
    """The prompt."""
    origin: str
    """Where it is from, in messages: "prompts.txt, line 3", or ""."""
    class_name: str | None = None
    """Its class, if the file names one."""


def read_prompts(path: Path) -> list[ListedPrompt]:
    """Read a file of prompts: one a line, as plain text or as JSON.

    JSON is {"prompt": "a red car"}, with "class" where the prompt is of one class. Other keys are
    the user's own.

    Raises:
        PromptError: the file can't be read, holds no prompt, or a line is no such object. The
            message lists the lines.
    """
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            raise PromptError(
                f"{path} is no file of prompts; expected a text file of at most 64 MiB, one prompt "
                "a line"
            )
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"the prompt file {path} can't be read: {error}") from None
    prompts, faults = [], []
    for line_number, line in enumerate(lines, start=1):
        text, origin = line.strip(), f"{path}, line {line_number}"
        if not text:
            continue
        prompt = _of_json(text, origin) if text[0] in "{[" else ListedPrompt(text, origin)
        if prompt is None:
            faults.append(f'{origin}: expected {{"prompt": "..."}}, found {line[:80]!r}')
        else:
            prompts.append(prompt)
    if faults:
        raise PromptError(listed_faults(faults))
    if not prompts:
        raise PromptError(f"{path} holds no prompt; expected one a line")
    return prompts


def listed_faults(faults: Sequence[str]) -> str:
    """Return one message on all prompts that can't be used; the first 20 are listed."""
    shown = [fault if len(faults) == 1 else f"  {fault}" for fault in faults[:_MAX_LISTED]]
    if len(faults) == 1:
        return shown[0]
    more = [f"  ... and {len(faults) - _MAX_LISTED} more"] if len(faults) > _MAX_LISTED else []
    return "\n".join([f"{len(faults)} prompts can't be used:", *shown, *more])


def _of_json(line: str, origin: str) -> ListedPrompt | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    text, class_name = row.get("prompt"), row.get("class")
    if not isinstance(text, str) or not text.strip() or not isinstance(class_name, str | None):
        return None
    return ListedPrompt(text.strip(), origin, class_name)
