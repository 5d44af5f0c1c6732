"""Runs through a whole Dagster: eight at once, one cancelled, the daemon killed.

After each, DVC and Dagster agree.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_dvc.lock import read_lock
from dagster_dvc.status import changed_stages
from tests.dagster_dvc.conftest import dvc, is_alive, make_project
from tests.dagster_project.live import END_STATES, LiveDagster, wait_until

CLASSES = [f"class{i}" for i in range(8)]
TARGET = ["--python-file", str(Path(__file__).parent / "toy_definitions.py")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy project with eight classes; of its stages, only `dataset` has run."""
    root = tmp_path_factory.mktemp("live") / "project"
    make_project(root, classes=CLASSES)
    dvc(root, "repro", "dataset")
    return root


@pytest.fixture(scope="module")
def dagster(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveDagster]:
    with LiveDagster(project, folder=tmp_path_factory.mktemp("dagster"), target=TARGET) as dagster:
        yield dagster


def hang(project: Path, stage: str) -> None:
    (project / "trace" / f"{stage}.pid").unlink(missing_ok=True)
    (project / "trace" / f"{stage}.hang").touch()


def hanging_pid(project: Path, stage: str) -> int:
    """The process that `hang` made hang, once it does."""
    file = project / "trace" / f"{stage}.pid"
    wait_until(
        lambda: file.is_file() and bool(file.read_text()), seconds=240, what=f"{stage} to start"
    )
    (project / "trace" / f"{stage}.hang").unlink()
    return int(file.read_text())


def test_eight_partitions_at_once(dagster: LiveDagster, project: Path) -> None:
    for i, slug in enumerate(CLASSES):
        # A ring: each waits for the next one to have started, so that they pass only if all eight
        # run side by side.
        following = CLASSES[(i + 1) % len(CLASSES)]
        (project / "trace" / f"masksyn@{slug}.meet").write_text(f"trace/masksyn@{following}.start")
    dagster.backfill("masksyn", CLASSES)
    wait_until(
        lambda: len(dagster.runs()) == len(CLASSES) and set(dagster.runs().values()) <= END_STATES,
        seconds=540,
        what="eight runs",
    )
    assert set(dagster.runs().values()) == {"SUCCESS"}
    for file in (project / "trace").glob("*.meet"):
        file.unlink()
    lock = read_lock(project)
    versions = dagster.data_versions("masksyn", list(CLASSES))
    for slug in CLASSES:
        md5 = next(iter(lock[f"masksyn@{slug}"].outs.values())).md5
        assert versions[slug] == (md5, "FRESH")
    assert not {name for name in changed_stages(project) if name.startswith(("dataset", "masksyn"))}


def test_a_cancelled_run_ends_its_process_group_and_dvc_goes_on(
    dagster: LiveDagster, project: Path
) -> None:
    (project / "data/synthetic/masksyn/class0").unlink()
    script = project / "stage.sh"
    script.write_text(script.read_text() + "# changed\n")
    hang(project, "masksyn@class0")
    run_id = dagster.materialize("masksyn", partition="class0")
    command = hanging_pid(project, "masksyn@class0")
    dagster.cancel(run_id)
    assert dagster.wait_for(run_id) == "CANCELED"
    wait_until(lambda: not is_alive(command), seconds=20, what="the command to end")
    assert "masksyn@class0" in changed_stages(project)
    dvc(project, "repro", "masksyn@class0")
    assert "masksyn@class0" not in changed_stages(project)
    # And what was run in the shell arrives.
    wait_until(
        lambda: dagster.data_versions("masksyn", ["class0"])["class0"][1] is not None,
        seconds=120,
        what="the sensor",
    )


def test_a_run_outlives_the_daemon(dagster: LiveDagster, project: Path) -> None:
    release = project / "trace" / "release"
    (project / "trace" / "masksyn@class1.meet").write_text("trace/release")
    run_id = dagster.materialize("masksyn", partition="class1")
    start = project / "trace" / "masksyn@class1.start"
    start.unlink()
    wait_until(start.is_file, seconds=240, what="masksyn@class1 to start")
    dagster.kill("daemon")
    release.touch()
    assert dagster.wait_for(run_id) == "SUCCESS"
    assert "masksyn@class1" not in changed_stages(project)
