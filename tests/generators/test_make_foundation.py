import json
from pathlib import Path
from typing import Any

import pytest

from seggen_core.config import PretrainConfig, SegGenConfig
from seggen_core.generators.foundation import load_pipeline
from seggen_core.generators.make_foundation import located
from seggen_core.generators.sampling import sample_images
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.rng import torch_generator
from seggen_core.scenes.layout import SCENES_TAXONOMY
from seggen_core.stages import foundation as stage
from tests.generators.tiny_pretraining import CONFIG
from tests.minimal_config import minimal_config

pytestmark = pytest.mark.usefixtures("small_pretraining")


@pytest.mark.parametrize(
    "changes, message",
    [({"new_unet": True}, "new_unet"), ({"random_crops": {"per_sample": 1}}, "crops")],
)
def test_settings_that_would_do_nothing_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainConfig.model_validate(changes)


def test_the_stage_pretrains_and_other_settings_never_meet_the_old_parts(tmp_path: Path) -> None:
    paths = ProjectPaths(tmp_path)
    paths.taxonomy.parent.mkdir(parents=True)
    paths.taxonomy.write_text(json.dumps(SCENES_TAXONOMY.to_json()))
    settings = CONFIG.model_dump(mode="json") | {
        "autoencoder_steps": 1,
        "unet_steps": 1,
        "pool_size": 8,
    }

    def config_of(pretrain: dict[str, Any]) -> SegGenConfig:
        return minimal_config(
            {"name": "scenes", "image_size": 16},
            runtime={"device": "cpu", "tracking_uri": "disk"},
            foundation={
                "mode": "pretrain",
                "pretrain": pretrain,
                "preview": {"num_inference_steps": 2},
            },
            seediff={
                "samples_per_class": 1,
                "sampling": {"num_inference_steps": 1, "micro_batch_size": 2},
            },
        )

    config = config_of(settings)
    wider = config_of(settings | {"unet_channels": [32, 32]})
    with pytest.MonkeyPatch.context() as patch:

        def killed(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        # A run that ends before it is published leaves its parts in the scratch folder.
        patch.setattr(stage, "draw_foundation", killed)
        with pytest.raises(KeyboardInterrupt):
            stage.run(wider, paths=paths, item=None)
    assert list((paths.scratch / "foundation").rglob("vae"))
    stage.run(config, paths=paths, item=None)
    pipeline = load_pipeline(paths.model("foundation"))
    assert pipeline.unet.config.block_out_channels == [16, 32]
    assert not (paths.scratch / "foundation").exists()
    sample = sample_images(
        pipeline,
        prompts=["a photo of a car"],
        generators=lambda i: torch_generator(0, i),
        config=config.seediff.sampling,
        image_size=16,
    )
    assert sample.shape == (1, 16, 16, 3)


@pytest.mark.parametrize("given", ["old", "/elsewhere/old"])
def test_init_from_starts_from_the_project_wherever_the_shell_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir("/")
    config = located(PretrainConfig(init_from=Path(given)), base=tmp_path)
    assert config.init_from == (tmp_path / "old" if given == "old" else Path("/elsewhere/old"))
    assert located(PretrainConfig(), base=tmp_path).init_from is None
