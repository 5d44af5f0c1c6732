"""Damage to what stages read from each other: each has to refuse it, with one message.

    python -m tools.damage_artifacts PROJECT [--count 98] [--seed 0]

PROJECT is a finished project at smoke size; it is copied. `pytest --basetemp DIR
tests/test_pipeline.py -k ends_in_a_table` makes one in DIR/workspace0.

Bookkeeping (results of checks, logs on their way to MLflow, notes of digests) is worth nothing: its
readers may refuse damage, or go on without it.
"""

import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tools.campaign import Campaign, Case, run_tool
from tools.damage import FILES, JSON, VALUES, change_json, drop_key, flip_bit

EVALUATE, MASKSYN = ("evaluate", "--item"), ("masksyn", "--item", "car")
READERS: dict[str, tuple[str, ...]] = {
    "data/real/taxonomy.json": ("ablation",),
    "data/real/subsets.json": ("plan",),
    "data/real/test/manifest.json": (*EVALUATE, "baseline"),
    "data/real/test/index.parquet": (*EVALUATE, "baseline"),
    "data/real/test/shard-00000.tar": (*EVALUATE, "baseline"),
    "data/captions/captions.parquet": ("text2mask",),
    "data/prompts/car.parquet": MASKSYN,
    "data/models/foundation/model_index.json": ("text2mask",),
    "data/models/foundation/unet/config.json": ("text2mask",),
    "data/models/foundation/text_encoder/model.safetensors": ("text2mask",),
    "data/models/text2mask/unet/diffusion_pytorch_model.safetensors": MASKSYN,
    "data/models/mask2img/config.json": MASKSYN,
    "data/models/mask2img/diffusion_pytorch_model.safetensors": MASKSYN,
    "data/checkpoints/baseline/metrics.json": (*EVALUATE, "baseline"),
    "data/checkpoints/baseline/seed0/config.json": (*EVALUATE, "baseline"),
    "data/checkpoints/baseline/seed0/model.safetensors": (*EVALUATE, "baseline"),
    "data/checkpoints/mask2former/seed0/config.json": (*EVALUATE, "mask2former"),
    "data/checkpoints/mask2former/seed0/model.safetensors": (*EVALUATE, "mask2former"),
    "data/reports/evaluate/baseline/metrics.json": ("ablation",),
    "data/reports/judge/masksyn/metrics.json": ("ablation",),
    "data/reports/memorization/masksyn/metrics.json": ("ablation",),
    "data/synthetic/masksyn/car/manifest.json": ("judge", "--item", "masksyn"),
    "data/synthetic/masksyn/car/index.parquet": ("judge", "--item", "masksyn"),
}
"""A cheap reader of each file."""
BOOKKEEPING: dict[str, tuple[str, ...]] = {
    "dvc.lock": ("lineage", "baseline"),
    "data/reports/checks/captions.json": ("check_captions",),
    ".seggen/checks/captions.json": ("check_captions",),
    ".seggen/metrics/runs/*evaluate.baseline.*.jsonl": ("track",),
    ".seggen/metrics/runs/*foundation.*.jsonl": ("plan",),
    ".seggen/metrics/digests/*": ("evaluate", "--item", "baseline"),
    ".seggen/metrics/sent/*/*.json": ("track",),
}
"""Files, by pattern, that no result depends on, and a cheap reader of each."""
_OPTIONAL = ("data/real/subsets.json", "data/reports/judge", "data/reports/memorization")
"""Where these are missing, their readers go on without them."""


def make_campaign(project: Path, count: int, rng: random.Random) -> Campaign:
    """Return `count` cases, chosen at random from all files and all ways to damage them."""
    cases = [
        Case(f"{file}: {name}", _at(file, damage), False, command)
        for file, command in BOOKKEEPING.items()
        if any(project.glob(file))
        for name, damage in {**FILES, "a bit": flip_bit(rng)}.items()
    ]
    for file, command in READERS.items():
        ways: dict[str, Callable[[Path], object]] = dict(FILES)
        if file.endswith(".json"):
            ways |= JSON
        for name, damage in ways.items():
            is_fine = name == "missing" and file.startswith(_OPTIONAL)
            cases.append(Case(f"{file}: {name}", _at(file, damage), not is_fine, command))
        # A changed value may be as good as the one before: DVC's hashes tell, and they alone.
        loose = {"a bit": flip_bit(rng)}
        if file.endswith(".json"):
            value = rng.choice(VALUES)
            loose |= {"a key less": drop_key(rng)}
            loose |= {f"{value!r} somewhere": change_json(rng, value=value)}
        cases += [
            Case(f"{file}: {name}", _at(file, damage), False, command)
            for name, damage in loose.items()
        ]
    return Campaign(
        title="artefacts (their readers)",
        prepare=lambda folder: _copy(project, folder),
        command=("plan",),
        cases=rng.sample(cases, min(count, len(cases))),
        imports=(
            *("seggen_core.stages.evaluate", "seggen_core.stages.masksyn"),
            *("seggen_core.stages.judge", "seggen_core.stages.ablation"),
            *("seggen_core.stages.text2mask", "seggen_core.segmentation.mask2former"),
            *("seggen_core.segmentation.hrnet", "pandas", "matplotlib.pyplot"),
            "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
            "transformers.models.clip.modeling_clip",
        ),
        seconds=600,
    )


def _at(file: str, damage: Callable[[Path], object]) -> Callable[[Path], object]:
    """Return what damages the first file that fits a pattern."""
    return lambda folder: damage(min(path for path in folder.glob(file) if path.is_file()))


def _copy(project: Path, folder: Path) -> None:
    for name in ("data", ".seggen"):
        shutil.copytree(project / name, folder / name)
    shutil.copytree(project / "profiles" / "scenes", folder / "profiles" / "scenes")
    for name in ("params.yaml", "dvc.yaml", "dvc.lock"):
        shutil.copy(project / name, folder)


def main(argv: list[str]) -> int:
    """Run the campaign on the project that the first argument names."""
    if not argv or argv[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    project = Path(argv[0])

    def make(count: int, rng: random.Random) -> Campaign:
        return make_campaign(project, count, rng)

    return run_tool(make, about=str(__doc__), count=98, argv=argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
