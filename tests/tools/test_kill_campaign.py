"""The kill campaign, short: one stage, killed alone and with its runner."""

from pathlib import Path

import pytest

from tools.kill_campaign import KillProject, campaign
from tools.smoke_project import finish_project, make_project, smoke_params


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
