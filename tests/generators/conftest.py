import pytest
import torch

from seggen_core.generators import fine_tuning, mask_decoder, pretrain
from seggen_core.training.read_ahead import read_ahead


@pytest.fixture(params=[False, True], ids=["in turn", "ahead"])
def read_by_a_thread(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are read as on a CPU, then as for a GPU, with the training on the CPU all the same."""
    if request.param:

        def ahead(make, *, steps, device):
            return read_ahead(make, steps=steps, device=torch.device("cuda"))

        for module in (fine_tuning, mask_decoder, pretrain):
            monkeypatch.setattr(module, "read_ahead", ahead)
