"""Words and prompts of `seggen mask`, checked before the first image."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from seggen_core.errors import PromptError
from seggen_core.synthesis.mask_images import MaskRequest
from seggen_core.synthesis.prompt_file import ListedPrompt, listed_faults
from seggen_core.synthesis.prompts import ClassPrompt
from seggen_core.synthesis.words import class_forms, find_words, missing_words, parse_word
from seggen_core.taxonomy import IGNORE_INDEX, SegmentationClass, Taxonomy, slugify

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

_NAME_LENGTH = 60


class Words(NamedTuple):
    """The words that masks are asked for.

    Attributes:
        taxonomy: a class for each.
        forms: what else each is called, plurals among it.
    """

    taxonomy: Taxonomy
    forms: Mapping[SegmentationClass, tuple[str, ...]]


def read_words(texts: Sequence[str]) -> Words:
    """Return the words of "--word" options: "corgi", "person: man, woman, people".

    Raises:
        PromptError: one isn't such a word, two are the same or share a synonym, one is called
            background, or there are too many.
    """
    listed = [parse_word(text) for text in texts]
    slugs = [slugify(name) for name, _ in listed]
    twice = sorted({slug for slug in slugs if slugs.count(slug) > 1})
    if twice:
        raise PromptError(f"the word {twice[0]!r} is given twice; give each word once")
    if "background" in slugs:
        raise PromptError("'background' is what no word covers, id 0 of every mask; leave it out")
    if len(listed) >= IGNORE_INDEX - 1:
        raise PromptError(f"{len(listed)} words are given; masks hold {IGNORE_INDEX - 2} at most")
    taxonomy = Taxonomy.from_names(stuff=[], things=[name for name, _ in listed])
    synonyms = {c.slug: others for c, (_, others) in zip(taxonomy, listed, strict=True)}
    return Words(taxonomy, class_forms(taxonomy, synonyms))


def make_requests(
    prompts: Iterable[ListedPrompt],
    *,
    words: Words,
    tokenizer: "CLIPTokenizer",
    seeds: Sequence[int],
) -> list[MaskRequest]:
    """Return what to make: an image for each prompt and seed.

    Args:
        prompts: all of them; one that occurs twice is made once.
        words: to look for.
        tokenizer: the pipeline's.
        seeds: of the noise.

    Raises:
        PromptError: prompts name none of the words, or name one past the text encoder's end. The
            message lists them.
    """
    prompt_of: dict[str, ClassPrompt] = {}
    faults = []
    for text, origin, _ in prompts:
        try:
            tokens = find_words(tokenizer, prompt=text, forms=words.forms)
            if not tokens:
                raise missing_words(text, words.forms)
        except PromptError as error:
            faults.append(f"{origin}: {error}" if origin else str(error))
        else:
            prompt_of[text] = ClassPrompt(text, tuple(tokens), tuple(tokens.values()))
    if faults:
        raise PromptError(listed_faults(faults))
    names = _names(list(prompt_of))
    return [
        MaskRequest(f"{names[text]}_{seed}", prompt, seed)
        for text, prompt in prompt_of.items()
        for seed in seeds
    ]


def _names(texts: Sequence[str]) -> dict[str, str]:
    """Return names of files for prompts; those that would share one get a digest besides."""
    short = {text: slugify(text)[:_NAME_LENGTH].strip("_") for text in texts}
    shared = [name for name in short.values() if list(short.values()).count(name) > 1]
    names = {}
    for text, name in short.items():
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        names[text] = f"{name}_{digest}".strip("_") if name in shared or not name else name
    return names
