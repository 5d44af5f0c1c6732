"""Validation of an unfinished training: scores every n steps, the best model, and an early end.

A validation happens after its step and before the state of that step is saved. So a resumed
training has the scores of all steps before it, and computes those after it again, to the same
numbers: nothing that was written later than the state counts.

    validations.json     the scores, by step
    best-<step>/         models that were the best when they were written (`models.save_segmenter`)

A model that was the best is kept until a later state can't be lost any more: a damaged state makes
a training go on from the one before.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from seggen_core.config import SegmenterConfig
from seggen_core.segmentation.models import save_segmenter
from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.store.files import replace_file

_SCORES = "validations.json"
_KEPT_STATES = 2

Score = Callable[[Segmenter], float]
"""Returns the score of the arm's task (mIoU, PQ or AP) of a segmenter in evaluation mode on
validation samples, in percent; 0 where nothing in them is labelled.
"""


@dataclass(eq=False)
class Validation:
    """The validations of one training.

    Attributes:
        config: `validate_every`, `patience` and `checkpoint_every` are used.
        folder: where scores and the best models are.
        score: how a segmenter is scored.
        report: called with (step, score) after each validation, also for those before a resumption.
        scores: by step.
    """

    config: SegmenterConfig
    folder: Path
    score: Score
    report: Callable[[int, float], None]
    scores: dict[int, float] = field(default_factory=dict)

    def resume(self, first_step: int) -> bool:
        """Take over the scores up to `first_step`; return whether the training had ended there."""
        file = self.folder / _SCORES
        if file.is_file():
            written = json.loads(file.read_text(encoding="utf-8"))
            self.scores = {int(s): v for s, v in written.items() if int(s) <= first_step}
        for step, value in self.scores.items():
            self.report(step, value)
        return self._is_over

    def after_step(self, segmenter: torch.nn.Module, step: int) -> bool:
        """Validate if `step` (steps done) is due; return whether the training is to end."""
        assert isinstance(segmenter, Segmenter)
        every = self.config.validate_every
        if every is None or step % every:
            return False
        segmenter.eval()
        value = self.score(segmenter)
        segmenter.train()
        is_best = value > max(self.scores.values(), default=float("-inf"))
        self.scores[step] = value
        self.folder.mkdir(parents=True, exist_ok=True)
        if is_best:
            unfinished = self.folder / "best.partial"
            shutil.rmtree(unfinished, ignore_errors=True)
            save_segmenter(segmenter, folder=unfinished)
            shutil.rmtree(self._model(step), ignore_errors=True)
            unfinished.replace(self._model(step))
        replace_file(self.folder / _SCORES, json.dumps(self.scores).encode())
        self._prune(step)
        self.report(step, value)
        return self._is_over

    @property
    def best(self) -> tuple[int, Path] | None:
        """Step and folder of the best model; None before the first validation."""
        records = self._records()
        return (records[-1], self._model(records[-1])) if records else None

    @property
    def _is_over(self) -> bool:
        patience, records = self.config.patience, self._records()
        if patience is None or not records:
            return False
        return sum(step > records[-1] for step in self.scores) >= patience

    def _records(self) -> list[int]:
        """Return the steps whose score was better than all before."""
        records: list[int] = []
        for step, value in sorted(self.scores.items()):
            if not records or value > self.scores[records[-1]]:
                records.append(step)
        return records

    def _prune(self, step: int) -> None:
        """Delete models that a training that goes on from a state can't need."""
        safe = step - _KEPT_STATES * self.config.checkpoint_every
        records = self._records()
        needed = {record for record in records if record > safe}
        needed |= {max((record for record in records if record <= safe), default=-1)}
        for folder in self.folder.glob("best-*"):
            if int(folder.name.removeprefix("best-")) not in needed:
                shutil.rmtree(folder)

    def _model(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}"
