"""Paths of all artifacts of the pipeline. dvc.yaml names the same paths."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProjectPaths:
    """Locations below a project root (the folder that holds params.yaml and dvc.yaml)."""

    root: Path

    @property
    def data(self) -> Path:
        """All artifacts; ignored by git, versioned by DVC."""
        return self.root / "data"

    def code(self, stage: str) -> Path:
        """Digests of the code that `stage` depends on (`project.code`)."""
        return self.data / "code" / f"{stage}.json"

    @property
    def taxonomy(self) -> Path:
        """Classes of the real dataset, as `Taxonomy.to_json` writes them."""
        return self.data / "real" / "taxonomy.json"

    @property
    def subsets(self) -> Path:
        """The low-data subsets: {"<seed>": [sample key, ...]}."""
        return self.data / "real" / "subsets.json"

    def real(self, split: str) -> Path:
        """Sample store of the real samples of `split` ("train", "val" or "test")."""
        return self.data / "real" / split

    @property
    def captions(self) -> Path:
        """Parquet table: sample_key, caption, captioner, revision."""
        return self.data / "captions" / "captions.parquet"

    def prompts(self, class_slug: str) -> Path:
        """Prompts of one class partition, a Parquet table: sample_key, caption."""
        return self.data / "prompts" / f"{class_slug}.parquet"

    def model(self, name: str) -> Path:
        """Diffusers folder of `name` ("foundation", "text2mask" or "mask2img")."""
        return self.data / "models" / name

    def synthetic(self, method: str, class_slug: str | None = None) -> Path:
        """Sample store of one class partition of `method`, or the folder of all its partitions."""
        folder = self.data / "synthetic" / method
        return folder if class_slug is None else folder / class_slug

    def checkpoint(self, variant: str) -> Path:
        """Segmentation checkpoints of an ablation arm, one `seed<k>` folder per seed."""
        return self.data / "checkpoints" / variant

    def report(self, kind: str, name: str) -> Path:
        """Folder of figures and tables of one arm or method.

        Args:
            kind: "evaluate", "judge" or "memorization".
            name: the arm or method.
        """
        return self.data / "reports" / kind / name

    @property
    def ablation(self) -> Path:
        """The comparison of all arms."""
        return self.data / "reports" / "ablation"

    def passed(self, path: Path) -> Path:
        """File that opens the gate to an artifact: it is there if the artifact's checks pass.

        Args:
            path: the artifact, below the project root.
        """
        relative = path.relative_to(self.root).as_posix()
        return self.data / "passed" / f"{relative}.json"

    def check_report(self, name: str) -> Path:
        """Results of the checks of a stage's outputs, or of all partitions of a method.

        Args:
            name: "dataset", "captions" or the method.
        """
        return self.data / "reports" / "checks" / f"{name}.json"

    def check_results(self, name: str) -> Path:
        """Results of the checks of one output ("seediff@road"); never tracked."""
        return self.root / ".seggen" / "checks" / f"{name}.json"

    @property
    def scratch(self) -> Path:
        """Unfinished work, from which an interrupted stage resumes; never tracked."""
        return self.root / ".seggen" / "scratch"

    def record_cache(self, stage: str, item: str) -> Path:
        """Cache of the records of one class partition; never tracked.

        It holds the records of an interrupted run and of the last finished run. A later run reuses
        every record whose inputs are the same.
        """
        return self.root / ".seggen" / "cache" / stage / item

    def kept_attention(self, stage: str, item: str) -> Path:
        """Attention of the images of one class partition, for other masks; never tracked."""
        return self.root / ".seggen" / "attention" / stage / item

    def preview(self, stage: str) -> Path:
        """Picture drawn by the model of `stage`; never tracked, because no result depends on it."""
        return self.root / ".seggen" / "previews" / f"{stage}.png"

    @property
    def caption_cache(self) -> Path:
        """Answers of captioning models; never tracked."""
        return self.root / ".seggen" / "captions"

    @property
    def detectron2(self) -> Path:
        """Dataset dicts and COCO's files of labels, for detectron2; never tracked."""
        return self.root / ".seggen" / "detectron2"

    @property
    def metrics_log(self) -> Path:
        """Logs that stages write and a follower sends to MLflow; never tracked."""
        return self.root / ".seggen" / "metrics"
