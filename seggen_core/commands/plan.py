"""`seggen plan`: estimate the time and the disk of a run before it starts."""

import argparse
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.config import SegGenConfig
    from seggen_core.project.paths import ProjectPaths

_NOT_OF_A_SUITE = {"judge", "memorization", "ablation"}
"""Stages that `seggen suites --run` doesn't run."""

SUMMARY = "estimate samples, hours and disk of every stage before anything runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--profile", help="plan this profile as it is published, not the parameter file"
    )
    parser.add_argument("--suite", help="plan the arms of this suite alone, and what they need")
    parser.add_argument(
        "--device",
        choices=["gpu", "cpu"],
        help="default: cpu for the embedded foundation, else gpu",
    )
    parser.add_argument(
        "--rates", type=Path, help="JSON table of your own throughputs (default: the package's)"
    )
    parser.add_argument(
        "--price",
        type=_parse_price,
        metavar="PRICE",
        help="price of an hour of the device, in your currency",
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def _parse_price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not 0 <= price < 1e9:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no price; expected a number from 0 on")
    return price


def run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:
    """Print the plan.

    Raises:
        ConfigError: there is no such profile or suite, or the dataset has no files here and no
            published size.
    """
    from seggen_core.config.dvc_params import lacking_keys
    from seggen_core.project.paths import ProjectPaths
    from seggen_core.project.shipped import profile_file
    from seggen_core.reports.plan import load_rates, plan_project
    from seggen_core.reports.plan_inputs import foundation_family

    is_own = not arguments.profile  # results in the project are those of the parameter file
    if arguments.suite:
        config, paths, is_own = _with_suite(arguments, config=config, paths=paths)
    elif arguments.profile:  # its files lie beside it, in the project or in the package
        paths = ProjectPaths(profile_file(arguments.profile, root=paths.root).parents[2])
    embedded = foundation_family(config, paths=paths) == "embedded"
    rates = load_rates(arguments.rates, device=arguments.device or ("cpu" if embedded else "gpu"))
    plan = plan_project(config, paths=paths, rates=rates, use_results=is_own)
    if arguments.suite:
        stages = [stage for stage in plan.stages if stage.stage not in _NOT_OF_A_SUITE]
        plan = replace(plan, profile=f"{plan.profile}, suite {arguments.suite}", stages=stages)
    elif is_own:
        pipeline = paths.root / "dvc.yaml"
        lacking = lacking_keys(arguments.params, pipeline=pipeline, config=config)
        plan = replace(plan, notes=[*lacking, *plan.notes])
    plan = replace(plan, price=arguments.price)
    print(json.dumps(asdict(plan), indent=1) if arguments.json else plan.render())
    return 0


def _with_suite(
    arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths"
) -> tuple["SegGenConfig", "ProjectPaths", bool]:
    """Return the parameters with the arms of a suite alone, and where their files are.

    They are the project's if the parameter file is of the suite's profile or reads its dataset,
    which the last value says; else they are those of the suite's profile.

    Raises:
        ConfigError: the suite can't be used.
    """
    from seggen_core.commands.suites import find_suite
    from seggen_core.config.load import check_config
    from seggen_core.config.params_file import read_params
    from seggen_core.config.suite import check_arms, merge_params, read_suite
    from seggen_core.project.paths import ProjectPaths
    from seggen_core.project.shipped import profile_file

    suite = read_suite(find_suite(arguments.suite, paths=paths))
    profile = profile_file(suite.profile, root=paths.root)
    tree = read_params(profile)
    is_same = suite.profile == config.profile or tree["dataset"]["name"] == config.dataset.name
    is_own = is_same and not arguments.profile
    if is_own:
        tree = read_params(arguments.params)
    else:
        paths = ProjectPaths(profile.parents[2])
    merge_params(tree, suite.params)
    name = f"params.yaml with the suite {arguments.suite}"
    merged = check_config(tree, name=name)  # as a whole, before arms are taken out
    check_arms(suite, arms=merged.evaluated, transfers=merged.transfer, name=arguments.suite)
    tree.pop("judge", None)  # a suite's page needs none, and its arm may be taken out
    tested = {test["arm"] for test in tree.get("transfer", {}).values()}
    arms = {*suite.arms, *tested, merged.ablation.baseline}
    tree["variants"] = {name: arm for name, arm in tree["variants"].items() if name in arms}
    read = {m for arm in tree["variants"].values() for m in map(_method, arm["reads"]) if m}
    tree["methods"] = [method for method in merged.methods if method in read]
    recipes = tree.get("mask_recipe", {})
    tree["mask_recipe"] = {name: recipe for name, recipe in recipes.items() if name in read}
    return check_config(tree, name=name), paths, is_own


def _method(path: str) -> str | None:
    """Return the method of an arm's input; None for real samples."""
    parts = Path(path).parts
    return parts[2] if parts[:2] == ("data", "synthetic") else None
