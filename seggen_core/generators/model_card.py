"""What lies beside a generator's weights: README.md, its card, and palette.json, its colours.

Both are functions of the training alone: equal trainings write equal files. No sample depends on
them, so digests of a generator are taken without them (`origin.generator_digest`).
"""

import json
import re
from pathlib import Path
from typing import Any

from seggen_core.colors.palette_file import PALETTE, describe_palette
from seggen_core.config import (
    DiffusionTrainingConfig,
    FoundationConfig,
    SamplingConfig,
    Text2MaskConfig,
)
from seggen_core.generators.foundation import controlnet_pipeline_name
from seggen_core.generators.generator_training import GeneratorTraining
from seggen_core.generators.lora import LORA_FOLDER
from seggen_core.generators.origin import foundation_license, foundation_origin
from seggen_core.store.card import CARD, class_table, escape, hub_license, license_sentence

_TITLES = {"text2mask": "Text2Mask", "mask2img": "Mask2Img"}
_TASKS = {"text2mask": "text-to-image", "mask2img": "image-to-image"}
_ABOUT = {
    "text2mask": """\
It draws a segmentation map of what a caption says, as a picture in which each class has a colour
(Text2Mask of SegGen). It is a whole diffusers pipeline.
""",
    "mask2img": """\
It makes its foundation draw what a segmentation map shows (Mask2Img of SegGen). It is a ControlNet;
its condition is the map as a picture in which each class has a colour.
""",
}
_USE = """\
It makes training data for segmenters of these classes: images with masks, in the look of the data
that it was trained on. It is not made to be right about anything: nobody has checked what it draws.
Masks that it draws are to be filtered and judged before they teach anything, and samples are to be
compared with the training images before they are published (seggen's stages `judge` and
`memorization`).
"""
_TEXT2MASK = """\
```python
import json
import numpy as np
from diffusers import DiffusionPipeline

folder = "path/of/this/folder"
pipeline = DiffusionPipeline.from_pretrained(folder)
drawn = pipeline(
    "{caption}", height={size}, width={size}, num_inference_steps={steps},
    guidance_scale={guidance}, output_type="np",
).images[0]  # float32 [H, W, 3] in [0, 1]

palette = json.load(open(f"{{folder}}/palette.json", encoding="utf-8"))
rows = [*palette["classes"], palette["void"]]{edge}
colors = np.array([row["color"] for row in rows]) / 255
distances = np.square(drawn[:, :, None] - colors).sum(-1)
mask = np.array([row["train_id"] for row in rows])[distances.argmin(-1)]  # [H, W]
```

seggen itself samples with `{scheduler}`, and gives pixels between two colours to one of their
neighbours instead of to a third colour (`seggen_core/colors/decoding.py`).
"""
_EDGE = '\nrows += [{"train_id": 255, **palette["edge"]}]  # outlines: no class'
_MASK2IMG = """\
```python
import json
import numpy as np
from diffusers import ControlNetModel, {pipeline}
from PIL import Image

folder = "path/of/this/folder"
controlnet = ControlNetModel.from_pretrained(folder)
pipeline = {pipeline}.from_pretrained("path/of/its/foundation", controlnet=controlnet)

palette = json.load(open(f"{{folder}}/palette.json", encoding="utf-8"))
table = np.zeros((256, 3), np.uint8)
for row in [*palette["classes"], palette["void"]]:
    table[row["train_id"]] = row["color"]
mask = np.array(Image.open("mask.png"))  # ids, uint8 [{size}, {size}]
image = pipeline(
    "{caption}", image=Image.fromarray(table[mask]), height={size}, width={size},
    num_inference_steps={steps}, guidance_scale={guidance},
    controlnet_conditioning_scale={conditioning},
).images[0]
```
{edge}
seggen itself samples with `{scheduler}`.
"""
_EDGES = """
It has learned from maps whose segments have outlines 2 pixels wide, in the colour "edge".
"""


def write_model_card(
    training: GeneratorTraining, settings: DiffusionTrainingConfig, folder: Path
) -> None:
    """Write README.md and palette.json into the folder of a finished generator.

    Args:
        training: of "text2mask" or "mask2img".
        settings: the section.
        folder: of the weights.
    """
    kind = training.stage.config.dataset.color_map
    palette = describe_palette(training.stage.taxonomy, kind=kind)
    text = json.dumps(palette, indent=1, ensure_ascii=False) + "\n"
    (folder / PALETTE).write_text(text, encoding="utf-8")
    card = generator_card(training, settings, palette=palette)
    (folder / CARD).write_text(card, encoding="utf-8")


