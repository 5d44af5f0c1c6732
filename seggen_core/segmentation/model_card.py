"""What lies beside a trained segmenter's weights: its card, and how images are prepared for it.

Both are functions of the training alone: equal trainings write equal files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seggen_core.colors.class_colors import colored_classes, read_class_colors
from seggen_core.config import VariantConfig
from seggen_core.segmentation.input_size import InputSize
from seggen_core.segmentation.labels import LabelSpace
from seggen_core.segmentation.model_task import ModelTask
from seggen_core.segmentation.predict import TestProtocol
from seggen_core.stage import Stage
from seggen_core.store.card import class_table, escape, license_sentence
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import IGNORE_INDEX

CARD = "README.md"

_LIBRARIES = {
    "hrnet": "timm",
    "mask2former": "transformers",
    "eomt": "transformers",
    "detectron2": "detectron2",
}
_TITLES = {
    "hrnet": "HRNet",
    "mask2former": "Mask2Former",
    "eomt": "EoMT",
    "detectron2": "A model of detectron2",
}

_SCORES = {"val_miou": "mIoU", "val_pq": "PQ", "val_ap": "mask AP"}

_TRANSFORMERS = """\
```python
from transformers import pipeline

segment = pipeline("image-segmentation", model="path/of/this/folder")
for part in segment("photo.jpg", subtask="semantic"):
    print(part["label"], part["mask"].size)  # a mask of 0 and 255 for each class
```

`AutoModelForUniversalSegmentation` and `AutoImageProcessor` open the same folder. transformers
brings the queries' masks to 384 pixels before it chooses classes, and seggen does not, so outlines
differ by a few pixels.
"""
_HRNET = """\
The backbone is timm's, under its names; the light head is seggen's own. No library opens the whole
folder as it is. `seggen predict` applies it.
"""
_DETECTRON2 = """\
`config.yaml` is detectron2's configuration, and `model.safetensors` has detectron2's names of
parameters: `safetensors.torch.load_file` reads what `build_model(cfg).load_state_dict` takes.
`seggen predict` applies it.
"""
_OPENINGS = {"hrnet": _HRNET, "detectron2": _DETECTRON2}


@dataclass(frozen=True)
class ModelFolder:
    """Describes the segmenters of an arm.

    Attributes:
        stage: "train_seg" of the arm.
        variant: the arm's section.
        labels: the segmenters' classes.
        protocol: at which size they are validated.
    """

    stage: Stage
    variant: VariantConfig
    labels: LabelSpace
    protocol: TestProtocol

    def write(self, folder: Path, metrics: Mapping[str, Any], *, subset_seed: int) -> None:
        """Write README.md and preprocessor_config.json, and task.json if it finds segments.

        Args:
            folder: of the weights.
            metrics: of the training.
            subset_seed: of the training.
        """
        paths, dataset = self.stage.paths, self.stage.config.dataset
        size = self._input_size(SampleStore(paths.real("val")))
        size.write(folder)
        settings = self.stage.config.train_seg.for_arm(self.variant)
        if settings.task != "semantic":
            ModelTask(settings.task, self.labels.taxonomy, settings.postprocess).write(folder)
        card = segmenter_card(
            name=f"{self.stage.item}, seed {subset_seed}",
            dataset=dataset.name,
            variant=self.variant,
            task=settings.task,
            classes=colored_classes(self.labels.taxonomy, self._colors()),
            metrics=metrics,
            size=size,
        )
        license_text = SampleStore(paths.real("train")).manifest.get("license")
        card += f"\n## Licence\n\n{license_sentence(license_text)}\n"
        (folder / CARD).write_text(card, encoding="utf-8")

    def _input_size(self, validation: SampleStore) -> InputSize:
        """Return the size of stored samples if they are squares, else what the recipe tests at."""
        protocol, side = self.protocol, self.stage.config.dataset.image_size
        if protocol.short_side is not None:
            return InputSize(short_side=protocol.short_side, max_side=protocol.max_side)
        if not len(validation):  # of a list of words; synthetic samples are squares
            return InputSize(square=side)
        first = validation.read_image(validation.keys()[0])
        return InputSize(square=side if first.shape[:2] == (side, side) else None)

    def _colors(self) -> np.ndarray:
        """Return the classes' colours in pictures, uint8 [C, 3]: the dataset's, white for rest."""
        colors = read_class_colors(self.stage.paths.taxonomy)
        known = self.labels.known
        if not known:
            return colors
        chosen = [colors[c.train_id] for c in self.labels.dataset if c.slug in known]
        return np.array([*chosen, (255, 255, 255)], np.uint8)


def segmenter_card(
    *,
    name: str,
    dataset: str,
    variant: VariantConfig,
    task: str,
    classes: list[dict[str, Any]],
    metrics: Mapping[str, Any],
    size: InputSize,
) -> str:
    """Return the text of a card, but for the licence.

    Args:
        name: of the arm and the seed ("masksyn, seed 0").
        dataset: name of the reader.
        variant: the arm's section.
        task: "semantic", "panoptic" or "instance".
        classes: the segmenter's, rows of `colored_classes`.
        metrics: val_miou in percent or None, num_real, num_synthetic by method.
        size: at which it is applied.
    """
    data = f"{metrics.get('num_real', 0)} real samples of {escape(dataset)}"
    for method, count in sorted(metrics.get("num_synthetic", {}).items()):
        data += f", {count} synthetic ones of {escape(method)}"
    how = "with shuffled masks, as a control" if variant.shuffle_masks else variant.strategy
    lines = [
        "---",
        f"library_name: {_LIBRARIES[variant.model]}",
        "pipeline_tag: image-segmentation",
        "tags:",
        "- seggen",
        "---",
        "",
        f"# {_TITLES[variant.model]}: {escape(name)}",
        "",
        f"{task.capitalize()} segmentation of {len(classes)} classes. Trained by seggen.",
        "",
        "| | |",
        "|---|---|",
        f"| trained on | {data} |",
        f"| samples mixed | {escape(how)} |",
        *_scores(metrics),
        f"| parameters | {metrics.get('parameters', 0):,} |",
        f"| images are brought to | {_describe(size)} |",
        "",
        "## Open it",
        "",
        _OPENINGS.get(variant.model, _TRANSFORMERS),
        "```bash",
        "seggen predict photo.jpg --model path/of/this/folder --out predictions",
        "```",
        "",
        "## Classes",
        "",
        f"Predictions hold the id. {IGNORE_INDEX} was ignored in training.",
        "",
    ]
    return "\n".join(lines) + "\n" + class_table(classes)


def _scores(metrics: Mapping[str, Any]) -> list[str]:
    """Return a row of the table for each score on the validation split."""
    return [
        f"| {_SCORES[name]} on the validation split | "
        + ("not defined |" if metrics[name] is None else f"{metrics[name]:.1f}% |")
        for name in _SCORES
        if name in metrics
    ]


def _describe(size: InputSize) -> str:
    if size.square is not None:
        return f"{size.square}x{size.square} pixels, whatever their aspect"
    if size.short_side is None:
        return "nothing; they keep their size"
    limit = "" if size.max_side is None else f", a long side of at most {size.max_side}"
    return f"a short side of {size.short_side} pixels{limit}"
