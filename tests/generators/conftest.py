import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate import Accelerator

from seggen_core.generators import pretrain, pretrain_networks
from seggen_core.generators.pretrain import Pretraining, pretrain_foundation
from tests.generators.tiny_pretraining import CONFIG


@pytest.fixture(scope="module")
def small_pretraining() -> Iterator[None]:
    """Save states often, and learn the tokenizer from few captions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain_networks, "CHECKPOINT_EVERY", 3)
        patch.setattr(pretrain, "TOKENIZER_CAPTIONS", 300)
        yield


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def work(
    small_pretraining: None, accelerator: Accelerator, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Pretrain in work/: the pipeline is work/foundation, the reported steps work/steps.json."""
    work = tmp_path_factory.mktemp("pretrain")
    steps: list[tuple[str, int, dict[str, float]]] = []
    pretrain_foundation(
        Pretraining(config=CONFIG, seed=0, accelerator=accelerator, work_folder=work / "work"),
        folder=work / "foundation",
        on_step=lambda part, step, metrics: steps.append(
            (part, step, {k: float(v) for k, v in metrics.items()})
        ),
    )
    (work / "steps.json").write_text(json.dumps(steps))
    return work
