"""Gates: what reads some data is run only after the checks of these data have passed.

A gate is a stage of dvc.yaml (`check_dataset`, `check_captions`, `check_synthetic`). It writes two
outs: a report with the results, and a file that says "passed", which the stages behind the gate
have among their dependencies. If a blocking check fails, the second file isn't written, and DVC
runs nothing that needs it. The file holds no number, so a changed limit runs the gate again and
nothing behind it.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seggen_core.checks.finding import Finding
from seggen_core.checks.registry import checks_of
from seggen_core.checks.results import Checked, look, replace_json, results_tree
from seggen_core.errors import CheckError
from seggen_core.project.publish import delete

logger = logging.getLogger(__name__)


def pass_gate(
    outputs: Sequence[Checked], *, report: Path, passed: Mapping[Path, Any]
) -> dict[str, dict[str, Finding]]:
    """Look at outputs, write the report, and open the gate if no blocking check fails.

    Args:
        outputs: what to look at.
        report: gets the results by output and check.
        passed: files that open the gate, with their JSON-ready contents.

    Returns:
        The findings by output and check.

    Raises:
        CheckError: blocking checks fail; the message has a line for each.
    """
    for file in passed:
        delete(file)
    findings = {checked.name: look(checked) for checked in outputs}
    replace_json(report, {c.name: results_tree(c, findings[c.name]) for c in outputs})
    failures = [line for c in outputs for line in failure_lines(c, findings[c.name])]
    if failures:
        shown = (f for checked in outputs for f in findings[checked.name].values())
        has_limit = any(f.limit is not None for f in shown if not f.passed and f.blocks)
        choice = "; or, if the data are as you want them, change the limit" if has_limit else ""
        raise CheckError(
            "\n  ".join([f"{len(failures)} blocking checks fail:", *failures])
            + f"\nMend the data and run again{choice}. All results: {report}"
        )
    for checked in outputs:
        for line in warning_lines(checked, findings[checked.name]):
            logger.warning(line)
    for file, content in passed.items():
        replace_json(file, content)
    num_checks = sum(map(len, findings.values()))
    logger.info("%d checks of %d outputs let the next stages run", num_checks, len(outputs))
    return findings


def failure_lines(checked: Checked, findings: Mapping[str, Finding]) -> list[str]:
    """Return a line for each blocking check that fails: number, limit and the limit's key.

    A failure that no limit lets pass has no key.
    """
    lines = []
    for check in checks_of(checked.stage):
        finding = findings[check.name]
        if not finding.passed and finding.blocks:
            key = None if finding.limit is None else checked.limit_key(finding.limit)
            limit = f" (limit: {key} in params.yaml)" if key else ""
            lines.append(f"check {check.name} of {checked.name}: {finding.summary}{limit}")
    return lines


def warning_lines(checked: Checked, findings: Mapping[str, Finding]) -> list[str]:
    """Return a line for each check that fails and stops nothing."""
    return [
        f"check {name} of {checked.name}: {finding.summary}"
        for name, finding in findings.items()
        if not finding.passed and not finding.blocks
    ]
