"""Results of checks: evaluated once for the same data and limits, stored, and found again.

`look` is what stages and Dagster ask: it returns stored results and evaluates what is missing.
`recall` evaluates nothing that reads samples. Results are in `.seggen/checks`, one file an output;
the stages that gate on them also write them among their outs, so that they travel with the data
(`checks.gate`).
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from seggen_core.checks.finding import Finding
from seggen_core.checks.registry import SAMPLES_SOUND, STAGE_CHECKS, Check, checks_of
from seggen_core.config import ChecksConfig
from seggen_core.datasets.reader import SPLITS
from seggen_core.project.digests import json_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.publish import publish
from seggen_core.store.format import INDEX, MANIFEST


@dataclass(frozen=True)
class Checked:
    """An output of a stage that has checks.

    Attributes:
        stage: one of `STAGE_CHECKS`, or a synthetic method.
        item: the stage's class, arm or method; None where it has none.
        paths: the project's.
        config: all limits, the section `checks` of params.yaml.
    """

    stage: str
    item: str | None
    paths: ProjectPaths
    config: ChecksConfig

    @property
    def name(self) -> str:
        """The stage as DVC names it ("seediff@road")."""
        return self.stage if self.item is None else f"{self.stage}@{self.item}"

    @cached_property
    def folder(self) -> Path:
        """What the checks get: the folder that the stage wrote."""
        if self.item is None:
            return (
                self.paths.real("train") if self.stage == "dataset" else self.paths.captions.parent
            )
        if self.stage == "train_seg":
            return self.paths.checkpoint(self.item)
        if self.stage == "judge":
            return self.paths.report(self.stage, self.item)
        return self.paths.synthetic(self.stage, self.item)

    @cached_property
    def limits(self) -> ChecksConfig:
        """The limits of this output."""
        if self.stage not in STAGE_CHECKS and self.item is not None:
            return self.config.for_partition(self.stage, self.item)
        return self.config

    def limit_key(self, limit: str) -> str:
        """Return the key of params.yaml that sets a limit for this output."""
        if self.stage not in STAGE_CHECKS and self.item is not None:
            return self.config.key_of(limit, method=self.stage, class_slug=self.item)
        return f"checks.{limit}"

    @property
    def file(self) -> Path:
        """Where results are stored."""
        return self.paths.check_results(self.name)

    def identity(self, check: Check) -> str:
        """Return a digest of all that the result of a check depends on."""
        limits = [getattr(self.limits, limit) for limit in check.limits]
        return json_digest([_code_digest(), check.name, limits, self._content], length=32)

    @cached_property
    def _content(self) -> list[Any]:
        """What tells the data apart that the checks read: nothing that a later stage writes."""
        paths = self.paths
        folders = [paths.real(split) for split in SPLITS]
        files = [paths.taxonomy]
        if self.stage != "dataset":
            folders.append(self.folder)
            files.append(paths.subsets)
        return [list(_states(folder)) for folder in folders] + [_digest(file) for file in files]


def look(checked: Checked) -> dict[str, Finding]:
    """Return what the checks find of an output; evaluate and store what isn't stored.

    Raises:
        SegGenError: the output isn't there, or can't be read.
    """
    findings = recall(checked)
    checks = checks_of(checked.stage)
    missing = [check for check in checks if check.name not in findings]
    for check in missing:
        sound = findings.get(SAMPLES_SOUND.name)
        if sound is not None and not sound.passed:
            summary = f"not looked at, because {SAMPLES_SOUND.name} failed"
            findings[check.name] = Finding(False, summary, blocks=False)
        else:
            findings[check.name] = check.evaluate(
                checked.folder, paths=checked.paths, checks=checked.limits
            )
    ordered = {check.name: findings[check.name] for check in checks}
    if any(check.reads_samples for check in missing):
        replace_json(checked.file, results_tree(checked, ordered))
    return ordered


def recall(checked: Checked) -> dict[str, Finding]:
    """Return the results that are known without reading samples, in the order of the checks.

    A stored result counts for the same data, limits and code of checks.
    """
    checks = checks_of(checked.stage)
    if not checked.folder.is_dir():
        return {}
    known: dict[str, Finding] = {}
    stored = _stored(checked) if any(check.reads_samples for check in checks) else []
    for check in checks:
        if not check.reads_samples:
            known[check.name] = check.evaluate(
                checked.folder, paths=checked.paths, checks=checked.limits
            )
            continue
        for results in stored:
            result = results.get(check.name)
            if isinstance(result, dict) and result.get("identity") == checked.identity(check):
                known[check.name] = _from_tree(result, root=checked.paths.root)
                break
    return known


def results_tree(checked: Checked, findings: Mapping[str, Finding]) -> dict[str, Any]:
    """Return results as `recall` reads them: JSON-ready, by the names of the checks."""
    return {
        check.name: _to_tree(findings[check.name], root=checked.paths.root)
        | {"identity": checked.identity(check)}
        for check in checks_of(checked.stage)
        if check.name in findings
    }


def _stored(checked: Checked) -> list[dict[str, Any]]:
    """Return the stored results: those of this copy of the project, and those among the outs."""
    report = _read(checked.paths.check_report(checked.stage)).get(checked.name, {})
    return [_read(checked.file), report if isinstance(report, dict) else {}]


def replace_json(file: Path, tree: Any) -> None:
    """Replace a file in one step: a reader sees all of it, or what was there before.

    What is no file goes, too: to write to a FIFO would wait for a reader.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f"{file.name}.{os.getpid()}")
    scratch.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    publish(scratch, file)


def _read(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one where it is missing or damaged."""
    if not file.is_file():  # to read from a FIFO would wait for a writer
        return {}
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _to_tree(finding: Finding, *, root: Path) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "passed": finding.passed,
        "blocks": finding.blocks,
        "summary": finding.summary,
        "numbers": finding.numbers,
    }
    if finding.limit is not None:
        tree["limit"] = finding.limit
    if finding.example is not None:
        tree["example"] = finding.example
    if finding.picture is not None:
        folder, key = finding.picture
        tree["picture"] = [folder.relative_to(root).as_posix(), key]
    return tree


def _from_tree(tree: Mapping[str, Any], *, root: Path) -> Finding:
    picture = tree.get("picture")
    return Finding(
        passed=tree["passed"],
        summary=tree["summary"],
        numbers=tree["numbers"],
        example=tree.get("example"),
        picture=None if picture is None else (root / picture[0], picture[1]),
        blocks=tree["blocks"],
        limit=tree.get("limit"),
    )


def _states(folder: Path) -> Iterator[list[Any]]:
    """Yield what tells the contents of a folder apart: digests of small files, sizes of shards.

    The index of a store has the CRC-32 of every member, so it stands for the shards.
    """
    for name in (MANIFEST, INDEX, "captions.parquet"):
        if (folder / name).is_file():
            yield [name, _digest(folder / name)]
    for shard in sorted(folder.glob("*.tar")):
        yield [shard.name, shard.stat().st_size]


def _digest(file: Path) -> str:
    try:
        state = file.stat()
    except FileNotFoundError:
        return ""
    return _digest_of(str(file), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest_of(file: str, size: int, modified: int) -> str:  # noqa: ARG001 (they name the content)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:32]


@lru_cache(maxsize=1)
def _code_digest() -> str:
    """Return a digest of the checks' own code: a result of other code doesn't count."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()[:16]
