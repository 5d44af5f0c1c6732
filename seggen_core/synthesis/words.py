"""Words that masks are asked for: a name, what else it is called, and where a prompt says it.

"person: man, woman, people" is the class "person", which a prompt may also call a man, a woman or
people. Regular plurals need not be listed: "car" is found in "two cars", too.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from seggen_core.attention.tokens import find_tokens
from seggen_core.errors import PromptError
from seggen_core.project.phrases import pluralize
from seggen_core.taxonomy import SegmentationClass, Taxonomy, slugify

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


def parse_word(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the name and the synonyms of "person: man, woman, people".

    Raises:
        PromptError: there is no name, or a synonym is empty.
    """
    name, colon, rest = text.partition(":")
    synonyms = tuple(part.strip() for part in rest.split(",")) if colon else ()
    if not slugify(name) or not all(synonyms):
        raise PromptError(
            f"{text!r} is no word to make masks of; expected a name, or a name and its synonyms: "
            "'person: man, woman, people'"
        )
    return name.strip(), synonyms


def word_forms(name: str, synonyms: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the name, its synonyms and the plurals of all, each once."""
    singular = (name, *synonyms)
    return tuple(dict.fromkeys((*singular, *(pluralize(form) for form in singular))))


def class_forms(
    taxonomy: Taxonomy, synonyms: Mapping[str, Sequence[str]]
) -> dict[SegmentationClass, tuple[str, ...]]:
    """Return what prompts call each class: `word_forms` without what another class is called.

    Args:
        taxonomy: the classes.
        synonyms: of classes, by slug.

    Raises:
        PromptError: there is no class of such a slug, a synonym is empty, or two classes have one
            name.
    """
    owners: dict[str, SegmentationClass] = {}
    if unknown := sorted(set(synonyms) - set(taxonomy.slugs)):
        raise PromptError(
            f"synonyms are given of {', '.join(unknown)}; expected classes of "
            f"{', '.join(taxonomy.slugs)}"
        )
    for known in taxonomy:
        for name in (known.name, *synonyms.get(known.slug, ())):
            if not name.strip():
                raise PromptError(f"a synonym of {known.name!r} is empty; remove it")
            owner = owners.setdefault(name.lower(), known)
            if owner != known:
                raise PromptError(
                    f"{name!r} stands for two classes, {owner.name!r} and {known.name!r}; expected "
                    "each word in one of them"
                )
    forms = {c: word_forms(c.name, synonyms.get(c.slug, ())) for c in taxonomy}
    return {
        c: tuple(w for w in words if owners.get(w.lower(), c) == c) for c, words in forms.items()
    }


def find_words(
    tokenizer: "CLIPTokenizer",
    *,
    prompt: str,
    forms: Mapping[SegmentationClass, Iterable[str]],
    taken: Iterable[int] = (),
    ignore_late: bool = False,
) -> dict[SegmentationClass, tuple[int, ...]]:
    """Return the classes that a prompt names, with the positions of all their forms' tokens.

    Longer forms come first, and a token belongs to one class only: in "a traffic light" there is
    no "light" besides.

    Args:
        tokenizer: the pipeline's.
        prompt: the text.
        forms: of each class, the words that stand for it.
        taken: positions that belong to another class.
        ignore_late: a word past the text encoder's last position, which the network never sees,
            counts as not named, instead of being an error.

    Returns:
        Positions in ascending order, by class in the order of `forms`.

    Raises:
        PromptError: a word stands past the text encoder's last position.
    """
    owners: dict[int, SegmentationClass | None] = dict.fromkeys(taken)
    pairs = [(form, known) for known, words in forms.items() for form in words]
    for form, known in sorted(pairs, key=lambda pair: -len(pair[0])):
        try:
            positions = find_tokens(tokenizer, prompt=prompt, phrase=form)
        except PromptError:
            if not ignore_late:
                raise
            continue
        if not any(owners.get(position, known) != known for position in positions):
            owners.update(dict.fromkeys(positions, known))
    return {
        known: positions
        for known in forms
        if (positions := tuple(sorted(p for p, owner in owners.items() if owner == known)))
    }


def missing_words(prompt: str, forms: Mapping[SegmentationClass, Iterable[str]]) -> PromptError:
    """Return the error of a prompt that names none of the words."""
    known = "; ".join(", ".join(words) for words in forms.values())
    return PromptError(f"the prompt {prompt!r} names none of the words ({known})")
