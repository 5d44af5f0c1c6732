"""What takes long shows a bar on a terminal, and nothing elsewhere."""

import ast
import sys
from pathlib import Path

import pytest
import torch

import seggen_core
from seggen_core.config import DiffuMaskConfig
from seggen_core.synthesis.diffumask import Candidates, label_candidates
from tests.attention.test_diffumask import discs, half_scores

PACKAGE = Path(seggen_core.__file__).parent
LOOP = "seggen_core.training.loop"
SETTINGS = DiffuMaskConfig.model_validate(
    {
        "samples_per_class": 6,
        "affinity_net": {"feature_size": 8, "channels": 8, "num_steps": 3, "walk_steps": 1},
        "noise_learning": {"num_folds": 2, "num_steps": 3, "channels": 8},
    }
)


def trainings() -> list[tuple[str, ast.Call]]:
    """Return (place, call) of every call of the training loop."""
    calls = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = any(
            isinstance(node, ast.ImportFrom)
            and node.module == LOOP
            and any(alias.name == "train" for alias in node.names)
            for node in ast.walk(tree)
        )
        calls += [
            (f"{path.relative_to(PACKAGE)}:{node.lineno}", node)
            for node in ast.walk(tree)
            if imported
            and isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "train"
        ]
    return calls


def test_every_training_reports_its_steps() -> None:
    calls = trainings()
    assert len(calls) >= 6
    silent = [place for place, call in calls if "on_step" not in {k.arg for k in call.keywords}]
    assert silent == []


@pytest.mark.parametrize("is_terminal", [True, False])
def test_diffumask_shows_what_it_learns_on_a_terminal_alone(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    images, masks = discs(6)
    candidates = Candidates(
        images=images.permute(0, 2, 3, 1).numpy(),
        scores=half_scores(masks).numpy(),
        status=["accepted"] * 6,
    )
    label_candidates(
        candidates, settings=SETTINGS, name=(0, "diffumask", "disc"), device=torch.device("cpu")
    )
    shown = capsys.readouterr().err
    for title, total in (("AffinityNet", "3/3"), ("cut masks", "1/1"), ("noise learning", "6/6")):
        assert (title in shown) is is_terminal, title
        assert (total in shown) is is_terminal, title
    assert shown == "" or is_terminal
