"""Prompts of `seggen mask`: given one by one or as a file, and checked before the first image."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from seggen_core.errors import PromptError
from seggen_core.synthesis.mask_images import MaskRequest
from seggen_core.synthesis.prompts import ClassPrompt
from seggen_core.synthesis.words import find_words, missing_words, parse_word, word_forms
from seggen_core.taxonomy import IGNORE_INDEX, SegmentationClass, Taxonomy, slugify

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

_MAX_LISTED = 20
_MAX_BYTES = 1 << 26
_NAME_LENGTH = 60


class Words(NamedTuple):
    """The words that masks are asked for.

    Attributes:
        taxonomy: a class for each.
        forms: what else each is called, plurals among it.
    """

    taxonomy: Taxonomy
    forms: Mapping[SegmentationClass, tuple[str, ...]]


class ListedPrompt(NamedTuple):
    """A prompt, and where it is from, in messages: "prompts.txt, line 3", or ""."""

    text: str
    origin: str


def read_words(texts: Sequence[str]) -> Words:
    """Return the words of "--word" options: "corgi", "person: man, woman, people".

    Raises:
        PromptError: one isn't such a word, two are the same, one is called background, or there
            are too many.
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
    synonyms = [others for _, others in listed]
    return Words(
        taxonomy,
        {c: word_forms(c.name, others) for c, others in zip(taxonomy, synonyms, strict=True)},
    )


def read_prompts(path: Path) -> list[ListedPrompt]:
    """Read a file of prompts: one a line, as plain text or as JSON, {"prompt": "a red car"}.

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
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text.startswith("{"):
            text = _prompt_of_json(text)
        elif not text:
            continue
        if text:
            prompts.append(ListedPrompt(text, f"{path}, line {number}"))
        else:
            faults.append(
                f'{path}, line {number}: expected {{"prompt": "..."}}, found {line[:80]!r}'
            )
    if faults:
        raise PromptError(_listed(faults))
    if not prompts:
        raise PromptError(f"{path} holds no prompt; expected one a line")
    return prompts


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
    found: dict[str, ClassPrompt] = {}
    faults = []
    for text, origin in prompts:
        try:
            tokens = find_words(tokenizer, prompt=text, forms=words.forms)
            if not tokens:
                raise missing_words(text, words.forms)
        except PromptError as error:
            faults.append(f"{origin}: {error}" if origin else str(error))
        else:
            found[text] = ClassPrompt(text, tuple(tokens), tuple(tokens.values()))
    if faults:
        raise PromptError(_listed(faults))
    names = _names(list(found))
    return [
        MaskRequest(f"{names[text]}_{seed}", prompt, seed)
        for text, prompt in found.items()
        for seed in seeds
    ]


def _prompt_of_json(line: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    prompt = row.get("prompt") if isinstance(row, dict) and row.keys() <= {"prompt", "class"} else 0
    return prompt.strip() if isinstance(prompt, str) else ""


def _names(texts: Sequence[str]) -> dict[str, str]:
    """Return names of files for prompts; those that would share one get a digest besides."""
    short = {text: slugify(text)[:_NAME_LENGTH].strip("_") for text in texts}
    shared = [name for name in short.values() if list(short.values()).count(name) > 1]
    names = {}
    for text, name in short.items():
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        names[text] = f"{name}_{digest}".strip("_") if name in shared or not name else name
    return names


def _listed(faults: Sequence[str]) -> str:
    shown = [fault if len(faults) == 1 else f"  {fault}" for fault in faults[:_MAX_LISTED]]
    if len(faults) == 1:
        return shown[0]
    more = [f"  ... and {len(faults) - _MAX_LISTED} more"] if len(faults) > _MAX_LISTED else []
    return "\n".join([f"{len(faults)} prompts can't be used:", *shown, *more])
