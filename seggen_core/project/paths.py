"""Where every artifact of the pipeline lives. dvc.yaml names the same paths."""

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

    @property
    def scratch(self) -> Path:
        """Unfinished work, from which an interrupted stage resumes; never tracked."""
        return self.root / ".seggen" / "scratch"

    def record_cache(self, stage: str, item: str) -> Path:
        """What a class partition was made of so far, and by its last finished run; never tracked.

        An interrupted run finds there what is done. A later run makes only what has other inputs.
        """
        return self.root / ".seggen" / "cache" / stage / item

    def preview(self, stage: str) -> Path:
        """Picture of what the model of `stage` draws; never tracked: no result depends on it."""
        return self.root / ".seggen" / "previews" / f"{stage}.png"

    @property
    def caption_cache(self) -> Path:
        """Answers of captioning models; never tracked."""
        return self.root / ".seggen" / "captions"

    @property
    def metrics_log(self) -> Path:
        """Logs of what stages report, from which a follower feeds MLflow; never tracked."""
        return self.root / ".seggen" / "metrics"
