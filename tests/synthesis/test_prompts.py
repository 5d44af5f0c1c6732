import json

import pytest

from seggen_core.config import SeeDiffConfig
from seggen_core.errors import PromptError
from seggen_core.synthesis.prompts import PromptSource, read_prompt_file
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


def texts(prompts, number):
    return [prompts[i].text for i in range(number)]


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
    assert read_prompt_file(path, taxonomy=TAXONOMY) == {
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
    with pytest.raises(PromptError, match="class 'car' isn't in the prompt 'a taxi'"):
        source(prompt_file=path, reads=path)[0]


@pytest.mark.parametrize(
    "line", ["no json", '["car"]', '{"class": "tram", "prompt": "a tram"}', '{"class": "car"}']
)
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"class": "car", "prompt": "a car"}\n' + line)
    with pytest.raises(PromptError, match="line 2"):
        read_prompt_file(path, taxonomy=TAXONOMY)
    with pytest.raises(PromptError, match="can't be read"):
        read_prompt_file(tmp_path / "absent.jsonl", taxonomy=TAXONOMY)


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
