"""dvc.yaml of a project, made of the one that ships: for an installed seggen, or a list of words.

The pipeline is stated once. What a project has no use for is taken out of that text, so everything
else, comments too, is the same.
"""

import re
from pathlib import Path

PIPELINE = "dvc.yaml"
SOURCES_DEP = re.compile(r"^    deps: \[seggen_core\].*$", flags=re.MULTILINE)
"""What the stage `code` depends on in the repository of seggen."""
INSTALLED_DEP = """\
    deps: [requirements.txt] # it names the version of seggen; `seggen new --update .` renews both
    always_changed: true # only this stage, a second long, sees the code that is installed"""

_NEED_IMAGES = (
    "captions",
    "check_captions",
    "text2mask",
    "mask2img",
    "masksyn",
    "imgsyn",
    "evaluate",
    "judge",
    "memorization",
    "ablation",
)
"""Stages that read real images."""
_CAPTION_DEPS = ("      - data/passed/data/captions.json\n", "      - data/captions\n")
"""What the stage `foundation` reads of them, to be trained on the training images."""
_WORDS_HEAD = """\
# The pipeline of a list of words: the stages that read real images are left out.
# `seggen init` writes it, and the whole one for a dataset with images.
"""


def installed_pipeline(text: str) -> str:
    """Return a pipeline for a project of its own, which has no sources of seggen."""
    changed, count = SOURCES_DEP.subn(INSTALLED_DEP, text)
    assert count == 1, "the stage `code` of dvc.yaml depends on seggen_core"
    return changed


def words_pipeline(text: str) -> str:
    """Return a pipeline without the stages that read real images, and without their reports."""
    for stage in _NEED_IMAGES:
        text, count = re.subn(rf"^  {stage}:.*\n(?:   .*\n)*", "", text, flags=re.MULTILINE)
        assert count == 1, stage
        digest = f"      - data/code/{stage}.json\n"  # of the stage `code`, which writes no other
        assert text.count(digest) == 1, stage
        text = text.replace(digest, "")
    text = re.sub(r"^(?:metrics|plots):.*\n(?:  .*\n)*", "", text, flags=re.MULTILINE)
    for line in _CAPTION_DEPS:
        assert text.count(line) == 1, line
        text = text.replace(line, "")
    return _WORDS_HEAD + text


def fit_pipeline(root: Path, *, is_words: bool) -> str | None:
    """Let a project's dvc.yaml have the stages that its dataset can run.

    Args:
        root: the project.
        is_words: the dataset is a list of words.

    Returns:
        What to tell the user; None where dvc.yaml fits already, or there is none.

    Raises:
        StorageError: it can't be written.
    """
    from seggen_core.project.shipped import shipped
    from seggen_core.project.storage import write_text_whole

    file = root / PIPELINE
    if not file.is_file():
        return None
    present = file.read_text(encoding="utf-8")
    whole = shipped(PIPELINE).read_text(encoding="utf-8")
    for full in (whole, installed_pipeline(whole)):
        words = words_pipeline(full)
        wanted = words if is_words else full
        if present == wanted:
            return None
        if present in (full, words):
            write_text_whole(file, wanted)
            left = "without the stages that read real images" if is_words else "with all stages"
            return f"{file}: written {left}"
    if is_words:
        return (
            f"{file} is not the one of this version of seggen, and is left as it is: take out "
            f"the stages {', '.join(_NEED_IMAGES)}, or run: seggen new --update ."
        )
    return None
