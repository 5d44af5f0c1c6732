"""A DVC cache that somebody has deleted."""

import shutil
from pathlib import Path

import pytest

from dagster_dvc.cache import refill_cache
from dagster_dvc.repro import main
from dagster_dvc.status import changed_stages


def cached_files(project: Path) -> dict[str, bytes]:
    cache = project / ".dvc" / "cache" / "files"
    return {str(p.relative_to(cache)): p.read_bytes() for p in cache.rglob("*") if p.is_file()}


def test_a_deleted_cache_comes_back_from_the_results_and_nothing_runs(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, lock = cached_files(project), (project / "dvc.lock").read_bytes()
    shutil.rmtree(project / ".dvc" / "cache")
    assert set(changed_stages(project)) >= {"dataset", "masksyn@car"}
    assert main(["--cd", str(project)]) == 0
    output = capsys.readouterr().out
    # All outputs have the same content here, so one file of the cache brings all of them back.
    assert "such as data/real/train (1 in all): it is back in the cache" in output
    assert "Nothing to do: 6 stages up to date." in output
    assert list((project / "trace").iterdir()) == []
    assert cached_files(project) == before and (project / "dvc.lock").read_bytes() == lock
    assert changed_stages(project) == {}


def test_results_that_are_gone_or_changed_do_not_come_back(project: Path) -> None:
    shutil.rmtree(project / ".dvc" / "cache")
    (project / "data" / "real" / "train").write_text("by hand")
    (project / "data" / "checkpoints" / "masksyn").unlink()
    names = set(changed_stages(project))
    assert refill_cache(project, names - {"dataset"}) == ["data/synthetic/masksyn/car"]
    assert set(changed_stages(project)) >= {"dataset", "train_seg@masksyn"}
    assert refill_cache(project, names) == []
    assert (project / "data" / "real" / "train").read_text() == "by hand"
