"""README.md of an export: classes, licence, sources, models, quality, and how to open it."""

import json
from importlib.metadata import version
from typing import Any

from seggen_core.colors.class_colors import colored_classes
from seggen_core.exports.job import ExportJob
from seggen_core.exports.sources import Source, quality_scores
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.card import class_table, escape, front_matter, samples_digest
from seggen_core.store.format import INDEX, QUALITY_PREFIX
from seggen_core.taxonomy import IGNORE_INDEX


def export_card(job: ExportJob, *, opening: str, paths: ProjectPaths, is_hub: bool) -> str:
    """Return the card of an export.

    Args:
        job: what is exported.
        opening: Markdown: how the folder is opened.
        paths: the project, for the reports of judge and memorization.
        is_hub: begin with the front matter that the Hub and `datasets` read.
    """
    selection = job.selection
    licenses = selection.licenses
    first = licenses[0] if len(licenses) == 1 else "; ".join(licenses) or None
    text = ""
    if is_hub:
        files = {split: f"data/{split}-*.parquet" for split in selection.splits}
        text = front_matter(first, data_files=files, digest=_digest(job)) + "\n"
    counts = ", ".join(f"{count} {split}" for split, count in selection.splits.items())
    text += f"# {escape(job.name)}\n\nImages with segmentation masks: {counts}.\n"
    text += f"\n## Opening\n\n{opening.format(split=next(iter(selection.splits)))}\n"
    text += "\n## Classes\n\n"
    text += f"Train ids of masks; {IGNORE_INDEX} is ignored. Colours are for pictures.\n\n"
    text += class_table(colored_classes(selection.taxonomy, selection.colors))
    text += "\n## Licence\n\n" + _license(first)
    text += "\n## Sources\n\n" + _sources(selection.sources)
    text += _models(selection.sources)
    return text + _quality(selection.sources, paths=paths)


def _digest(job: ExportJob) -> str:
    """Return a digest of the exported samples and of how they are written."""
    parts = [f"{version('seggen')} {job.images}".encode()]
    for source in job.selection.sources:
        parts += [(source.store.folder / INDEX).read_bytes(), source.positions.tobytes()]
    return samples_digest(*parts)


def _license(text: str | None) -> str:
    if text is None:
        return "Nothing says under which licence the data behind these samples are.\n"
    return (
        f"Of the real data: {text}\n\nSynthetic samples come from models that may have terms of "
        "their own (see below).\n"
    )


def _sources(sources: tuple[Source, ...]) -> str:
    lines = ["| source | split | samples | kind |", "|---|---|---:|---|"]
    for source in sources:
        manifest = source.store.manifest
        kind = (
            "real" if source.is_real else f"synthetic, {manifest.get('method', 'unknown method')}"
        )
        lines.append(
            f"| {escape(source.name)} | {source.split} | {len(source.positions)} | {escape(kind)} |"
        )
    return "\n".join(lines) + "\n"


def _models(sources: tuple[Source, ...]) -> str:
    """Return a table of the models behind synthetic sources, with their revisions and digests."""
    rows = dict.fromkeys(row for source in sources for row in _model_rows(source.store.manifest))
    if not rows:
        return ""
    lines = ["| model | source | revision | digest |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(map(escape, row)) + " |" for row in sorted(rows)]
    return "\n## Models\n\n" + "\n".join(lines) + "\n"


def _model_rows(manifest: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    models = manifest.get("models", {})
    digests = dict(manifest.get("model_hashes", {}))
    if "model_hash" in manifest:
        digests.setdefault("foundation", manifest["model_hash"])
    return [
        (
            name,
            models.get(name, {}).get("source") or "trained by this project",
            models.get(name, {}).get("revision") or "",
            digests.get(name, ""),
        )
        for name in sorted({*models, *digests})
    ]


def _quality(sources: tuple[Source, ...], *, paths: ProjectPaths) -> str:
    """Return mean scores of the exported samples, and the figures of judge and memorization."""
    lines = []
    for source in sources:
        rows = source.store.index.iloc[source.positions]
        for name in quality_scores(rows):
            scores = rows[QUALITY_PREFIX + name].dropna()
            if len(scores):
                mean = float(scores.mean())
                lines.append(f"| {escape(source.name)} | mean {escape(name)} | {mean:.4g} |")
    methods = dict.fromkeys(
        s.store.manifest["method"] for s in sources if "method" in s.store.manifest
    )
    for method in methods:
        for kind in ("judge", "memorization"):
            file = paths.report(kind, method) / "metrics.json"
            if file.is_file():
                lines += [
                    f"| {escape(method)} | {kind}: {escape(name)} | {value:.4g} |"
                    for name, value in json.loads(file.read_text(encoding="utf-8")).items()
                    if isinstance(value, int | float)
                ]
    if not lines:
        return ""
    table = ["| of | figure | value |", "|---|---|---:|", *lines]
    return "\n## Quality\n\n" + "\n".join(table) + "\n"
