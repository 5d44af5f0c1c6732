"""Arms of an ablation in MLflow: real stages at a tiny size, a real store, and a real model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from seggen_core.cli import main
from seggen_core.config import RuntimeConfig
from seggen_core.project.digests import dvc_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.models import load_segmenter
from seggen_core.segmentation.predict import predict_maps
from seggen_core.stages import evaluate, train_seg
from seggen_core.store.reader import SampleStore
from seggen_core.tracking.follow import replay
from seggen_core.tracking.mlflow_registry import requirements
from tests.segmentation.conftest import TAXONOMY, write_project
from tests.segmentation.test_stages import PLAIN, REAL, REPLACE, settings
from tests.tracking.conftest import runs_in

ROOT = Path(__file__).parents[2]
SYNTHETIC = ["data/synthetic/masksyn", "data/synthetic/imgsyn"]
CONFIG = settings(
    variants={
        "baseline": PLAIN | {"reads": [REAL, REAL]},
        "mixed": REPLACE | {"reads": SYNTHETIC, "p_aug": 0.5},
        "mask2former": PLAIN | {"reads": [REAL, REAL], "model": "mask2former"},
    }
)
PROJECT_STORE = RuntimeConfig()


def lock_outputs(paths: ProjectPaths) -> dict[str, str]:
    """Write a dvc.lock with what is there, as DVC does; return the md5s."""
    outs = [paths.real(split) for split in ("train", "val", "test")]
    outs += [paths.taxonomy, paths.subsets, *sorted(paths.synthetic("masksyn").parent.glob("*/*"))]
    outs += sorted((paths.data / "checkpoints").glob("*"))
    md5s = {out.relative_to(paths.root).as_posix(): dvc_digest(out) for out in outs}
    lines = ["schema: '2.0'", "stages:"]
    for path, md5 in md5s.items():
        lines += [f"  {path.replace('/', '_')}:", "    outs:", f"    - path: {path}"]
        lines += [f"      md5: {md5}"]
    (paths.root / "dvc.lock").write_text("\n".join(lines) + "\n")
    return md5s


@pytest.fixture(scope="module")
def tracked_arms(tmp_path_factory, empty_database):
    """A project whose arms were trained, evaluated and sent; its md5s."""
    paths = ProjectPaths(tmp_path_factory.mktemp("arms"))
    write_project(paths)
    (paths.root / "params.yaml").write_text("profile: tiny\n")
    shutil.copyfile(empty_database, paths.root / "mlflow.db")
    lock_outputs(paths)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME"):
            patch.delenv(name, raising=False)
        for arm in CONFIG.variants:
            train_seg.run(CONFIG, paths=paths, item=arm)
        md5s = lock_outputs(paths)
        for arm in CONFIG.variants:
            evaluate.run(CONFIG, paths=paths, item=arm)
        report = replay(paths, PROJECT_STORE)
    assert report.problems == {}
    return paths, md5s


def arms_of(paths: ProjectPaths):
    client, runs = runs_in(paths, experiment="seggen/tiny")
    arms = {r.info.run_name: r for r in runs if "mlflow.parentRunId" not in r.data.tags}
    return client, arms, [r for r in runs if "mlflow.parentRunId" in r.data.tags]


def test_one_run_is_one_arm_with_its_settings_and_its_scores(tracked_arms):
    paths, _ = tracked_arms
    client, arms, children = arms_of(paths)
    assert set(arms) == {"baseline", "mixed", "mask2former"} and len(children) == 6
    params = arms["mixed"].data.params
    assert (
        params | {"train.p_aug": "0.5", "synthetic": "masksyn+imgsyn", "task": "semantic"} == params
    )
    assert params | {"model": "hrnet", "strategy": "replace", "seeds": "0,1"} == params
    assert params | {"num_real": "3", "num_synthetic": "12", "synthetic.masksyn": "6"} == params
    assert params | {"train.num_steps": "6", "train.learning_rate": "0.01"} == params
    assert arms["baseline"].data.params["synthetic_share"] == "0.0"
    assert not {"p_aug", "train.p_aug"} & arms["baseline"].data.params.keys()
    for name, run in arms.items():
        report = json.loads((paths.report("evaluate", name) / "metrics.json").read_text())
        scores = [seed["miou"] for seed in report["seeds"].values()]
        assert run.data.metrics["miou"] == pytest.approx(np.mean(scores), abs=1e-3)
        assert run.data.metrics["miou_std"] == pytest.approx(np.std(scores, ddof=1), abs=1e-3)
        below = [r for r in children if r.data.tags["mlflow.parentRunId"] == run.info.run_id]
        assert [r.data.metrics["miou"] for r in below] == pytest.approx(scores[::-1], abs=1e-3)
        assert f"**{name}**" in run.data.tags["mlflow.note.content"]
    history = client.get_metric_history(arms["baseline"].info.run_id, "val_miou")
    assert [point.step for point in history] == [4, 6]
    assert len(arms["baseline"].data.metrics) < 15, "few columns, so that they are seen"


def test_an_arm_names_its_sources_by_the_md5s_of_dvc_and_links_the_runs_that_made_them(
    tracked_arms,
):
    paths, md5s = tracked_arms
    _, arms, _ = arms_of(paths)
    run = arms["mixed"]
    inputs = {d.dataset.name: d.dataset.digest for d in run.inputs.dataset_inputs}
    assert inputs["masksyn@car"] == md5s["data/synthetic/masksyn/car"]
    assert inputs["checkpoint"] == md5s["data/checkpoints/mixed"]
    assert {"real_train", "real_val", "real_test", "imgsyn@grass", "subsets"} <= set(inputs)
    note = run.data.tags["mlflow.note.content"]
    _, stages = runs_in(paths)
    trained = next(r for r in stages if r.info.run_name == "train_seg@mixed")
    assert trained.data.tags["dvc.out.data/checkpoints/mixed"] == inputs["checkpoint"]
    place = f"#/experiments/{trained.info.experiment_id}/runs/{trained.info.run_id}"
    assert f"[checkpoint]({place})" in note and inputs["masksyn@car"] in note


def test_the_best_arm_is_registered_and_another_replay_registers_nothing(tracked_arms):
    paths, _ = tracked_arms
    client, arms, _ = arms_of(paths)
    (model,) = client.search_registered_models()
    assert model.name == "seggen-test" and set(model.aliases) == {
        "best",
        *(f"arm-{name}" for name in arms),
    }
    best = client.get_model_version_by_alias(model.name, "best")
    validation = {name: run.data.metrics["val_miou"] for name, run in arms.items()}
    assert validation[best.tags["arm"]] == max(validation.values())
    shutil.rmtree(paths.metrics_log / "sent")
    assert replay(paths, PROJECT_STORE).problems == {}
    assert len(client.search_model_versions(f"name = '{model.name}'")) == 3
    assert len(client.search_logged_models([arms["mixed"].info.experiment_id])) == 3
    assert len(arms_of(paths)[1]) == 3 and len(arms_of(paths)[2]) == 6


LOAD = """
import importlib.metadata as metadata, re, sys
requirements, uri, name, images, out = sys.argv[1:]

