"""The smallest valid parameters, for tests that need only some sections."""

from typing import Any

from seggen_core.config import JudgeConfig, SegGenConfig

BASELINE = {
    "model": "hrnet",
    "strategy": "plain",
    "reads": ["data/real/train", "data/real/val"],
}


def minimal_config(dataset: dict[str, Any], /, **sections: Any) -> SegGenConfig:
    """Return a configuration that reads `dataset`; `sections` replace or add top-level keys."""
    tree = {
        "profile": "test",
        "classes": ["car"],
        "runtime": {"tracking_uri": "disk"},
        "dataset": dataset,
        "foundation": {"source": "unused"},
        "text2mask": {"num_steps": 1},
        "mask2img": {"num_steps": 1},
        "masksyn": {"samples_per_source": 1},
        "imgsyn": {"samples_per_source": 1},
        "seediff": {"samples_per_class": 1},
        "variants": {"baseline": BASELINE},
    }
    return SegGenConfig.model_validate(tree | sections)


def judged_by(config: SegGenConfig, arm: str) -> SegGenConfig:
    """Return the parameters with another judge, also one that params.yaml may not name."""
    return config.model_copy(update={"judge": JudgeConfig(variant=arm)})
