from dagster_dvc.execution import StageResult
from dagster_dvc.manifest import DvcManifest, StageNode
from dagster_dvc.schedule import Schedule


def node(name: str, *upstream: str) -> StageNode:
    group, _, key = name.partition("@")
    return StageNode(
        name, group, key or None, {}, ("true",), ("true",), (), (), (), (), {}, None, {}, upstream
    )


def ended(name: str, outcome: str = "ran") -> StageResult:
    return StageResult(name, outcome, 0, 1.0, 0.1, 0.9, ())  # type: ignore[arg-type]


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


def test_only_what_has_changed_or_follows_something_new_is_due() -> None:
    nodes = [node("a"), node("b", "a"), node("c", "b"), node("d", "a"), node("e", "d")]
    schedule = make_schedule(*nodes, changed={"b"})
    assert schedule.due() == ["b", "c"]
    assert schedule.pop() == "b"
    assert schedule.pop() is None
    assert schedule.up_to_date == {"a", "d", "e"}
    # DVC found on a closer look that b was as it should be: c isn't even looked at.
    schedule.finish(ended("b", "unchanged"))
    assert schedule.pop() is None
    assert schedule.up_to_date == {"a", "c", "d", "e"}
