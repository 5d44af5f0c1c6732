import json

import pytest

from seggen_core.config import SeeDiffConfig
from seggen_core.errors import PromptError
from seggen_core.synthesis.prompt_file import read_prompts
from seggen_core.synthesis.prompts import PromptSource, prompts_by_class
from seggen_core.synthesis.words import class_forms
from seggen_core.taxonomy import Taxonomy
from tests.attention.tiny_pipeline import build_tokenizer

TAXONOMY = Taxonomy.from_names(stuff=["grass"], things=["car", "potted plant", "plant", "bus"])
TOKENIZER = build_tokenizer(max_length=32)


def source(slug="car", **changes):
    config = SeeDiffConfig(samples_per_class=1, **changes)
    return PromptSource(
        config,
        target=TAXONOMY.by_slug(slug),
        taxonomy=TAXONOMY,
        tokenizer=TOKENIZER,
        name=(0, "test"),
    )


def read(path, **synonyms):
    forms = class_forms(TAXONOMY, synonyms)
    return prompts_by_class(read_prompts(path), forms=forms, tokenizer=TOKENIZER)


def words_of(prompt):
    pieces = TOKENIZER.convert_ids_to_tokens(TOKENIZER(prompt.text).input_ids)
    return {
        known.slug: "".join(pieces[p] for p in positions).replace("</w>", " ").split()
        for known, positions in zip(prompt.classes, prompt.tokens, strict=True)
    }


def texts(prompts, count):
    return [prompts[i].text for i in range(count)]


def test_templates_take_turns_and_stuff_has_no_article():
    templates = ["a photo of {class}", "a photo of {class} in the city"]
    assert texts(source(prompts=templates), 3) == [
        "a photo of a car",
        "a photo of a car in the city",
        "a photo of a car",
    ]
    assert texts(source("grass", prompts=templates), 1) == ["a photo of grass"]


def test_sub_classes_take_turns_and_the_class_keeps_its_tokens():
    prompts = source(sub_classes={"car": ["red car", "old car"]})
    assert texts(prompts, 3) == [
        "a photo of a red car",
        "a photo of an old car",
        "a photo of a red car",
    ]
    pieces = TOKENIZER.convert_ids_to_tokens(TOKENIZER(prompts[0].text).input_ids)
    assert [pieces[p] for p in prompts[0].tokens[0]] == ["car</w>"]
    with pytest.raises(
        PromptError, match=r"sub_classes\.car has 'taxi', which doesn't contain 'car'"
    ):
        source(sub_classes={"car": ["taxi"]})


def test_other_classes_are_drawn_by_name_and_labelled_where_asked_for():
    prompts = source(prompts=["a photo of {class} and {other}"], multi_class=True)
    drawn = {prompts[i].classes[1].slug for i in range(20)}
    assert drawn == {"grass", "potted_plant", "plant", "bus"}
    assert texts(prompts, 20) == texts(source(prompts=["a photo of {class} and {other}"]), 20)
    assert [c.slug for c in source(prompts=["a photo of {class} and {other}"])[0].classes] == [
        "car"
    ]
    for i in range(20):
        positions = [p for tokens in prompts[i].tokens for p in tokens]
        assert len(set(positions)) == len(positions)  # a potted plant isn't a plant besides


