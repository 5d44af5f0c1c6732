"""Settings that must be made before torch, transformers or mlflow are imported."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

os.environ |= {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "true",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TQDM_DISABLE": "1",
}
# A script's background job ignores Ctrl-C, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_pipeline() -> Any:
    """A real StableDiffusionPipeline with random weights, 32 px; tests must not train it."""
    from tests.attention.tiny_pipeline import build_pipeline

    return build_pipeline()


@pytest.fixture(scope="session")
def tiny_foundation_folder(tiny_pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_pipeline` as a diffusers folder; not to be written to."""
    folder = tmp_path_factory.mktemp("models") / "foundation"
    tiny_pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
