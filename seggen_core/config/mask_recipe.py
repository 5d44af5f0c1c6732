"""Mask recipes: further stores of the attention methods, with other masks of the same images."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ValidationError

from seggen_core.config.attention import AttentionMethodConfig, DiffuMaskConfig, SeeDiffConfig
from seggen_core.config.base import NOTHING_TO_WATCH, Section, TrackedPath
from seggen_core.config.library_settings import first_error

IMAGE_KEYS = frozenset(
    {
        "prompts",
        "prompt_file",
        "sub_classes",
        "synonyms",
        "multi_class",
        "sampling",
        "keep_attention",
    }
)
"""Keys of an attention method that image k and the record of its attention depend on. Stores with
the same values of these have the same images.
"""


class MaskRecipeConfig(Section):
    """One mask recipe of a method that makes masks from attention.

    It fills data/synthetic/<name>, which arms read like any method. Its images are those of the
    method, unless it changes what they depend on (prompts, sampler). They are sampled once: while
    the method or a recipe samples, it makes the masks of every recipe that has the same images.
    """

    method: Literal["seediff", "diffumask"]
    """The method whose section holds for every key that the recipe doesn't set."""
    settings: dict[str, Any]
    """Keys of that section that differ, whole values each: {"strategy": "ca", "pamr": false}."""
    reads: Annotated[str, TrackedPath]
    """The file that DVC watches: `prompt_file` of `settings` if it is set, else
    data/code/none.json.
    """

    def settings_for(
        self, section: SeeDiffConfig | DiffuMaskConfig
    ) -> SeeDiffConfig | DiffuMaskConfig:
        """Return the method's section with the changes.

        Raises:
            ValueError: a key is unknown, or a value means nothing to the method.
        """
        kind = type(section)
        if unknown := [key for key in self.settings if key not in kind.model_fields]:
            raise ValueError(
                f"settings: {unknown[0]!r} is no key of {self.method}: "
                f"{', '.join(kind.model_fields)}"
            )
        if "reads" in self.settings:
            raise ValueError("settings has 'reads', which is a key of the recipe itself")
        tree = section.model_dump(mode="json") | self.settings
        if "prompt_file" in self.settings:
            tree["reads"] = self.reads
        elif Path(self.reads) != NOTHING_TO_WATCH:
            raise ValueError(
                f"reads is {self.reads}, but settings has no prompt_file; write reads: "
                f"{NOTHING_TO_WATCH}, or prompt_file: {self.reads} in settings"
            )
        try:
            # As JSON, because values are strict there, but a list is a tuple.
            return kind.model_validate_json(json.dumps(tree), strict=True)
        except ValidationError as error:
            raise ValueError(first_error(error, section="settings")) from None


def has_same_images(first: AttentionMethodConfig, second: AttentionMethodConfig) -> bool:
    """Return whether two stores have the same images, by the settings of their method."""
    return all(getattr(first, key) == getattr(second, key) for key in IMAGE_KEYS)
