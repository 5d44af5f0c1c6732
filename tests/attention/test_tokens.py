import pytest

from seggen_core.attention.tokens import class_token_positions
from seggen_core.errors import PromptError
from tests.attention.tiny_pipeline import build_tokenizer


@pytest.mark.parametrize(
    "prompt, class_name, expected",
    [
        ("a photo of a car", "car", (5,)),
        ("A photo of a CAR.", "Car", (5,)),
        ("a photo of a potted plant", "potted plant", (5, 6)),
        ("a photo of a car and a bus and a car", "car", (5, 11)),
        # A word that isn't in the vocabulary is spelt, all its pieces are the class.
        ("a photo of a tv", "tv", (5, 6)),
        ("a scar and a car", "car", (6,)),  # "scar" is s + car</w>: its tail is not the class
    ],
)
def test_finds_every_token_of_the_class(tokenizer, prompt, class_name, expected):
    assert class_token_positions(tokenizer, prompt=prompt, class_name=class_name) == expected
    # The positions hold the class's own pieces.
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)
    spelt = "".join(
        pieces[p]
        for p in expected[: len(tokenizer(class_name, add_special_tokens=False).input_ids)]
    )
    assert spelt.replace("</w>", " ").strip() == class_name.lower()


@pytest.mark.parametrize(
    "prompt, class_name",
    [
        ("a photo of a bus", "car"),
        ("a photo of a scar", "car"),
        ("a photo of cars", "car"),
        ("a photo of a plant", "potted plant"),
        ("a photo of a car", ""),
        (
            "a photo of a car",
            "\N{SNOWMAN}",
        ),  # unknown to this vocabulary: its id is that of the end token
    ],
)
def test_a_class_that_is_not_in_the_prompt_is_named(tokenizer, prompt, class_name):
    with pytest.raises(PromptError) as caught:
        class_token_positions(tokenizer, prompt=prompt, class_name=class_name)
    assert repr(class_name) in str(caught.value) and repr(prompt) in str(caught.value)


def test_a_class_past_the_last_token_is_an_error():
    tokenizer = build_tokenizer(max_length=8)
    # Start, 8 words, end: the pipeline keeps start, 6 words, end.
    prompt = "a photo of a house and a bus"
    assert class_token_positions(tokenizer, prompt=prompt, class_name="house") == (5,)
    with pytest.raises(PromptError, match="past the text encoder's 8 tokens"):
        class_token_positions(tokenizer, prompt=prompt, class_name="bus")
    # The last position that survives truncation.
    assert class_token_positions(
        tokenizer, prompt="a photo of a house car bus", class_name="car"
    ) == (6,)
    with pytest.raises(PromptError):
        class_token_positions(tokenizer, prompt="a photo of a house car bus", class_name="bus")
