"""The site is written, the reference is complete, the notebook and the tutorial run."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import yaml
from PIL import Image

from seggen_core.cli import COMMANDS, STAGES, main
from seggen_core.config import SegGenConfig
from seggen_core.config.describe import describe_keys
from tools.site import API, write_pages

ROOT = Path(__file__).parent.parent


def nav_pages(tree: object) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for inner in tree.values() if isinstance(tree, dict) else tree:
            yield from nav_pages(inner)


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    write_pages(tmp_path / "pages")
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert [p for p in nav_pages(settings["nav"]) if not (tmp_path / "pages" / p).is_file()] == []
    settings |= {"docs_dir": str(tmp_path / "pages"), "site_dir": str(tmp_path / "site")}
    settings["plugins"][1]["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT)]
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(settings))
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(tmp_path / "mkdocs.yml")],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    api = (tmp_path / "site" / "reference" / "api" / "index.html").read_text()
    assert all(f'id="{module}"' in api for modules in API.values() for module in modules)


def test_the_reference_has_every_key_and_every_command(tmp_path: Path) -> None:
    write_pages(tmp_path)
    params = (tmp_path / "reference" / "params.md").read_text()
    assert all(f"\n## {section}\n" in params for section in SegGenConfig.model_fields)
    commands = (tmp_path / "reference" / "commands.md").read_text()
    assert all(f"## seggen {name}\n" in commands for name in (*STAGES, *COMMANDS))


def test_every_key_is_documented() -> None:
    keys = {key.name: key for key in describe_keys()}
    assert [name for name, key in keys.items() if not key.text] == []
    assert keys["text2mask.batch_size"].kind == "integer"
    assert keys["foundation.mode"].kind.startswith("pretrained or")
    assert keys["variants.<name>.reads"].text


def keys_in(tree: dict, prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys_in(value, f"{prefix}{key}.")


def test_the_reference_has_what_the_demo_sets() -> None:
    known = [re.escape(key.name).replace("<name>", r"[\w-]+") for key in describe_keys()]
    pattern = re.compile("|".join(known))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    unknown = [key for key in keys_in(params) if not pattern.match(key)]
    assert unknown == []


@pytest.mark.parametrize("section", ["text2mask", "variants"])
def test_params_prints_a_section(section: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["params", section]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{section}: ") and "dataset.root" not in text
    assert main(["params", section, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"].split(".")[0] for row in rows} == {section}


def test_params_names_the_sections(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["params", "text3mask"]) == 2
    assert "text2mask" in capsys.readouterr().err


def test_the_notebook_runs() -> None:
    mpl.use("Agg")
    notebook = json.loads((ROOT / "docs" / "notebooks" / "masks.ipynb").read_text())
    names: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]), "masks.ipynb", "exec"), names)
    assert len(names["samples"].masks) == 4


def test_the_tutorials_commands_run_up_to_the_first_costly_one(tmp_path: Path) -> None:
    """In a shell, with twelve photos. DVC's commands are parsed by another test."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
    for k in range(12):
        image = rng.integers(0, 256, size=(96, 128, 3), dtype=np.uint8)
        mask = (rng.random((96, 128)) < 0.3).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "photos" / "images" / f"{k}.jpg")
        Image.fromarray(mask).save(tmp_path / "photos" / "masks" / f"{k}.png")
    text = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    script = "set -e\n" + "\n".join(blocks[:2])
    assert "seggen new" in script and "seggen plan" in script and "dvc" not in script
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=env, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "crack-project" / "samples.png").is_file()


def test_progress_is_shown_with_an_eta_and_on_terminals_alone() -> None:
    """tqdm draws both; `disable=None` is its word for "where there is no terminal"."""
    bars = [
        (path, node)
        for package in ("seggen_core", "dagster_dvc", "dagster_project")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("tqdm")
    ]
    assert len(bars) > 10
    for path, node in bars:
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        assert options.get("disable") == "None", f"{path}:{node.lineno}"
