"""Prompts made of templates: `prompts` and `sub_classes` of the attention methods."""

from collections.abc import Sequence

from seggen_core.config.attention import AttentionMethodConfig
from seggen_core.errors import PromptError
from seggen_core.project.phrases import count_phrase
from seggen_core.project.rng import numpy_rng
from seggen_core.taxonomy import SegmentationClass, Taxonomy


def class_phrase(target: SegmentationClass, *, name: str | None = None) -> str:
    """Return "a car" or "an airplane" for a thing, the bare name for stuff ("grass").

    `name` stands for the class's own.
    """
    return count_phrase(name or target.name, 1) if target.is_thing else name or target.name


class TemplatePrompts:
    """The text of prompt i of a class: templates and sub-classes take turns."""

    def __init__(
        self,
        config: AttentionMethodConfig,
        *,
        target: SegmentationClass,
        taxonomy: Taxonomy,
        forms: Sequence[str],
        name: Sequence[str | int],
    ) -> None:
        """Take the templates of `config`.

        Args:
            config: templates and sub-classes.
            target: the class.
            taxonomy: all classes.
            forms: what prompts call the class.
            name: of the random streams.

        Raises:
            PromptError: a sub-class doesn't contain its class.
        """
        self._templates, self._target, self._taxonomy, self._name = (
            config.prompts,
            target,
            taxonomy,
            tuple(name),
        )
        self._names = config.sub_classes.get(target.slug, (target.name,))
        for name_of_class in self._names:
            if not any(form.lower() in name_of_class.lower() for form in forms):
                raise PromptError(
                    f"sub_classes.{target.slug} has {name_of_class!r}, which doesn't contain "
                    f"{target.name!r}: the mask is taken from that word's tokens; write the "
                    "class's name into it ('police car'), or list the word in "
                    f"synonyms.{target.slug}"
                )

    def __getitem__(self, index: int) -> str:
        """Return the text of prompt `index`."""
        turn, template = divmod(index, len(self._templates))
        phrase = class_phrase(self._target, name=self._names[turn % len(self._names)])
        text = self._templates[template].replace("{class}", phrase)
        if "{other}" in text:
            others = [c for c in self._taxonomy if c != self._target]
            rng = numpy_rng(*self._name, self._target.slug, index, "other")
            drawn = others[int(rng.integers(len(others)))]
            text = text.replace("{other}", class_phrase(drawn))
        return text
