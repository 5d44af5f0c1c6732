"""Results that are moved to their places can be read by others."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from seggen_core.project.publish import publish


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_weights_are_readable_as_far_as_the_umask_allows(tmp_path: Path, umask: int) -> None:
    folder, file = tmp_path / "model", tmp_path / "model.safetensors"
    (folder / "unet").mkdir(parents=True)
    for place in (folder / "unet" / "w.safetensors", file):
        save_file({"w": torch.zeros(2)}, place)
        assert mode(place) == 0o600, "safetensors writes it for its owner alone"
    (folder / "run.sh").touch(mode=0o700)
    (folder / "link").symlink_to(file)
    out = publish(folder, tmp_path / "data" / "model")
    assert mode(out / "unet" / "w.safetensors") == 0o666 & ~umask & ~0o022
    assert mode(out / "run.sh") == (0o700 | (0o444 & ~umask))
    assert mode(file) == 0o600, "a link's target is somebody else's"
    assert mode(publish(file, tmp_path / "data" / "w.safetensors")) == 0o666 & ~umask & ~0o022
