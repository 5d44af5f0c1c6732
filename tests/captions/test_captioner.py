"""Captioners: from masks, from the user's file, and real models at tiny size."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seggen_core.captions.blip2 import Blip2Captioner
from seggen_core.captions.captioner import make_captioner
from seggen_core.captions.class_list import ClassListCaptioner
from seggen_core.captions.table import FileCaptioner
from seggen_core.config import CaptionsConfig
from seggen_core.datasets.class_table import load_class_table
from seggen_core.errors import CaptionError, ConfigError
from seggen_core.scenes.layout import SCENES_TAXONOMY, compose_caption, sample_layout
from seggen_core.scenes.painter import paint
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy
from tests.captions.tiny_blip2 import save_blip2

CAMVID_TAXONOMY = load_class_table("camvid").taxonomy
QUESTION = Blip2Captioner.default_prompt


def _map(taxonomy: Taxonomy, areas: dict[str, int]) -> np.ndarray:
    """Return a uint8 [100, 100] map with `areas` rows of each class, in this order.

    The rest is ignored.
    """
    segmentation_map = np.full((100, 100), IGNORE_INDEX, np.uint8)
    top = 0
    for slug, rows in areas.items():
        segmentation_map[top : top + rows] = taxonomy.by_slug(slug).train_id
        top += rows
    return segmentation_map


def _scenes(areas: dict[str, int], instance_map: np.ndarray | None = None) -> str:
    return ClassListCaptioner(SCENES_TAXONOMY, min_area_share=0.002).describe(
        _map(SCENES_TAXONOMY, areas), instance_map=instance_map
    )


def _camvid(areas: dict[str, int], instance_map: np.ndarray | None = None) -> str:
    return ClassListCaptioner(CAMVID_TAXONOMY, min_area_share=0.002).describe(
        _map(CAMVID_TAXONOMY, areas), instance_map=instance_map
    )


def test_scenes_are_described_in_the_grammar_of_their_foundation() -> None:
    instance_map = np.zeros((100, 100), np.uint16)
    instance_map[0:20] = 1  # a car
    instance_map[20:30, :50], instance_map[20:30, 50:] = 2, 300  # two trees
    areas = {"car": 20, "tree": 10, "sky": 30, "road": 30, "grass": 10}
    assert (
        _scenes(areas, instance_map) == "a photo of a car and two trees on grass and road under sky"
    )
    assert (
        _scenes({"grass": 60, "sky": 40}, np.zeros((100, 100), np.uint16))
        == "a photo of grass and sky"
    )


def test_every_painted_scene_gets_a_caption_of_what_is_visible() -> None:
    captioner = ClassListCaptioner(SCENES_TAXONOMY, min_area_share=0.002)
    for seed in range(40):
        layout = sample_layout(np.random.default_rng(seed))
        painted = paint(layout, size=64)
        visible: dict[str, int] = {}
        for number, thing in enumerate(layout.things, start=1):
            if (painted.instance_map == number).sum() >= 0.002 * 64 * 64:
                visible[thing.name] = visible.get(thing.name, 0) + 1
        area = {
            c.name: int((painted.segmentation_map == c.train_id).sum()) for c in SCENES_TAXONOMY
        }
        names = sorted(visible, key=lambda n: (-area[n], SCENES_TAXONOMY.by_slug(n).train_id))
        stuff = [n for n in ("grass", "road", "sky") if area[n] >= 0.002 * 64 * 64]
        expected = compose_caption(things={n: visible[n] for n in names}, stuff=stuff)
        assert (
            captioner.describe(painted.segmentation_map, instance_map=painted.instance_map)
            == expected
        )


def test_other_taxonomies_list_stuff_after_with_largest_first() -> None:
    instance_map = np.zeros((100, 100), np.uint16)
    instance_map[0:10], instance_map[10:12, :40], instance_map[10:12, 60:] = 1, 2, 3
    areas = {"car": 10, "pedestrian": 2, "building": 20, "sky": 10, "road": 50}
    assert (
        _camvid(areas, instance_map)
        == "a photo of a car and two pedestrians with road, building and sky"
    )
    assert _camvid(areas) == "a photo of a car and a pedestrian with road, building and sky", (
        "without instance ids things aren't counted"
    )
    assert _camvid({"car": 50}) == "a photo of a car"
    assert _camvid({"road": 50, "sky": 20}) == "a photo of road and sky"


def test_specks_are_left_out_unless_there_is_nothing_else() -> None:
    segmentation_map = _map(CAMVID_TAXONOMY, {"road": 90})
    segmentation_map[0, :19] = CAMVID_TAXONOMY.by_slug("car").train_id
    captioner = ClassListCaptioner(CAMVID_TAXONOMY, min_area_share=0.002)
    assert captioner.describe(segmentation_map, instance_map=None) == "a photo of road"
    segmentation_map[0, 19] = CAMVID_TAXONOMY.by_slug("car").train_id  # 20 of 10,000 pixels
    assert captioner.describe(segmentation_map, instance_map=None) == "a photo of a car with road"
    instance_map = np.zeros((100, 100), np.uint16)
    instance_map[0, :10], instance_map[0, 10:20] = 1, 2  # two specks don't make a car
    assert captioner.describe(segmentation_map, instance_map=instance_map) == "a photo of road"
    only = np.full((100, 100), IGNORE_INDEX, np.uint8)
    only[5, 5] = CAMVID_TAXONOMY.by_slug("bicyclist").train_id
    assert captioner.describe(only, instance_map=None) == "a photo of a bicyclist"


def test_number_words() -> None:
    instance_map = np.repeat(np.arange(1, 101, dtype=np.uint16)[:, None], 100, axis=1)  # one a row
    assert (
        _camvid({"car": 9, "pedestrian": 12}, instance_map)
        == "a photo of many pedestrians and nine cars"
    )


@pytest.fixture
def store(tmp_path: Path) -> SampleStore:
    """Return four samples of 32x32 with pictures of their own.

    The last one has no labelled pixel.
    """
    with SampleStoreWriter(tmp_path / "store", num_classes=len(CAMVID_TAXONOMY)) as writer:
        for i in range(4):
            image = (
                np.random.default_rng(i)
                .integers(0, 256, (2, 2, 3), dtype=np.uint8)
                .repeat(16, 0)
                .repeat(16, 1)
            )
            segmentation_map = np.full((32, 32), i if i < 3 else IGNORE_INDEX, np.uint8)
            writer.add(Sample(f"train-{i:05d}", image, segmentation_map, None, {}))
        writer.finish(manifest={})
    return SampleStore(tmp_path / "store")


def test_class_list_follows_the_order_asked_for_and_names_a_void_sample(store: SampleStore) -> None:
    captioner = make_captioner(CaptionsConfig(), taxonomy=CAMVID_TAXONOMY, device="cpu")
    keys = ["train-00002", "train-00000"]
    assert list(captioner.captions(store, keys=keys)) == ["a photo of pole", "a photo of sky"]
    with pytest.raises(CaptionError, match="sample train-00003: no pixel is labelled"):
        list(captioner.captions(store, keys=store.keys()))


def _table(path: Path, rows: Sequence[tuple[str | None, str | None]]) -> FileCaptioner:
    table = pd.DataFrame(rows, columns=["sample_key", "caption"])
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)
    return FileCaptioner(path)


def _names(names: dict[str, str], tmp_path: Path) -> SampleStore:
    """A store whose samples come from files of these names, in this order."""
    image, mask = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8)
    with SampleStoreWriter(tmp_path / "-".join(names), num_classes=2) as writer:
        for key, name in names.items():
            writer.add(Sample(key, image, mask, None, {"source_key": name}))
        writer.finish(manifest={})
    return SampleStore(writer.folder)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_file_gives_the_users_captions_in_the_order_asked_for(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    named = _names({"train-00000": "haus", "train-00001": "b/NA"}, tmp_path)
    rows = [("b/NA", "None"), ("haus", "ein Haus, «grün»"), ("zoo", "not asked for")]
    captioner = _table(tmp_path / f"captions{suffix}", rows)
    assert list(captioner.captions(named, keys=["train-00000", "train-00001"])) == [
        "ein Haus, «grün»",
        "None",
    ]
    assert "has 1 row(s) of no training sample: zoo; they are not used" in caplog.text
    before = captioner.revision
    assert _table(tmp_path / f"captions{suffix}", rows).revision == before
    changed = [*rows[1:], ("b/NA", "a house")]
    assert _table(tmp_path / f"captions{suffix}", changed).revision != before


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_captions_follow_their_images(tmp_path: Path, suffix: str) -> None:
    """One image more at the front, one less at the end: every position is another image's."""
    before = _names({"train-00000": "b", "train-00001": "c"}, tmp_path / "before")
    captioner = _table(tmp_path / f"captions{suffix}", [("b", "a bus"), ("c", "a car")])
    assert list(captioner.captions(before, keys=before.keys())) == ["a bus", "a car"]

    after = _names({"train-00000": "a", "train-00001": "b"}, tmp_path / "after")
    with pytest.raises(
        CaptionError,
        match=r"has no caption for 1 sample\(s\): a; add the missing rows "
        r"\(the table has 1 row\(s\) of no training sample: c\)",
    ):
        next(captioner.captions(after, keys=after.keys()))
    rows = [("b", "a bus"), ("c", "a car"), ("a", "an arm")]
    captioner = _table(tmp_path / f"captions{suffix}", rows)
    assert list(captioner.captions(after, keys=after.keys())) == ["an arm", "a bus"]


