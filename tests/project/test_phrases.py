import pytest

from seggen_core.project.phrases import count_phrase, join_phrases, pluralize


@pytest.mark.parametrize(
    "noun, plural",
    [
        ("car", "cars"),
        ("bus", "buses"),
        ("bench", "benches"),
        ("box", "boxes"),
        ("person", "people"),
        ("sheep", "sheep"),
        ("berry", "berries"),
        ("boy", "boys"),
        ("potted plant", "potted plants"),
        ("young person", "young people"),
    ],
)
def test_plurals(noun: str, plural: str) -> None:
    assert pluralize(noun) == plural


def test_phrases() -> None:
    assert [join_phrases(list("abc")[:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
    assert [count_phrase("bus", n) for n in (1, 2, 9, 10)] == [
        "a bus",
        "two buses",
        "nine buses",
        "many buses",
    ]