def generator_card(
    training: GeneratorTraining, settings: DiffusionTrainingConfig, *, palette: dict[str, Any]
) -> str:
    """Return the text of a card.

    Args:
        training: of "text2mask" or "mask2img".
        settings: the section.
        palette: as `describe_palette` returns it.
    """
    stage = training.stage
    foundation, name = stage.config.foundation, stage.name
    base_license = foundation_license(foundation, base=stage.paths.root)
    data_license = training.data.store.manifest.get("license")
    lines = [*_front_matter(name, foundation, [base_license, data_license]), ""]
    lines += [f"# {_TITLES[name]} of {len(palette['classes'])} classes", "", _ABOUT[name]]
    lines += ["| | |", "|---|---|", *_rows(training, settings, kind=palette["color_map"]), ""]
    lines += ["## Use", "", _USE, "## Open it", "", _opening(training, settings.preview)]
    if isinstance(settings, Text2MaskConfig) and settings.lora is not None:
        lines += [f"`{LORA_FOLDER}/` holds the adapters alone, for `load_lora_weights`.", ""]
    lines += ["## Colours", "", _colors(palette), class_table(palette["classes"])]
    lines += ["## Licence", "", _base_sentence(base_license), license_sentence(data_license)]
    lines += ["The model is made of both, so the terms of both hold for it and for what it draws."]
    return "\n".join(lines) + "\n"


def _front_matter(name: str, foundation: FoundationConfig, licenses: list[str | None]) -> list[str]:
    """Return the YAML at the head of a card; both licences have to be the same to be stated."""
    hub = hub_license(licenses[0]) if licenses[0] == licenses[1] else "other"
    lines = ["---", "library_name: diffusers", f"license: {hub}", f"pipeline_tag: {_TASKS[name]}"]
    source = foundation.source if foundation.mode == "pretrained" else None
    if source is not None and foundation.revision is not None:
        lines.append(f"base_model: {json.dumps(source)}")
    lines += ["tags:", "- seggen", *(["- controlnet"] if name == "mask2img" else [])]
    return [*lines, "---"]


def _rows(
    training: GeneratorTraining, settings: DiffusionTrainingConfig, *, kind: str
) -> list[str]:
    """Return the rows of the table: how the model was made."""
    origin = foundation_origin(training.stage.config.foundation)
    revision = f" at {origin['revision']}" if origin["revision"] else ""
    dataset = training.data.store.manifest.get("dataset", "this project")
    num_samples, num_views = len(training.data.store.keys()), len(training.data.captions)
    crops = f" and {num_views - num_samples} random crops of them" if settings.random_crops else ""
    steps = f"{settings.num_steps:,} of {settings.batch_size} samples"
    if isinstance(settings, Text2MaskConfig):
        if settings.lora is not None:
            steps += f", of adapters of rank {settings.lora.rank}"
        if settings.decoder_steps:
            steps += f"; then {settings.decoder_steps:,} steps of the decoder"
    rows = {
        "base model": f"{origin['source']}{revision}",
        "trained on": f"{num_samples} real samples of {dataset} with captions{crops}",
        "steps": steps,
        "seed": str(training.seed),
        "colour maps": kind,
        "size": f"{training.image_size}x{training.image_size} pixels",
        "trained by": "seggen",
    }
    return [f"| {title} | {escape(value)} |" for title, value in rows.items()]


def _opening(training: GeneratorTraining, sampler: SamplingConfig) -> str:
    """Return how diffusers alone opens and uses the folder; tests run it as it stands."""
    is_drawer = training.stage.name == "text2mask"
    is_panoptic = training.stage.config.dataset.color_map == "panoptic"
    edges = (_EDGE if is_drawer else _EDGES) if is_panoptic else ""
    caption = re.sub(r"[^\w ,.'-]", "", str(training.data.captions[0]))
    return (_TEXT2MASK if is_drawer else _MASK2IMG).format(
        caption=caption,
        size=training.image_size,
        steps=sampler.num_inference_steps,
        guidance=sampler.guidance_scale,
        conditioning=sampler.controlnet_conditioning_scale,
        scheduler=sampler.scheduler,
        pipeline=controlnet_pipeline_name(training.pipeline),
        edge=edges,
    )


def _colors(palette: dict[str, Any]) -> str:
    text = f"`{PALETTE}` has them for programs. "
    text += f"Pixels without a class are {_rgb(palette['void'])}"
    if palette["edge"] is not None:
        text += f", outlines of segments {_rgb(palette['edge'])}"
    return f"{text}.\n"


def _rgb(row: dict[str, Any]) -> str:
    return f"({', '.join(map(str, row['color']))})"


def _base_sentence(license_text: str | None) -> str:
    if license_text is None:
        return "Nothing here says under which licence the base model is; look at its own card."
    return f"Of the base model: {license_text}"