def test_positions_are_refused_as_names(tmp_path: Path) -> None:
    named = _names({"train-00000": "haus"}, tmp_path)
    captioner = _table(tmp_path / "captions.csv", [("train-00000", "a house")])
    with pytest.raises(CaptionError, match=r"by position \(train-00000\).* such as 'haus'"):
        next(captioner.captions(named, keys=named.keys()))


def test_zeros_that_a_spreadsheet_drops_are_put_back(tmp_path: Path) -> None:
    named = _names({"train-00000": "00012", "train-00001": "7", "train-00002": "07"}, tmp_path)
    rows = [("12", "twelve"), ("7", "seven"), ("07", "other")]
    captioner = _table(tmp_path / "captions.csv", rows)
    assert list(captioner.captions(named, keys=named.keys())) == ["twelve", "seven", "other"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_file_with_gaps_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"captions{suffix}"
    with pytest.raises(CaptionError, match=r"repeats 1 sample\(s\): a;"):
        _table(path, [("a", "a"), ("b", "b"), ("a", "c")])
    with pytest.raises(CaptionError, match=r"has an empty caption for 2 sample\(s\): b, c;"):
        _table(path, [("a", "a"), ("b", "  "), ("c", None)])
    named = _names({f"train-{i:05d}": name for i, name in enumerate("abcd")}, tmp_path)
    captioner = _table(path, [("a", "a"), ("c", "b")])
    with pytest.raises(CaptionError, match=r"has no caption for 2 sample\(s\): b, d;"):
        next(captioner.captions(named, keys=named.keys()))


def test_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptionError, match=r"nowhere\.csv is not a file"):
        FileCaptioner(tmp_path / "nowhere.csv")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CaptionError, match=r"ends in '\.txt'; expected \.parquet or \.csv"):
        FileCaptioner(tmp_path / "a.txt")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(CaptionError, match=r"a\.parquet can't be read"):
        FileCaptioner(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("image,text\n1,2\n")
    with pytest.raises(
        CaptionError, match="has the columns image, text; expected sample_key and caption"
    ):
        FileCaptioner(tmp_path / "a.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(CaptionError, match=r"empty\.csv can't be read"):
        FileCaptioner(tmp_path / "empty.csv")
    with pytest.raises(ConfigError, match=r"captions\.reads is not set"):
        make_captioner(CaptionsConfig(captioner="file"), taxonomy=CAMVID_TAXONOMY, device="cpu")


@pytest.fixture(scope="module")
def blip2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_blip2(tmp_path_factory.mktemp("blip2"))


def _blip2(folder: Path, *, batch_size: int = 3, prompt: str = QUESTION) -> Blip2Captioner:
    return Blip2Captioner(
        str(folder),
        revision=None,
        prompt=prompt,
        batch_size=batch_size,
        max_new_tokens=6,
        device="cpu",
    )


def test_blip2_answers_the_papers_question_as_transformers_does(
    blip2_folder: Path, store: SampleStore
) -> None:
    import torch
    from PIL import Image
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    processor = Blip2Processor.from_pretrained(blip2_folder)
    model = Blip2ForConditionalGeneration.from_pretrained(blip2_folder, dtype=torch.float32).eval()
    expected = []
    keys = store.keys()
    for key in keys:
        inputs = processor(
            images=Image.fromarray(store.read_image(key)), text=QUESTION, return_tensors="pt"
        )
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=6)
        expected.append(processor.batch_decode(tokens, skip_special_tokens=True)[0].strip())

    config = CaptionsConfig(
        captioner="blip2", model=str(blip2_folder), batch_size=3, max_new_tokens=6
    )
    captioner = make_captioner(config, taxonomy=CAMVID_TAXONOMY, device="cpu")
    assert captioner.name == "blip2" and re.fullmatch(r"local-[0-9a-f]{12}", captioner.revision)
    captions = list(captioner.captions(store, keys=store.keys()))
    assert captions == expected
    assert len(set(captions)) > 1, "the answer depends on the image"
    # A caption doesn't depend on how many others are asked for, nor on their order.
    assert list(captioner.captions(store, keys=["train-00002"])) == [captions[2]]
    assert list(captioner.captions(store, keys=store.keys()[::-1])) == captions[::-1]


def test_blip2_from_the_hub_needs_a_revision() -> None:
    with pytest.raises(ConfigError, match=r"needs captions\.revision, the commit to take"):
        make_captioner(CaptionsConfig(captioner="blip2"), taxonomy=CAMVID_TAXONOMY, device="cpu")


def test_blip2_never_loads_a_pickle(blip2_folder: Path, tmp_path: Path, store: SampleStore) -> None:
    import torch
    from safetensors.torch import load_file

    for path in blip2_folder.iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save(load_file(blip2_folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(CaptionError, match="BLIP-2 can't be loaded from"):
        next(_blip2(tmp_path).captions(store, keys=store.keys()))


def test_blip2_whose_prompt_has_no_place_for_the_image_is_refused(
    blip2_folder: Path, tmp_path: Path, store: SampleStore
) -> None:
    for path in blip2_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    settings["num_query_tokens"] = None
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    with pytest.raises(
        CaptionError, match="puts None image tokens into the prompt, the model has 4 queries"
    ):
        next(_blip2(tmp_path).captions(store, keys=store.keys()))


def test_blip2_empty_answer_names_the_sample(blip2_folder: Path, store: SampleStore) -> None:
    captioner = _blip2(blip2_folder)
    tokenizer = captioner._loaded[0].tokenizer
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(tokenizer.get_vocab())}
    )  # decoding drops every word
    with pytest.raises(CaptionError, match="BLIP-2 has no answer for sample train-00001"):
        list(captioner.captions(store, keys=["train-00001"]))


@pytest.fixture(scope="module")
def blip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a BLIP with random weights.

    It has a ViT and a BERT of one layer, 16 wide, and a small word-piece tokenizer.
    """
    import torch
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[DEC]",
        *"a photo of car two trees on road under sky".split(),  # noqa: SIM905
    ]
    tokenizer = BertTokenizer(vocab={w: i for i, w in enumerate(words)})
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    processor = BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer)
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "initializer_range": 0.5,
    }
    ids = {"bos_token_id": 5, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}
    config = BlipConfig(
        text_config={
            **small,
            "vocab_size": len(tokenizer),
            "encoder_hidden_size": 16,
            "max_position_embeddings": 32,
            **ids,
        },
        vision_config={**small, "image_size": 16, "patch_size": 8},
    )
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("blip")
    model = BlipForConditionalGeneration(config)
    model.generation_config.suppress_tokens = list(range(6))  # it would say little else
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_blip_goes_on_from_the_prompt_as_transformers_does(
    blip_folder: Path, store: SampleStore
) -> None:
    import torch
    from PIL import Image
    from transformers import BlipForConditionalGeneration, BlipProcessor

    processor = BlipProcessor.from_pretrained(blip_folder)
    model = BlipForConditionalGeneration.from_pretrained(blip_folder, dtype=torch.float32).eval()
    expected = []
    for sample in store:
        inputs = processor(
            images=Image.fromarray(sample.image), text="a photo of", return_tensors="pt"
        )
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=6)
        expected.append(
            " ".join(processor.batch_decode(tokens, skip_special_tokens=True)[0].split())
        )
    config = CaptionsConfig(
        captioner="blip", model=str(blip_folder), batch_size=3, max_new_tokens=6
    )
    captions = list(
        make_captioner(config, taxonomy=CAMVID_TAXONOMY, device="cpu").captions(
            store, keys=store.keys()
        )
    )
    assert captions == expected and all(c.startswith("a photo of ") for c in captions)
    assert len(set(captions)) > 1, "the answer depends on the image"


@pytest.fixture(scope="module")
def florence2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a Florence-2 with random weights.

    It has a DaViT of four single blocks, a BART of one layer, 16 wide, and a word tokenizer.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
        PreTrainedTokenizerFast,
    )

    said = "Describe in detail what is shown the image. a car and road under sky"
    words = ["<s>", "<pad>", "</s>", "<unk>", "<image>", *said.split()]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    images = CLIPImageProcessor(
        size={"height": 64, "width": 64}, do_center_crop=False, image_seq_length=5
    )
    images.image_seq_length = 5
    processor = Florence2Processor(images, tokenizer)
    config = Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": len(words),
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 16,
            "decoder_ffn_dim": 16,
            "max_position_embeddings": 64,
            "init_std": 0.5,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
        },
        vision_config={
            "depths": [1, 1, 1, 1],
            "embed_dim": [8, 8, 16, 16],
            "num_heads": [1, 1, 2, 2],
            "num_groups": [1, 1, 2, 2],
            "window_size": 4,
            "projection_dim": 16,
            "initializer_range": 0.5,
        },
        image_token_id=4,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("florence2")
    model = Florence2ForConditionalGeneration(config)
    model.generation_config.suppress_tokens = [0, 1, 3, 4]  # it would say little else
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_florence2_captions_as_transformers_does(
    florence2_folder: Path, store: SampleStore
) -> None:
    import torch
    from PIL import Image
    from transformers import Florence2ForConditionalGeneration, Florence2Processor

    processor = Florence2Processor.from_pretrained(florence2_folder)
    model = Florence2ForConditionalGeneration.from_pretrained(
        florence2_folder, dtype=torch.float32
    ).eval()
    expected = []
    for sample in store:
        inputs = processor(
            images=Image.fromarray(sample.image), text="<DETAILED_CAPTION>", return_tensors="pt"
        )
        tokens = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=6)
        expected.append(
            " ".join(processor.batch_decode(tokens, skip_special_tokens=True)[0].split())
        )
    config = CaptionsConfig(
        captioner="florence2", model=str(florence2_folder), batch_size=3, max_new_tokens=6
    )
    captioner = make_captioner(config, taxonomy=CAMVID_TAXONOMY, device="cpu")
    captions = list(captioner.captions(store, keys=store.keys()))
    assert captions == expected and all(captions)
    wrong = config.model_copy(update={"prompt": "<OD>"})
    with pytest.raises(CaptionError, match="Florence-2 captions with one of <CAPTION>"):
        next(
            make_captioner(wrong, taxonomy=CAMVID_TAXONOMY, device="cpu").captions(
                store, keys=store.keys()
            )
        )
