"""Where a class stands in a prompt, counted in tokens."""

from typing import TYPE_CHECKING

from seggen_core.errors import PromptError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


def class_token_positions(
    tokenizer: "CLIPTokenizer", *, prompt: str, class_name: str
) -> tuple[int, ...]:
    """Return the positions of all tokens of `class_name` in `prompt`, as `find_tokens` does.

    Raises:
        PromptError: the class isn't in the prompt, or stands past the encoder's last position.
    """
    positions = find_tokens(tokenizer, prompt=prompt, phrase=class_name)
    if not positions:
        raise PromptError(
            f"class {class_name!r} isn't in the prompt {prompt!r}; the template must name it, "
            "as 'a photo of {class}' does"
        )
    return positions


def find_tokens(tokenizer: "CLIPTokenizer", *, prompt: str, phrase: str) -> tuple[int, ...]:
    """Return the positions of all tokens of `phrase` in `prompt`; the start token is 0.

    Positions are those of the text encoder's output in a diffusers pipeline, and so of the keys of
    cross-attention. Every mention counts. A mention is whole words: "car" isn't found in "scar" or
    "cars"; upper and lower case are the same to CLIP. Without a mention, there are none.

    Raises:
        PromptError: the phrase stands past the encoder's last position, where the pipeline cuts it
            off.
    """
    ids = tokenizer(phrase, add_special_tokens=False).input_ids
    tokens = tokenizer(prompt).input_ids
    pieces = tokenizer.convert_ids_to_tokens(tokens)
    special = set(tokenizer.all_special_ids)
    mentions = [
        start
        for start in range(1, len(tokens) - len(ids) + 1)
        if ids
        and not special.intersection(ids)  # letters that the vocabulary doesn't know
        and tokens[start : start + len(ids)] == ids
        # A match may not start inside a word: CLIP marks the last piece of each word with </w>.
        and (tokens[start - 1] in special or pieces[start - 1].endswith("</w>"))
    ]
    # The pipeline keeps the start token, the first words and an end token.
    complete = [start for start in mentions if start + len(ids) < tokenizer.model_max_length]
    if mentions and not complete:
        raise PromptError(
            f"class {phrase!r} stands at token {mentions[0]} of the prompt {prompt!r}, past "
            f"the text encoder's {tokenizer.model_max_length} tokens; shorten the prompt or name "
            "the class earlier"
        )
    return tuple(start + i for start in complete for i in range(len(ids)))
