"""Prompts of the attention methods: from templates or the user's own lists.

Each comes with the tokens of every class that it names.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seggen_core.attention.tokens import class_token_positions
from seggen_core.config.attention import AttentionMethodConfig
from seggen_core.errors import PromptError
from seggen_core.synthesis.prompt_templates import TemplatePrompts
from seggen_core.taxonomy import SegmentationClass, Taxonomy

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


@dataclass(frozen=True)
class ClassPrompt:
    """One prompt and the classes that its image is labelled with.

    Attributes:
        text: the prompt.
        classes: the partition's class first; the others that the prompt names after it, in train-id
            order.
        tokens: positions of each class's tokens.
    """

    text: str
    classes: tuple[SegmentationClass, ...]
    tokens: tuple[tuple[int, ...], ...]


def read_prompt_file(path: Path, *, taxonomy: Taxonomy) -> dict[str, list[str]]:
    """Read a list of prompts; return the prompts of each class by its slug.

    Args:
        path: one JSON object a line with "class" (slug or name) and "prompt".
        taxonomy: the classes.

    Raises:
        PromptError: the file can't be read, a line isn't such an object, or a class isn't in the
            taxonomy.
    """
    by_name = {c.name: c.slug for c in taxonomy} | {c.slug: c.slug for c in taxonomy}
    prompts: dict[str, list[str]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"the prompt file {path} can't be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise PromptError(f"{path}, line {number}: not JSON ({error})") from None
        if (
            not isinstance(row, dict)
            or not isinstance(row.get("prompt"), str)
            or row.get("class") not in by_name
        ):
            raise PromptError(
                f'{path}, line {number}: expected {{"class": ..., "prompt": ...}} with a class of '
                f"{', '.join(taxonomy.slugs)}, found {line[:80]!r}"
            )
        prompts.setdefault(by_name[row["class"]], []).append(row["prompt"])
    return prompts


class PromptSource:
    """Prompt i of a class: a pure function of the settings, the class, i and the seed."""

    def __init__(
        self,
        config: AttentionMethodConfig,
        *,
        target: SegmentationClass,
        taxonomy: Taxonomy,
        tokenizer: "CLIPTokenizer",
        name: Sequence[str | int],
        base: Path = Path(),
    ) -> None:
        """Read the prompt file, if there is one.

        Args:
            config: templates or prompt file.
            target: the class.
            taxonomy: all classes.
            tokenizer: the foundation's.
            name: of the random streams.
            base: where the prompt file's relative path starts.

        Raises:
            PromptError: the prompt file is unreadable or has no prompt of this class; a sub-class
                doesn't contain its class.
        """
        self._config, self._target, self._taxonomy, self._tokenizer = (
            config,
            target,
            taxonomy,
            tokenizer,
        )
        self._listed: list[str] | None = None
        self._templates = TemplatePrompts(config, target=target, taxonomy=taxonomy, name=name)
        if config.prompt_file is not None:
            listed = read_prompt_file(base / config.prompt_file, taxonomy=taxonomy)
            if target.slug not in listed:
                raise PromptError(
                    f"{config.prompt_file} has no prompt of class {target.slug!r}, "
                    f"only of {', '.join(listed)}"
                )
            self._listed = listed[target.slug]

    def __getitem__(self, index: int) -> ClassPrompt:
        """Return prompt `index`; listed prompts take turns, as templates and sub-classes do.

        Raises:
            PromptError: the prompt doesn't name the class.
        """
        text = (
            self._templates[index]
            if self._listed is None
            else self._listed[index % len(self._listed)]
        )
        tokens = {
            self._target: class_token_positions(
                self._tokenizer, prompt=text, class_name=self._target.name
            )
        }
        if self._config.multi_class:
            tokens |= find_classes(
                self._tokenizer, prompt=text, taxonomy=self._taxonomy, without=tokens
            )
        return ClassPrompt(text, tuple(tokens), tuple(tokens.values()))


def find_classes(
    tokenizer: "CLIPTokenizer",
    *,
    prompt: str,
    taxonomy: Taxonomy,
    without: Mapping[SegmentationClass, tuple[int, ...]],
) -> dict[SegmentationClass, tuple[int, ...]]:
    """Return the classes of a taxonomy that a prompt names, with their tokens.

    Those in `without` are left out, and so is a class that would share a token with them.
    """
    taken = {position for positions in without.values() for position in positions}
    named = {}
    for known in sorted(taxonomy, key=lambda c: -len(c.name)):  # "traffic light" before "light"
        if known in without:
            continue
        try:
            positions = class_token_positions(tokenizer, prompt=prompt, class_name=known.name)
        except PromptError:
            continue
        if not taken.intersection(positions):
            taken.update(positions)
            named[known] = positions
    return {c: named[c] for c in sorted(named, key=lambda c: c.train_id)}
