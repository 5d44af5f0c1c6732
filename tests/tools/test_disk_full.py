"""The disk-full campaign, short: one stage, by a limit on the size of files."""

from pathlib import Path

import pytest

from seggen_core.cli import COMMANDS, STAGES
from tools.disk_full import NOT_TRIED, all_tasks, campaign
from tools.smoke_project import make_project, smoke_params


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a tiny dataset."""
    params = smoke_params()
    params["dataset"] |= {"image_size": 16, "num_train": 10, "subset_size": 4}
    return make_project(tmp_path_factory.mktemp("disk-full") / "reference", params)


def test_a_full_disk_is_one_message_and_what_comes_after_has_the_same_bytes(
    reference: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    counts = campaign(
        all_tasks(["dataset"]),
        reference=reference,
        work=tmp_path,
        num_cuts=1,
        seed=0,
        is_mounted=False,
        say=said.append,
    )
    assert counts == {"one message": 1}, "\n".join(said)
    assert said[-1] == "| all | | 1 | 1 | 0 | 0 |"


def test_every_stage_and_command_is_tried_or_it_says_why_not() -> None:
    tried = {task.name.partition("@")[0].partition(",")[0] for task in all_tasks()}
    assert tried | set(NOT_TRIED) == {*STAGES, *COMMANDS}
    assert not tried & set(NOT_TRIED)
