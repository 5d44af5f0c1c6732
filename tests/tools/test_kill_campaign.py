"""The kill campaign, short: one stage, killed alone and with its runner."""

from pathlib import Path

import pytest

from seggen_core.config import load_config
from tools.kill_campaign import KillProject, campaign, kill_params
from tools.smoke_project import finish_project, make_project, smoke_params, write_params


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished project of the stage `dataset` alone, with a tiny dataset."""
    params = smoke_params()
    params["dataset"] |= {"image_size": 16, "num_train": 40, "subset_size": 4}
    folder = make_project(tmp_path_factory.mktemp("kills") / "reference", params)
    return finish_project(folder, "dataset")


def test_killed_runners_and_stages_leave_the_same_bytes_and_nothing_else(
    reference: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    counts = campaign(
        KillProject(reference, tmp_path),
        stages=["dataset"],
        modes=["runner"],
        num_iterations=1,
        seed=1,
        say=said.append,
    )
    assert counts["iterations"] == counts["sound"] == 1, "\n".join(said)
    assert counts["kills"] >= 1
    assert f"| runner | 1 | {counts['kills']} | 1 | 0 |" in said


def test_the_campaigns_parameters_are_valid(tmp_path: Path) -> None:
    write_params(tmp_path, kill_params())
    config = load_config(tmp_path / "params.yaml")
    assert config.text2mask.checkpoint_every == 3
