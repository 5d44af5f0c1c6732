"""English phrases of captions and prompts."""

import re

_NUMBER_WORDS = {
    1: "a",
    2: "two",
    3: "three",
    4: "four",
    5: "five",
    6: "six",
    7: "seven",
    8: "eight",
    9: "nine",
}


def pluralize(noun: str) -> str:
    """Return the English plural of `noun`.

    It knows the regular forms, and the irregular ones among common segmentation classes.
    """
    irregular = {
        "person": "people",
        "sheep": "sheep",
        "bus": "buses",
        "grass": "grass",
        "child": "children",
    }
    head, _, last = noun.rpartition(" ")
    if last in irregular:
        plural = irregular[last]
    elif re.search(r"(s|x|z|ch|sh)$", last):
        plural = last + "es"
    elif re.search(r"[^aeiou]y$", last):
        plural = last[:-1] + "ies"
    else:
        plural = last + "s"
    return f"{head} {plural}".strip()


def count_phrase(name: str, count: int) -> str:
    """Return "a car", "an airplane", "two trees" or, from ten on, "many trees"."""
    if count == 1:
        return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"
    return f"{_NUMBER_WORDS.get(count, 'many')} {pluralize(name)}"


def join_phrases(phrases: list[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
