"""What a segmenter that tells instances apart is for, as it lies beside its weights.

task.json holds the task, the classes (which are things) and the post-processing. A segmenter of the
task "semantic" has no such file.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from seggen_core.config import PostprocessConfig, Task
from seggen_core.errors import ConfigError, FoundationError
from seggen_core.project.weights import read_json_object
from seggen_core.segmentation.labels import LabelSpace
from seggen_core.segmentation.predict import TestProtocol
from seggen_core.segmentation.predict_segments import SegmentTask
from seggen_core.taxonomy import Taxonomy

TASK_FILE = "task.json"


class _Row(BaseModel):
    train_id: int
    name: str
    is_thing: bool


class _Tree(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(extra="forbid")

    task: Task
    classes: list[_Row]
    postprocess: PostprocessConfig


@dataclass(frozen=True)
class ModelTask:
    """How a segmenter's queries become segments.

    Attributes:
        task: "panoptic" or "instance".
        taxonomy: the segmenter's classes.
        postprocess: the limits of its training's validation.
    """

    task: Task
    taxonomy: Taxonomy
    postprocess: PostprocessConfig

    def write(self, folder: Path) -> None:
        """Write task.json."""
        tree = {
            "task": self.task,
            "classes": self.taxonomy.to_json(),
            "postprocess": self.postprocess.model_dump(mode="json"),
        }
        (folder / TASK_FILE).write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "ModelTask | None":
        """Read task.json; None where there is none.

        Raises:
            FoundationError: the file is damaged.
        """
        file, cure = folder / TASK_FILE, "copy the model's folder again"
        if not file.exists():
            return None
        try:
            tree = _Tree.model_validate(read_json_object(file, cure=cure))
            taxonomy = Taxonomy.from_json([row.model_dump() for row in tree.classes])
        except (ValidationError, ConfigError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise FoundationError(f"{file} is damaged: {reason}: {cure}") from None
        return cls(tree.task, taxonomy, tree.postprocess)

    def segment_task(self, protocol: TestProtocol) -> SegmentTask:
        """Return how images are predicted."""
        return SegmentTask(self.task, LabelSpace(self.taxonomy), self.postprocess, protocol)
