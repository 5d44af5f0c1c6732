import dataclasses

import pytest

from dagster_dvc.graph import DvcManifest, StageNode
from dagster_dvc.result import StageResult
from dagster_dvc.schedule import Schedule


def node(name: str, *upstream: str) -> StageNode:
    group, _, key = name.partition("@")
    return StageNode(
        name=name,
        group=group,
        key=key or None,
        dimensions={},
        cmd=("true",),
        template=("true",),
        deps=tuple(f"data/{parent}" for parent in upstream),
        outs=(f"data/{name}",),
        metrics=(),
        plots=(),
        params={},
        desc=None,
        meta={},
        upstream=upstream,
    )


def ended(name: str, *changed_outs: str) -> StageResult:
    return StageResult(name, "ran", 0, 1.0, 0.1, 0.9, changed_outs, ())


def make_schedule(
    *nodes: StageNode, changed: set[str], durations: dict[str, float] | None = None
) -> Schedule:
    manifest = DvcManifest({n.name: n for n in nodes}, {})
    return Schedule(
        manifest, selected=set(manifest.stages), changed=changed, durations=durations or {}
    )


def test_the_longest_path_goes_first() -> None:
    nodes = [node("a"), node("b"), node("c"), node("after_a", "a"), node("after_b", "b")]
    durations = {"a": 5.0, "b": 1.0, "c": 7.0, "after_a": 1.0, "after_b": 9.0}
    schedule = make_schedule(*nodes, changed={n.name for n in nodes}, durations=durations)
    assert [schedule.pop(), schedule.pop(), schedule.pop(), schedule.pop()] == ["b", "c", "a", None]
    schedule.finish(ended("b"))
    assert schedule.pop() == "after_b"


def test_a_stage_without_a_duration_is_like_its_group() -> None:
    schedule = make_schedule(
        node("m@a"),
        node("m@b"),
        node("m@c"),
        node("n"),
        changed=set(),
        durations={"m@a": 4.0, "m@b": 8.0},
    )
    assert [schedule.expected_seconds(name) for name in ("m@a", "m@c", "n")] == [4.0, 6.0, 1.0]


@pytest.mark.parametrize("renewed", [True, False])
def test_only_what_has_changed_or_reads_something_new_is_due(renewed: bool) -> None:
    nodes = [node("a"), node("b", "a"), node("c", "b"), node("d", "a"), node("e", "d")]
    schedule = make_schedule(*nodes, changed={"b"})
    assert schedule.due() == ["b", "c"]
    assert schedule.pop() == "b"
    assert schedule.pop() is None
    assert schedule.up_to_date == {"a", "d", "e"}
    # Where b wrote what it had written before, c isn't even looked at.
    schedule.finish(ended("b", *(["data/b"] if renewed else [])))
    assert schedule.pop() == ("c" if renewed else None)
    assert schedule.up_to_date == {"a", "d", "e"} | (set() if renewed else {"c"})


def test_a_folder_is_new_when_a_part_of_it_is() -> None:
    whole = dataclasses.replace(node("whole", "m@a", "m@b"), deps=("data/m",))
    parts = [dataclasses.replace(node(f"m@{k}"), outs=(f"data/m/{k}",)) for k in "ab"]
    schedule = make_schedule(*parts, whole, changed={"m@a"})
    assert schedule.pop() == "m@a"
    schedule.finish(ended("m@a", "data/m/a"))
    assert schedule.pop() == "whole"


def test_a_stage_that_was_put_back_comes_again() -> None:
    schedule = make_schedule(node("a"), node("b"), changed={"a", "b"}, durations={"a": 2.0})
    assert schedule.pop() == "a"
    schedule.put_back("a")
    assert [schedule.pop(lambda name: name != "a"), schedule.pop()] == ["b", "a"]
