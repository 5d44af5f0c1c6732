"""The real UI in a headless Chromium: the asset graph, a MaskSyn partition, its preview picture.

SEGGEN_UI_PROJECT names a finished project to show instead of the toy one, SEGGEN_SCREENSHOTS a
folder for pictures of its pages:

    SEGGEN_UI_PROJECT=$PWD SEGGEN_SCREENSHOTS=docs/images pytest tests/dagster_project/test_ui.py
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seggen_core.store.card import class_table
from seggen_core.taxonomy import Taxonomy
from tests.dagster_dvc.conftest import dvc, make_project
from tests.dagster_project.browser import open_page
from tests.dagster_project.live import LiveDagster, wait_until

TOY = ["--python-file", str(Path(__file__).parent / "toy_definitions.py")]
PREVIEW_STAGE = """
from pathlib import Path
import json, sys
from PIL import Image
out = Path(sys.argv[1])
out.mkdir(parents=True)
Image.linear_gradient("L").resize((320, 160)).convert("RGB").save(out / "previews.png")
(out / "metrics.json").write_text(json.dumps({"samples": 8, "share_road": 0.7, "share_car": 0.3}))
(out / "README.md").write_text(Path("names.md").read_text())
"""
NAMES = "<img src=x onerror=document.title='ran'>", "**bold** [link](javascript:alert(1))", "a|b"


def hostile_names() -> str:
    """A table of classes as the cards of stores have it, and the same names as they are."""
    taxonomy = Taxonomy.from_names(stuff=[], things=NAMES)
    rows = [{"train_id": k, "name": c.name, "is_thing": True} for k, c in enumerate(taxonomy)]
    return class_table(rows) + "\n\n".join(["", *NAMES, "<script>document.title='ran'</script>"])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy project whose `masksyn` partitions have previews, after `dvc repro` in a shell."""
    if named := os.environ.get("SEGGEN_UI_PROJECT"):
        return Path(named).resolve()
    root = tmp_path_factory.mktemp("ui") / "project"
    make_project(root, classes=["car", "bus"])
    (root / "preview.py").write_text(PREVIEW_STAGE)
    (root / "names.md").write_text(hostile_names())
    text = (root / "dvc.yaml").read_text()
    old = "sh stage.sh masksyn@${item.class} data/synthetic/masksyn/${item.class}"
    assert old in text
    (root / "dvc.yaml").write_text(
        text.replace(old, "python preview.py data/synthetic/masksyn/${item.class}")
    )
    dvc(root, "repro")
    return root


@pytest.fixture(scope="module")
def dagster(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveDagster]:
    target = ["-m", "dagster_project.definitions"] if os.environ.get("SEGGEN_UI_PROJECT") else TOY
    with LiveDagster(project, folder=tmp_path_factory.mktemp("dagster"), target=target) as dagster:
        yield dagster


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_page(tmp_path_factory.mktemp("profile")) as page:
        yield page


def picture(page: Any, name: str) -> None:
    """Keep a picture of the page, where SEGGEN_SCREENSHOTS says."""
    if folder := os.environ.get("SEGGEN_SCREENSHOTS"):
        page.wait_for_timeout(
            12_000
        )  # until what slides and fades in has come to rest, and status colours are there
        page.screenshot(path=str(Path(folder) / f"dagster_{name}.png"))


def test_names_of_classes_are_neither_markdown_nor_html(page: Any, dagster: LiveDagster) -> None:
    if os.environ.get("SEGGEN_UI_PROJECT"):
        pytest.skip("the toy project has hostile names, another one has not")
    wait_until(
        lambda: dagster.data_versions("masksyn", ["car"])["car"][0] is not None,
        seconds=400,
        what="the sensor",
    )
    page.goto(f"{dagster.address}/assets/masksyn?view=partitions&partition=car")
    page.wait_for_selector("text=dvc/outcome")
    button = page.locator("tr", has_text="card").get_by_text("Show Markdown")
    if button.count():  # a short text is in the table itself
        button.first.click()
    table = page.locator("table", has_text="colour (RGB)").last
    table.wait_for()
    cells = table.locator("tbody tr td:nth-child(2)").all_inner_texts()
    assert cells == [*NAMES]
    # Of what stands below the table as it is, nothing that could run is left.
    text = page.locator("div", has=table).last
    # Dagster gives the link a target that does nothing.
    link = "a[href^='javascript']:not([href='javascript:void(0)'])"
    elements = text.locator(f"script, [onerror], {link}")
    assert elements.evaluate_all("all => all.map(one => one.outerHTML)") == []
    assert page.title() != "ran"


def test_the_graph_and_a_partition_with_its_preview(page: Any, dagster: LiveDagster) -> None:
    # What ran in the shell arrives by the sensor, while the pages are opened.
    wait_until(
        lambda: dagster.data_versions("masksyn", ["car"])["car"][0] is not None,
        seconds=400,
        what="the sensor",
    )
    wait_until(
        lambda: dagster.data_versions("ablation", [None])[None][0] is not None,
        seconds=200,
        what="the sensor",
    )

    page.goto(f"{dagster.address}/asset-groups")
    page.wait_for_selector("text=Materialize all")
    if os.environ.get("SEGGEN_UI_PROJECT"):
        page.keyboard.press("Alt+KeyE")  # expand all groups; the toy project has but one
        page.wait_for_selector("text=masksyn")
        page.set_viewport_size({"width": 1500, "height": 1350})
        page.reload()  # the graph is fitted into the page when it is drawn first
    page.wait_for_selector("text=masksyn")
    page.wait_for_selector("text=train_seg")
    picture(page, "graph")
    page.set_viewport_size({"width": 1500, "height": 1000})

    page.goto(f"{dagster.address}/assets/masksyn?view=partitions&partition=car")
    page.wait_for_selector("text=dvc/outcome")
    picture(page, "partition")
    button = page.locator("tr", has_text="preview").get_by_text("Show Markdown")
    if button.count():  # a small picture is in the table itself
        button.first.click()
    image = page.locator("img[alt^='preview']")  # a real project has a sheet of samples
    image.wait_for()
    assert image.evaluate("image => image.complete && image.naturalWidth") >= 100
    picture(page, "preview")

    assert dagster.wait_for(dagster.check("masksyn")) == "SUCCESS"
    page.goto(f"{dagster.address}/assets/masksyn?view=checks")
    page.wait_for_selector("text=dvc_status")
    page.wait_for_selector("text=Succeeded")
    picture(page, "checks")
