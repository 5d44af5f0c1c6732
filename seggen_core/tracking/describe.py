"""The texts that MLflow shows of experiments, runs and models. Imports no mlflow."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from seggen_core.metrics.tasks import FIGURES, PRIMARY
from seggen_core.tracking.log import Event, Input, Metrics, Output, Params, Start

HOW_TO_READ = """\
## How to read this page

- **One run is one arm of the ablation.** `miou` is the mean over its seeds on the held-out test
  split, in percent, and `miou_std` the sample standard deviation. `val_miou` and `train_loss` are
  curves. The runs below an arm are its seeds; they also have `iou/<class>`.
- **What helps?** Select all arms of one task and press *Compare*: the parallel-coordinates plot
  draws a line for each arm, through its parameters to its scores.
- **Where does an arm come from?** Its run lists everything that it was made from with DVC's md5,
  and links the runs that made it. `seggen lineage <arm>` prints the same, and
  `seggen lineage <md5>` says where the files are.
- **Experiments** of DVC (`dvc exp run --name NAME`) are named `<arm> (NAME)`.
- **The best segmenter** is the registered model with the alias `best`, chosen on the validation
  split.
"""

MAX_NOTE = 8000
"""Most characters of a description: MLflow refuses longer tags."""

_CUT = "\n\nThe rest is too long for MLflow. `seggen report` and `seggen lineage` print all.\n"

_GAP = "&#8199;"
"""A space of the width of a digit, at which no line breaks.

It keeps the cells of a row apart: MLflow draws tables without any space between columns.
"""


@dataclass(frozen=True)
class Source:
    """Something that a run read.

    Attributes:
        name: "masksyn@car".
        path: relative to the project.
        digest: its md5.
        is_dvc: whether DVC knows it by that md5.
        link: address of the run that made it, as MLflow's pages write it; None if unknown.
    """

    name: str
    path: str
    digest: str
    is_dvc: bool
    link: str | None = None


def sources(events: Sequence[Event]) -> list[Source]:
    """Return what a run read, each once."""
    inputs = {event.path: event for event in events if isinstance(event, Input)}
    return [
        Source(event.name, event.path, event.digest, event.digest_from == "dvc")
        for event in inputs.values()
    ]


def note(text: str) -> str:
    """Return Markdown as MLflow's pages show it well, and as short as MLflow takes it."""
    text = spaced(text)
    if len(text) <= MAX_NOTE:
        return text
    return text[: MAX_NOTE - len(_CUT)].rpartition("\n")[0] + _CUT


def spaced(text: str) -> str:
    """Return Markdown whose tables keep their columns apart on MLflow's pages."""
    return "\n".join(
        _spaced_row(line) if line.startswith("|") else line for line in text.split("\n")
    )


def _spaced_row(line: str) -> str:
    if not line.strip("|-: "):  # the line below the head
        return re.sub("-+", "---", line.replace(" ", ""))
    *cells, last = re.split(r"(?<!\\)\|", line.strip()[1:].removesuffix("|"))
    shown = [f" {cell.strip()}{_GAP} " for cell in cells]
    return "|".join(["", *shown, f" {last.strip()} ", ""])


def experiment_text(table: str, *, arms: str, comparisons: Mapping[str, str]) -> str:
    """Return the description of the experiment with the arms.

    What matters most comes first, because MLflow may cut the end.

    Args:
        table: the report of `ablation`, Markdown.
        arms: address of the page that lists the arms with their scores.
        comparisons: address of the page that compares the arms of a task, by task.
    """
    lines = [f"#{line}" if line.startswith("#") else line for line in table.splitlines()]
    pages = {"All arms with their scores": arms}
    for task, page in sorted(comparisons.items(), key=lambda item: item[0] != "semantic"):
        pages[f"The {'' if task == 'semantic' else f'{task} '}arms compared"] = page
    links = " · ".join(f"[{name}]({page})" for name, page in pages.items())
    further = next((k for k, line in enumerate(lines) if line.startswith("### ")), len(lines))
    return "\n".join(
        [lines[0], "", links, *lines[1:further], "", HOW_TO_READ, *lines[further:], ""]
    )


