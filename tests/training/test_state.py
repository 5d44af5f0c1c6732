import errno
import json
import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from seggen_core.errors import StorageError
from seggen_core.training.average import ParameterAverage
from seggen_core.training.state import TrainingState, load_state, save_state
from tests.training.toy import Toy, mean_square, read, run_toy


def start(*, decay: float = 0.9, seed: int = 0, scaled: bool = False) -> TrainingState:
    """Return the state of a training that hasn't begun."""
    module = Toy()
    if seed:
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in module.layers.parameters():
                parameter.copy_(torch.randn(parameter.shape))
    trained = [p for p in module.parameters() if p.requires_grad]
    return TrainingState(
        module=module,
        optimizer=torch.optim.AdamW(trained, lr=0.1),
        average=ParameterAverage(trained, decay=decay),
        scaler=torch.amp.GradScaler("cpu", init_scale=512.0, growth_interval=3, enabled=scaled),
    )


def advance(state: TrainingState, steps: range) -> None:
    """Train for some steps."""
    for step in steps:
        state.scaler.scale(mean_square(state.module, read(step))).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad()
        state.average.update(step)


def save(folder: Path, state: TrainingState, step: int) -> Path:
    """Save the state and return its file."""
    save_state(folder, state, step=step, losses=[float(i) for i in range(step)])
    return next(folder.glob(f"state-{step:08d}-*.safetensors"))


def assert_same(one: TrainingState, two: TrainingState) -> None:
    a, b = one.tensors(), two.tensors()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert all(a[k].stride() == b[k].stride() for k in a)
    assert one.scaler.state_dict() == two.scaler.state_dict()


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_training_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, decay: float, scaled: bool
) -> None:
    one, two = start(decay=decay, scaled=scaled), start(decay=decay, scaled=scaled, seed=1)
    advance(one, range(2))
    save(tmp_path, one, 2)
    assert load_state(tmp_path, two) == [0.0, 1.0]
    assert_same(one, two)
    advance(one, range(2, 5))
    advance(two, range(2, 5))
    assert_same(one, two)


def test_no_state_changes_nothing(tmp_path: Path) -> None:
    state = start()
    assert load_state(tmp_path / "nothing", state) == [] and not state.optimizer.state
    assert_same(state, start())


def test_a_file_holds_what_is_trained_and_buffers_and_no_pickle(tmp_path: Path) -> None:
    state = start()
    advance(state, range(1))
    file = save(tmp_path, state, 1)
    assert list(tmp_path.iterdir()) == [file]
    with safe_open(file, framework="pt") as stored:
        names = set(stored.keys())
    models = {name.split("|")[1] for name in names if name.startswith("model|")}
    assert models == {k for k in state.module.state_dict() if not k.startswith("frozen")}
    assert "layers.1.running_mean" in models and "losses" in names
    assert "optimizer|layers.0.weight|exp_avg" in names and "average|layers.0.weight" in names


def test_two_states_are_kept(tmp_path: Path) -> None:
    state = start()
    files = [save(tmp_path, state, step) for step in (1, 2, 3, 10)]
    assert sorted(tmp_path.iterdir()) == files[-2:]


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "other tensors", "other shapes"])
def test_a_damaged_state_is_said_and_put_aside_and_the_one_before_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    one = start()
    advance(one, range(1))
    save(tmp_path, one, 1)
    expected = {name: value.clone() for name, value in one.tensors().items()}
    advance(one, range(1, 2))
    if damage == "other tensors":
        one.module.register_buffer("extra", torch.zeros(1))
    elif damage == "other shapes":
        one.module.layers[0].weight.data = torch.zeros(9, 3, 3, 3)
        one.average.tensors[0] = torch.zeros(9, 3, 3, 3)
        one.optimizer.state.clear()
    file = save(tmp_path, one, 2)
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[-5] ^= 1
    file.write_bytes({"cut": content[:-50], "empty": b""}.get(damage, content))

    two = start(seed=1)
    assert load_state(tmp_path, two) == [0.0]
    assert all(torch.equal(value, expected[name]) for name, value in two.tensors().items())
    assert f"{file.name} can't be used" in caplog.text
    assert file.with_name(f"{file.name}.damaged").exists() and not file.exists()


def test_without_a_sound_state_the_training_begins_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = start()
    advance(state, range(1))
    for step in (1, 2):
        save(tmp_path, state, step).write_bytes(b"\0" * 100)
    two = start()
    assert load_state(tmp_path, two) == [] and len(caplog.records) == 2
    assert_same(two, start())


def test_a_damaged_state_changes_no_byte_of_the_result(tmp_path: Path) -> None:
    whole, reports, _ = run_toy(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path / "killed", kill_after=5)
    newest = max((tmp_path / "killed").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    resumed, last, first = run_toy(tmp_path / "killed")
    assert first == 2 and last == reports[2:]
    assert all(torch.equal(resumed[k], whole[k]) for k in whole)


@pytest.mark.parametrize("moment", ["replace", "fsync"])
def test_a_kill_while_saving_leaves_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    one, two = start(), start(seed=1)
    advance(one, range(1))
    save(tmp_path, one, 1)
    expected = {name: value.clone() for name, value in one.tensors().items()}

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    advance(one, range(1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(Path if moment == "replace" else os, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, one, 2)
    assert load_state(tmp_path, two) == [0.0]
    assert all(torch.equal(value, expected[name]) for name, value in two.tensors().items())
    save(tmp_path, one, 2)  # what is left of the torn one is in nobody's way
    assert load_state(tmp_path, two) == [0.0, 1.0]


def test_file_and_folder_are_synced_before_the_older_state_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, synced = start(), []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced.append((name, len(list(tmp_path.glob("state-*")))))
        fsync(descriptor)

    for step in (1, 2):
        save(tmp_path, state, step)
    monkeypatch.setattr(os, "fsync", watch)
    save(tmp_path, state, 3)
    assert synced == [("state.partial", 2), (tmp_path.name, 3)]


def test_a_full_disk_is_one_message_and_leaves_the_last_state(tmp_path: Path) -> None:
    state = start()
    advance(state, range(1))
    file = save(tmp_path, state, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(
            StorageError, match=r"can't save the state .* Free some space"
        ) as caught:
            save(tmp_path, state, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == 3 and list(tmp_path.iterdir()) == [file]
    assert load_state(tmp_path, start(seed=1)) == [0.0]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_the_last_moment_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fails(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(StorageError, match=os.strerror(code)):
        save_state(tmp_path, start(), step=1, losses=[0.0])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_can_not_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't save the state"):
        save_state(tmp_path / "file" / "states", start(), step=1, losses=[0.0])


def test_the_scaler_s_state_is_json_in_the_metadata(tmp_path: Path) -> None:
    state = start(scaled=True)
    advance(state, range(2))
    file = save(tmp_path, state, 2)
    with safe_open(file, framework="pt") as stored:
        assert json.loads(stored.metadata()["scaler"]) == state.scaler.state_dict()
    again = start(scaled=True)
    load_state(tmp_path, again)
    advance(again, range(2, 3))
    assert again.scaler.get_scale() == 1024.0  # the third step in a row without an overflow
