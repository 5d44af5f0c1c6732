"""Checks of stages: what they stop, and what they say of several stages at once."""

from pathlib import Path

import dagster as dg
import pytest

from dagster_dvc.blueprint import Blueprint, CheckOutcome, StageCheck
from dagster_dvc.checks import group_status, summarize
from dagster_dvc.definitions import build_dvc_definitions
from dagster_dvc.graph import StageNode
from dagster_dvc.lock import read_lock
from dagster_dvc.manifest import load_manifest
from dagster_dvc.resource import DvcProject
from dagster_dvc.status import changed_stages


def look(root: Path, node: StageNode) -> CheckOutcome:
    """Fails where a stage wrote the word "broken", and warns of "doubtful"."""
    words = {out: (root / out).read_text().strip() for out in node.outs}
    bad = {out: word for out, word in words.items() if word in ("broken", "doubtful")}
    if not bad:
        return CheckOutcome(passed=True, description="all is well", metadata={"files": len(words)})
    out, word = next(iter(bad.items()))
    severity = dg.AssetCheckSeverity.ERROR if word == "broken" else dg.AssetCheckSeverity.WARN
    return CheckOutcome(
        passed=False, description=f"{out} is {word}", metadata={"example": out}, severity=severity
    )


CHECK = StageCheck(
    "sound",
    "Nothing is broken",
    blocking=True,
    applies=lambda group: group == "masksyn",
    evaluate=look,
)


def definitions(root: Path) -> dg.Definitions:
    blueprint = Blueprint(load_manifest(root), [CHECK])
    return dg.Definitions.merge(
        build_dvc_definitions(DvcProject(str(root)), blueprint=blueprint, job="everything"),
        dg.Definitions(executor=dg.in_process_executor),
    )


def make_write(root: Path, word: str) -> None:
    """Let masksyn@car write `word`, others what they always do."""
    script = (root / "stage.sh").read_text().splitlines()
    lines = [line for line in script if "# word" not in line]
    (root / "stage.sh").write_text(
        "\n".join([*lines, f"[ $name != masksyn@car ] || echo {word} > $out # word"]) + "\n"
    )


def test_a_broken_sample_stops_the_graph(project: Path) -> None:
    make_write(project, "broken")
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions(project).resolve_job_def("everything")
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        assert not result.success
        failed = [
            evaluation
            for evaluation in result.get_asset_check_evaluations()
            if not evaluation.passed
        ]
        # Each partition that ends renews what is said of the asset.
        assert {(e.check_name, e.metadata["example"].value) for e in failed} == {
            ("sound", "data/synthetic/masksyn/car")
        }
        # The arm that reads masksyn hasn't been run, the one beside it has.
        changed = changed_stages(project)
        assert "train_seg@masksyn" in changed
        assert "train_seg@baseline" not in changed

        # Nor does it the second time, though DVC has nothing to do for masksyn any more.
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        assert not result.success
        assert "train_seg@masksyn" in changed_stages(project)

        make_write(project, "doubtful")
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        assert result.success, "a warning stops nothing"
        assert changed_stages(project) == {}


def test_a_partition_with_a_broken_sample_fails_its_run(project: Path) -> None:
    make_write(project, "broken")
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions(project).resolve_implicit_global_asset_job_def()
        for partition, sound in (("bus", True), ("car", False), ("bus", True)):
            result = job.execute_in_process(
                instance=instance,
                asset_selection=[dg.AssetKey("masksyn")],
                partition_key=partition,
                raise_on_error=False,
            )
            assert result.success is sound
        (evaluation,) = [e for e in result.get_asset_check_evaluations() if e.check_name == "sound"]
        # What the last run found of its own partition isn't all that is said of the asset.
        assert evaluation.description == (
            "1 of 2 partitions fail: car: data/synthetic/masksyn/car is broken"
        )
        assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)


@pytest.mark.parametrize(
    "words, expected",
    [
        (("a", "b"), "2 of 3 partitions pass; nothing is known of the other 1"),
        (
            ("doubtful", "broken"),
            "2 of 3 partitions fail: bus: data/synthetic/masksyn/bus is broken",
        ),
    ],
)
def test_several_stages_at_once(project: Path, words: tuple[str, str], expected: str) -> None:
    manifest = load_manifest(project)
    nodes = [manifest.stages["masksyn@car"], manifest.stages["masksyn@bus"]]
    for node, word in zip(nodes, words, strict=True):
        path = project / node.outs[0]
        path.unlink()  # it is a link into DVC's cache
        path.write_text(word)
    outcomes = {node.name: look(project, node) for node in nodes}
    outcome = summarize(outcomes, total=3, asked=outcomes)
    assert expected in outcome.description
    assert outcome.severity == dg.AssetCheckSeverity.ERROR
    # The run of a sound partition only warns of a broken one.
    others = summarize(outcomes, total=3, asked=["masksyn@car"])
    assert others.passed is outcome.passed
    assert others.passed or others.severity == dg.AssetCheckSeverity.WARN


def test_a_stage_that_never_ran_is_no_error(project: Path) -> None:
    manifest = load_manifest(project)
    lock = {name: one for name, one in read_lock(project).items() if name != "masksyn@bus"}
    changed = {"masksyn@bus": [{"changed outs": {"data/synthetic/masksyn/bus": "deleted"}}]}
    outcome = group_status(manifest, "masksyn", changed=changed, lock=lock)
    assert outcome.severity == dg.AssetCheckSeverity.WARN
    assert "1 of 2 partitions are changed: bus: it was never run (" in outcome.description
    ran = group_status(manifest, "masksyn", changed=changed, lock=read_lock(project))
    assert ran.severity == dg.AssetCheckSeverity.ERROR
