"""Prompts of the attention methods: from templates or the user's own lists.

Each comes with the tokens of every class that it names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seggen_core.config.attention import AttentionMethodConfig
from seggen_core.errors import PromptError
from seggen_core.synthesis.prompt_file import ListedPrompt, listed_faults, read_prompts
from seggen_core.synthesis.prompt_templates import TemplatePrompts
from seggen_core.synthesis.words import class_forms, find_words, missing_words
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


def prompts_by_class(
    prompts: Sequence[ListedPrompt],
    *,
    forms: Mapping[SegmentationClass, Sequence[str]],
    tokenizer: "CLIPTokenizer",
) -> dict[str, list[str]]:
    """Return the prompts of each class, by its slug.

    Args:
        prompts: of a file; one without a class is of each class that it names.
        forms: what prompts call each class.
        tokenizer: the foundation's.

    Raises:
        PromptError: a prompt is of an unknown class, doesn't name its class, or names it past the
            text encoder's end. The message lists all such prompts.
    """
    by_name = {c.name: c for c in forms} | {c.slug: c for c in forms}
    listed: dict[str, list[str]] = {}
    faults = []
    for text, origin, name in prompts:
        if name is not None and name not in by_name:
            known = ", ".join(c.slug for c in forms)
            faults.append(f"{origin}: there is no class {name[:80]!r}; expected one of {known}")
            continue
        wanted = forms if name is None else {by_name[name]: forms[by_name[name]]}
        try:
            named = find_words(tokenizer, prompt=text, forms=wanted)
            if not named:
                raise missing_words(text, wanted)
        except PromptError as error:
            faults.append(f"{origin}: {error}")
            continue
        for known_class in named:
            listed.setdefault(known_class.slug, []).append(text)
    if faults:
        raise PromptError(listed_faults(faults))
    return listed


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
        """Read the prompt file, if there is one, and check all of it, other classes' prompts too.

        Args:
            config: templates or prompt file.
            target: the class.
            taxonomy: all classes.
            tokenizer: the foundation's.
            name: of the random streams.
            base: where the prompt file's relative path starts.

        Raises:
            PromptError: a prompt of the file can't be used, or none is of this class; a sub-class
                doesn't contain its class; or as `class_forms`.
        """
        self._config, self._target, self._tokenizer = config, target, tokenizer
        self._forms = class_forms(taxonomy, config.synonyms)
        self._listed: list[str] | None = None
        self._templates = TemplatePrompts(
            config, target=target, taxonomy=taxonomy, forms=self._forms[target], name=name
        )
        if config.prompt_file is not None:
            listed = prompts_by_class(
                read_prompts(base / config.prompt_file), forms=self._forms, tokenizer=tokenizer
            )
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
        target_forms = {self._target: self._forms[self._target]}
        tokens = find_words(self._tokenizer, prompt=text, forms=target_forms)
        if not tokens:
            raise missing_words(text, target_forms)
        if self._config.multi_class:
            others = {
                known: words for known, words in self._forms.items() if known not in target_forms
            }
            tokens |= find_words(
                self._tokenizer,
                prompt=text,
                forms=others,
                taken=tokens[self._target],
                ignore_late=True,
            )
        return ClassPrompt(text, tuple(tokens), tuple(tokens.values()))