def closure(names):
    found, pending = set(), list(names)
    while pending:
        key = re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9_.-]+", pending.pop())[0]).lower()
        if key in found:
            continue
        try:
            needed = metadata.requires(key) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(key)
        pending += [r for r in needed if "extra ==" not in r]
    return found

allowed = closure(requirements.split())
owners = {
    top: {re.sub(r"[-_.]+", "-", d).lower() for d in dists}
    for top, dists in metadata.packages_distributions().items()
}

class Filter:  # finds what another finder finds, except what is not listed
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        is_ours = top.startswith(("seggen", "dagster", "dvc", "tests"))
        if is_ours or (top in owners and not owners[top] & allowed):
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path = [Filter(finder) for finder in sys.meta_path]
sys.path = [p for p in sys.path if p not in ("", ".")]
try:
    import seggen_core
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("seggen can be imported")
import mlflow.pyfunc, numpy as np
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model(name)
assert model.metadata.signature is not None and model.input_example is not None
assert model.predict(model.input_example).shape == model.input_example.shape[:3]
np.save(out, model.predict(np.load(images)))
classes = model.unwrap_python_model().classes
assert [c["name"] for c in classes] == ["sky", "grass", "car"]
"""


@pytest.mark.parametrize("arm", ["baseline", "mask2former"])
def test_a_registered_model_predicts_alike_with_the_packages_that_it_lists_alone(
    tracked_arms, tmp_path, arm
):
    paths, _ = tracked_arms
    client, _, _ = arms_of(paths)
    version = client.get_model_version_by_alias("seggen-test", f"arm-{arm}")
    store = SampleStore(paths.real("test"))
    images = np.stack([store.read_image(key)[:13] for key in ("test-00000", "test-00001")])
    np.save(tmp_path / "images.npy", images)
    architecture = CONFIG.variants[arm].model
    name = f"models:/seggen-test@arm-{arm}"
    needed = " ".join(requirements(architecture))
    uri, out = f"sqlite:///{paths.root}/mlflow.db", str(tmp_path / "ids.npy")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, needed, uri, name, str(tmp_path / "images.npy"), out],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    segmenter = load_segmenter(paths.checkpoint(arm) / f"seed{version.tags['seed']}")
    assert np.array_equal(np.load(out), predict_maps(segmenter, images=images))
    folder = Path(
        client.get_logged_model(
            version.source.removeprefix("models:/")
        ).artifact_location.removeprefix("file://")
    )
    files = {file.name for file in folder.rglob("*") if file.is_file()}
    assert "model.safetensors" in files and not any(
        f.endswith((".pkl", ".pth", ".pt")) for f in files
    )
    listed = (folder / "requirements.txt").read_text().split()
    assert sorted(listed) == sorted(requirements(architecture))


def test_a_copied_project_keeps_its_runs_and_finds_its_artifacts(tracked_arms, tmp_path):
    paths, _ = tracked_arms
    copy = ProjectPaths(Path(shutil.copytree(paths.root, tmp_path / "copy")))
    report = replay(copy, PROJECT_STORE)
    assert (report.num_runs, report.problems) == (0, {})
    client, arms, children = arms_of(copy)
    assert len(arms) == 3 and len(children) == 6
    run = arms["mixed"]
    assert run.info.artifact_uri.startswith(copy.root.as_uri())
    (version,) = [v for v in client.search_model_versions() if v.run_id == run.info.run_id]
    logged = client.get_logged_model(version.source.removeprefix("models:/"))
    assert logged.artifact_location.startswith(copy.root.as_uri())
    assert client.list_artifacts(run.info.run_id)
    original, _, _ = arms_of(paths)
    assert original.get_run(run.info.run_id).info.artifact_uri.startswith(paths.root.as_uri())


def test_a_hash_leads_to_its_files(tracked_arms, capsys):
    paths, md5s = tracked_arms
    params = ROOT / "params.yaml"
    shutil.copy(params, paths.root / "params.yaml")
    command = ["--params", str(paths.root / "params.yaml"), "lineage"]
    md5 = md5s["data/synthetic/masksyn/car"]
    for target in (md5, md5.removesuffix(".dir"), "data/synthetic/masksyn/car"):
        assert main([*command, target]) == 0
        text = capsys.readouterr().out
        assert "data/synthetic/masksyn/car" in text and "dvc checkout" in text and md5 in text
    assert main([*command, "0" * 32]) == 2
    assert "neither dvc.lock nor a git commit" in capsys.readouterr().err
    assert main([*command, "nonsense"]) == 2
    assert TAXONOMY.slugs