def stages_text(name: str) -> str:
    """Return the description of the experiment with the other stages.

    Args:
        name: of the experiment with the arms.
    """
    return (
        f"Each run is one execution of a stage of `dvc.yaml` (`masksyn@car` is the stage for one "
        f"class). The arms of the ablation are in the experiment `{name}`. The tag "
        "`dvc.out.<path>` of a run is the md5 that DVC knows its output by."
    )


def arm_text(events: Sequence[Event], *, made_from: Sequence[Source]) -> str:
    """Return the description of an arm's run."""
    start = next(event for event in events if isinstance(event, Start))
    params, scores = _params(events), _last_metrics(events)
    samples = [f"{params.get('num_real', '?')} real"]
    samples += [
        f"{params[f'synthetic.{method}']} {method}"
        for method in params.get("synthetic", "none").split("+")
        if f"synthetic.{method}" in params
    ]
    score = ""
    for task, name in PRIMARY.items():
        if name in scores:
            spread = f" ± {scores[f'{name}_std']:.1f}" if f"{name}_std" in scores else ""
            score = f"{FIGURES[task][name]} {scores[name]:.1f}{spread} on the test split"
    text = (
        f"**{start.name}**: {params.get('model')}, {' + '.join(samples)} samples, strategy "
        f"{params.get('strategy')}, {params.get('num_seeds')} seed(s). {score}\n\n"
    )
    return text + _origin(start) + _made_from(made_from)


def model_text(tags: Mapping[str, str]) -> str:
    """Return the description of a registered segmenter, short enough for a column.

    Args:
        tags: those of the model: its seed, and its arm's test score by the name of the figure.
    """
    scores = []
    for task, name in PRIMARY.items():
        with suppress(KeyError, ValueError):  # an arm may have no score
            scores.append(f"test {FIGURES[task][name]} {float(tags[name]):.1f}")
    return ", ".join([*scores, f"seed {tags.get('seed', 'unknown')}"])


def stage_text(events: Sequence[Event], *, made_from: Sequence[Source]) -> str:
    """Return the description of another stage's run."""
    start = next(event for event in events if isinstance(event, Start))
    outs = [event for event in events if isinstance(event, Output)]
    rows = "\n".join(f"| {out.path} | `{out.digest}` |" for out in outs)
    outputs = f"Made:\n\n| path | md5 |\n|---|---|\n{rows}\n\n" if outs else ""
    loading = ""
    if start.stage in ("foundation", "text2mask", "mask2img") and outs:
        kind = "ControlNetModel" if start.stage == "mask2img" else "DiffusionPipeline"
        loading = (
            "The model is a diffusers folder, which DVC versions. In the project's folder:\n\n"
            f"```python\nfrom diffusers import {kind}\n\n"
            f'model = {kind}.from_pretrained("{outs[0].path}")\n```\n\n'
        )
    return outputs + loading + _origin(start) + _made_from(made_from)


def _made_from(made_from: Sequence[Source]) -> str:
    if not made_from:
        return ""
    rows = [
        f"| {f'[{s.name}]({s.link})' if s.link else s.name} | {s.path} | `{s.digest}`"
        f"{'' if s.is_dvc else ' (not in dvc.lock)'} |"
        for s in made_from
    ]
    return "\n".join(["Made from:", "", "| source | path | md5 |", "|---|---|---|", *rows]) + "\n"


def _origin(start: Start) -> str:
    commit = start.tags.get("mlflow.source.git.commit")
    dirty = ", with changes that are not committed" if start.tags.get("git.dirty") == "true" else ""
    experiment = start.tags.get("dvc.exp")
    where = f"`dvc exp show` lists the experiment `{experiment}`. " if experiment else ""
    code = f"Code: git commit `{commit}`{dirty}. " if commit else ""
    return (
        f"{code}{where}`dvc.lock` has the entry `{start.tags.get('dvc.stage', start.stage)}`. From "
        "a hash to the files: `seggen lineage <md5>`.\n\n"
    )


def _params(events: Sequence[Event]) -> Mapping[str, str]:
    params: dict[str, str] = {}
    for event in events:
        if isinstance(event, Start | Params):
            params |= event.params
    return params


def _last_metrics(events: Sequence[Event]) -> Mapping[str, float]:
    metrics: dict[str, float] = {}
    for event in events:
        if isinstance(event, Metrics):
            metrics |= event.metrics
    return metrics
