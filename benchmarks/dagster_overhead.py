"""What DVC and Dagster cost on a large pipeline: 150 classes x 4 methods (600 partitions).

    python benchmarks/dagster_overhead.py [--classes 150] [--partitions 4] [--without-bytecode]

Seconds are CPU seconds of all processes involved, children included: wall-clock time depends on
what else a machine does. Python finds its compiled modules, as it does from its second start on,
unless PYTHONDONTWRITEBYTECODE is set where nothing was compiled when it was installed:
`--without-bytecode` measures that. Each figure stands beside its limit; the exit code is 1 where
one is exceeded.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from dagster_dvc.manifest import CACHE_FILE

ROOT = Path(__file__).parent.parent
METHODS = ("masksyn", "imgsyn", "seediff", "diffumask")
PRELUDE = """
import sys
from pathlib import Path
import dagster as dg
from dagster_dvc.definitions import build_dvc_definitions
from dagster_dvc.resource import DvcProject
defs = dg.Definitions.merge(
    build_dvc_definitions(DvcProject(str(Path.cwd()))),
    dg.Definitions(executor=dg.in_process_executor),
)
defs.get_repository_def().get_all_jobs()
"""
ONE_RUN = """
with dg.DagsterInstance.get() as instance:
    job = defs.resolve_implicit_global_asset_job_def()
    for partition in sys.argv[2:]:
        result = job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(sys.argv[1])],
            partition_key=partition,
        )
        assert result.success
"""


def main() -> int:
    """Run all measurements and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument(
        "--partitions",
        type=int,
        default=4,
        help="partitions that are materialised for each measurement",
    )
    parser.add_argument(
        "--without-bytecode",
        action="store_true",
        help="let every process compile all that it imports",
    )
    args = parser.parse_args()
    bytecode = "no bytecode at hand" if args.without_bytecode else "bytecode at hand"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}, {bytecode}")
    total = args.classes * len(METHODS)
    print(f"{args.classes} classes x {len(METHODS)} methods = {total} partitions\n")
    with tempfile.TemporaryDirectory(prefix="seggen-dagster-") as folder:
        project, compiled = Path(folder, "project"), Path(folder, "bytecode")
        # Out of the way of what the installation has: both ways of measuring start from nothing.
        os.environ["PYTHONPYCACHEPREFIX"] = str(compiled)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1" if args.without_bytecode else ""
        slugs = make_project(project, classes=args.classes)
        rows = measure(project, slugs=slugs, count=args.partitions)
    width = max(len(name) for name, _, _ in rows)
    for name, seconds, limit in rows:
        verdict = (
            ""
            if limit is None
            else f"   (limit {limit:g} s{'' if seconds <= limit else ': EXCEEDED'})"
        )
        print(f"{name:<{width}}  {seconds:6.2f} s{verdict}")
    return int(any(limit is not None and seconds > limit for _, seconds, limit in rows))


def make_project(root: Path, *, classes: int) -> list[str]:
    """Write the project with all of its outputs, recorded by DVC; returns the class slugs."""
    slugs = [f"class_{i:03d}" for i in range(classes)]
    stages = {
        "dataset": {
            "cmd": "sh stage.sh data/real",
            "deps": ["stage.sh"],
            "params": ["seed"],
            "outs": ["data/real"],
        }
    }
    for method in METHODS:
        out = f"data/synthetic/{method}/${{item.class}}"
        stages[method] = {
            "matrix": {"class": "${classes}"},
            "cmd": f"sh stage.sh {out}",
            "deps": ["stage.sh", "data/real"],
            "params": [method],
            "outs": [out],
        }
    reads = [f"data/synthetic/{method}" for method in METHODS]
    stages["train_seg"] = {
        "cmd": "sh stage.sh data/checkpoint",
        "deps": ["stage.sh", *reads],
        "outs": ["data/checkpoint"],
    }
    params = {
        "seed": 0,
        "classes": slugs,
        **{method: {"samples_per_source": 8} for method in METHODS},
    }
    root.mkdir()
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (root / "stage.sh").write_text('mkdir -p "$(dirname $1)"; echo "$1" > $1\n')
    (root / ".gitignore").write_text("/data/\n/home/\n")
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text(
        f"[core]\nanalytics = false\ncheck_update = false\nsite_cache_dir = {root}/site\n"
    )
    (root / "home").mkdir()
    (root / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    for out in (
        "data/real",
        "data/checkpoint",
        *(f"{read}/{slug}" for read in reads for slug in slugs),
    ):
        (root / out).parent.mkdir(parents=True, exist_ok=True)
        (root / out).write_text(f"{out}\n")
    run(["git", "init", "--quiet"], root)
    run(["dvc", "commit", "--force", "--quiet"], root)
    return slugs


def measure(root: Path, *, slugs: list[str], count: int) -> list[tuple[str, float, float | None]]:
    """Name, CPU seconds and limit of each measurement."""
    rows: list[tuple[str, float, float | None]] = []

    def add(name: str, act: Callable[[], str], *, limit: float | None = None) -> float:
        before = _children_seconds()
        started = time.monotonic()
        act()
        seconds = _children_seconds() - before
        rows.append((name, seconds, limit))
        print(
            f"... {name}: {seconds:.2f} s of CPU, {time.monotonic() - started:.1f} s in all",
            file=sys.stderr,
            flush=True,
        )
        return seconds

    def python(script: str, *argv: str) -> Callable[[], str]:
        return lambda: run([sys.executable, "-c", PRELUDE + script, *argv], root)

    def make_stale(method: str, value: int) -> None:
        params = yaml.safe_load((root / "params.yaml").read_text())
        params[method]["samples_per_source"] = value
        (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    python(
        ONE_RUN, "masksyn", slugs[-1]
    )()  # the first run makes Dagster's databases, and compiles modules
    imports = add("import dagster", lambda: run([sys.executable, "-c", "import dagster"], root))
    (root / CACHE_FILE).unlink(missing_ok=True)
    add("definitions, dvc.yaml has changed (import included)", python(""), limit=5)
    add("definitions, manifest at hand (import included)", python(""), limit=5)
    add("dvc repro, nothing to do", lambda: run(["dvc", "repro", "--quiet"], root), limit=10)
    make_stale("masksyn", 1)
    python(ONE_RUN, "masksyn", slugs[-1])()  # the first run after a change makes the manifest
    one = add("one partition in a process of its own", python(ONE_RUN, "masksyn", slugs[0]))
    rows.append(("    of it beyond `import dagster`", one - imports, 5))
    many = add(
        f"{count} partitions, a run each, in one process",
        python(ONE_RUN, "masksyn", *slugs[1 : count + 1]),
    )
    rows.append(("    a partition more", (many - one) / (count - 1), 4))
    stages = [f"masksyn@{slug}" for slug in slugs[count + 1 : 2 * count + 1]]
    command = [sys.executable, "-m", "dagster_dvc.repro", *stages]
    shell = add(f"{count} partitions by dagster_dvc.repro", lambda: run(command, root))
    rows.append(("    each", shell / count, 4))
    return rows


def run(command: list[str], root: Path) -> str:
    """Run a command in the project and return what it prints; shows it where the command fails."""
    env = os.environ | {
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "DAGSTER_HOME": str(root / "home"),
        "DVC_NO_ANALYTICS": "true",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(command, cwd=root, env=env, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
