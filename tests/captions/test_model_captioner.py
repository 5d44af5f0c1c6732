"""Captioning models: real classes at a tiny size."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from seggen_core.captions.blip2 import Blip2Captioner
from seggen_core.captions.captioner import make_captioner
from seggen_core.config import CaptionsConfig
from seggen_core.errors import CaptionError, ConfigError
from seggen_core.store.reader import SampleStore
from tests.captions.conftest import CAMVID_TAXONOMY
from tests.captions.tiny_blip import save_blip
from tests.captions.tiny_blip2 import save_blip2
from tests.captions.tiny_florence2 import save_florence2

QUESTION = Blip2Captioner.default_prompt


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


def answers(model: Any, processor: Any, store: SampleStore, *, text: str, **options: Any) -> list:
    """Return what transformers itself answers to `text` for each image, one at a time."""
    from PIL import Image

    captions = []
    for sample in store:
        image = Image.fromarray(sample.image)
        inputs = processor(images=image, text=text, return_tensors="pt")
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=6, **options)
        answer = processor.batch_decode(tokens, skip_special_tokens=True)[0]
        captions.append(" ".join(answer.split()))
    return captions


def config_of(captioner: str, folder: Path, **changes: Any) -> CaptionsConfig:
    tree = {"captioner": captioner, "model": str(folder), "batch_size": 3, "max_new_tokens": 6}
    return CaptionsConfig.model_validate(tree | changes)


def test_blip2_answers_the_papers_question_as_transformers_does(
    blip2_folder: Path, store: SampleStore
) -> None:
    import torch
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    processor = Blip2Processor.from_pretrained(blip2_folder)
    model = Blip2ForConditionalGeneration.from_pretrained(blip2_folder, dtype=torch.float32).eval()
    config = config_of("blip2", blip2_folder)
    captioner = make_captioner(config, taxonomy=CAMVID_TAXONOMY, device="cpu")
    assert captioner.name == "blip2" and re.fullmatch(r"local-[0-9a-f]{12}", captioner.revision)
    captions = list(captioner.captions(store, keys=store.keys()))
    assert captions == answers(model, processor, store, text=QUESTION)
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
    return save_blip(tmp_path_factory.mktemp("blip"))


def test_blip_goes_on_from_the_prompt_as_transformers_does(
    blip_folder: Path, store: SampleStore
) -> None:
    import torch
    from transformers import BlipForConditionalGeneration, BlipProcessor

    processor = BlipProcessor.from_pretrained(blip_folder)
    model = BlipForConditionalGeneration.from_pretrained(blip_folder, dtype=torch.float32).eval()
    config = config_of("blip", blip_folder)
    captioner = make_captioner(config, taxonomy=CAMVID_TAXONOMY, device="cpu")
    captions = list(captioner.captions(store, keys=store.keys()))
    assert captions == answers(model, processor, store, text="a photo of")
    assert all(c.startswith("a photo of ") for c in captions)
    assert len(set(captions)) > 1, "the answer depends on the image"


@pytest.fixture(scope="module")
def florence2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_florence2(tmp_path_factory.mktemp("florence2"))


def test_florence2_captions_as_transformers_does(
    florence2_folder: Path, store: SampleStore
) -> None:
    import torch
    from transformers import Florence2ForConditionalGeneration, Florence2Processor

    processor = Florence2Processor.from_pretrained(florence2_folder)
    model = Florence2ForConditionalGeneration.from_pretrained(
        florence2_folder, dtype=torch.float32
    ).eval()
    config = config_of("florence2", florence2_folder)
    captioner = make_captioner(config, taxonomy=CAMVID_TAXONOMY, device="cpu")
    captions = list(captioner.captions(store, keys=store.keys()))
    assert captions == answers(model, processor, store, text="<DETAILED_CAPTION>", num_beams=1)
    assert all(captions)
    wrong = config_of("florence2", florence2_folder, prompt="<OD>")
    with pytest.raises(CaptionError, match="Florence-2 captions with one of <CAPTION>"):
        next(
            make_captioner(wrong, taxonomy=CAMVID_TAXONOMY, device="cpu").captions(
                store, keys=store.keys()
            )
        )