def test_listed_prompts_travel_as_a_file(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"class": "car", "prompt": "a car on grass"},
        {"class": "potted plant", "prompt": "one potted plant"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert read(path) == {
        "car": ["a car on grass"],
        "potted_plant": ["one potted plant"],
    }
    listed = source(prompt_file=path, reads=path, multi_class=True)
    assert texts(listed, 2) == ["a car on grass"] * 2 and [c.slug for c in listed[0].classes] == [
        "car",
        "grass",
    ]
    with pytest.raises(
        PromptError, match="has no prompt of class 'bus', only of car, potted_plant"
    ):
        source("bus", prompt_file=path, reads=path)
    path.write_text(json.dumps({"class": "car", "prompt": "a taxi"}))
    with pytest.raises(PromptError, match=r"the prompt 'a taxi' names none of .* \(car, cars\)"):
        source(prompt_file=path, reads=path)


def test_plain_text_is_a_prompt_of_each_class_that_it_names(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("two cars and a bus\n\n a potted plant \n")
    assert read(path) == {
        "car": ["two cars and a bus"],
        "bus": ["two cars and a bus"],
        "potted_plant": ["a potted plant"],
    }


def test_synonyms_and_plurals_give_the_mask(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a house and two cars\n")
    listed = {"prompt_file": path, "reads": path, "synonyms": {"car": ["house"]}}
    assert words_of(source(**listed)[0]) == {"car": ["house", "cars"]}
    both = source(**listed | {"synonyms": {"bus": ["house"]}}, multi_class=True)
    assert words_of(both[0]) == {"car": ["cars"], "bus": ["house"]}
    prompts = source(sub_classes={"car": ["red house"]}, synonyms={"car": ["house"]})
    assert words_of(prompts[0]) == {"car": ["house"]}


@pytest.mark.parametrize(
    "synonyms, message",
    [
        ({"tram": ["car"]}, "synonyms are given of tram; expected classes of grass, car"),
        ({"bus": ["Car"]}, "'Car' stands for two classes, 'car' and 'bus'"),
        ({"bus": ["coach"], "car": ["coach"]}, "'coach' stands for two classes"),
        ({"bus": [" "]}, "a synonym of 'bus' is empty"),
    ],
)
def test_synonyms_that_mean_nothing_are_refused(synonyms, message):
    with pytest.raises(PromptError, match=message):
        source(synonyms=synonyms)


def test_a_plural_that_another_class_has_for_a_name_is_that_class():
    taxonomy = Taxonomy.from_names(stuff=[], things=["car", "cars"])
    assert list(class_forms(taxonomy, {}).values()) == [("car",), ("cars", "carses")]


def test_the_whole_file_is_checked_and_every_fault_named(tmp_path):
    """Also the prompts of other classes: each partition would fail by them hours later."""
    path = tmp_path / "prompts.jsonl"
    rows = ["a car", *('{"class": "bus", "prompt": "a tram"}', "a house"), "a " * 31 + "bus"]
    path.write_text("\n".join(rows))
    with pytest.raises(PromptError) as caught:
        source(prompt_file=path, reads=path)
    message = str(caught.value)
    assert "3 prompts can't be used" in message
    assert all(f"line {line_number}: " in message for line_number in (2, 3, 4))
    assert "line 1: " not in message and "past the text encoder's 32 tokens" in message


@pytest.mark.parametrize(
    "line",
    ["no json", '["car"]', '{"class": "tram", "prompt": "a tram"}', '{"class": "car"}', '{"class"'],
)
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"class": "car", "prompt": "a car"}\n' + line)
    with pytest.raises(PromptError, match="line 2"):
        read(path)
    with pytest.raises(PromptError, match="is no file of prompts"):
        read(tmp_path / "absent.jsonl")


def test_a_template_has_to_name_the_class():
    with pytest.raises(ValueError, match="names no class"):
        SeeDiffConfig(samples_per_class=1, prompts=("a photo of a car",))
    with pytest.raises(
        ValueError,
        match=r"uncertainty_threshold is 0\.5; it must be lower than beta, which is 0\.3",
    ):
        SeeDiffConfig(samples_per_class=1, uncertainty_threshold=0.5)


def test_dvc_has_to_track_the_prompts_that_are_used(tmp_path):
    with pytest.raises(
        ValueError, match=r"wouldn't see the prompts change; write reads: mine\.jsonl"
    ):
        SeeDiffConfig(samples_per_class=1, prompt_file="mine.jsonl")
    with pytest.raises(
        ValueError,
        match=r"reads is seggen_core/synthesis/prompt_templates\.py: .* write reads: mine\.jsonl",
    ):
        SeeDiffConfig(
            samples_per_class=1,
            prompt_file="mine.jsonl",
            reads="seggen_core/synthesis/prompt_templates.py",
        )
    with pytest.raises(
        ValueError, match=r"there is no prompt_file, .* write prompt_file: mine\.jsonl too"
    ):
        SeeDiffConfig(samples_per_class=1, reads="mine.jsonl")
    config = SeeDiffConfig(samples_per_class=1, prompt_file="./mine.jsonl", reads="mine.jsonl")
    (tmp_path / "mine.jsonl").write_text('{"class": "car", "prompt": "a red car"}\n')
    target = TAXONOMY.by_slug("car")
    listed = PromptSource(
        config, target=target, taxonomy=TAXONOMY, tokenizer=TOKENIZER, name=(0,), base=tmp_path
    )
    assert texts(listed, 1) == ["a red car"]
