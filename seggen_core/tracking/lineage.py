"""From a result to its sources and from an md5 to its files, by dvc.lock and git."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seggen_core.errors import ConfigError
from seggen_core.tracking.dvc_lineage import DvcLock, git_tags, read_dvc_lock

_MD5 = re.compile(r"([0-9a-f]{32})(\.dir)?")


@dataclass(frozen=True)
class Lineage:
    """The stages of dvc.lock with the md5s of what they made and read.

    Attributes:
        root: the project folder.
        lock: the content of its dvc.lock.
    """

    root: Path
    lock: DvcLock

    @classmethod
    def read(cls, root: Path) -> "Lineage":
        """Read the dvc.lock of a project.

        Raises:
            ConfigError: there is none, or it holds no stage.
        """
        lock = read_dvc_lock(root / "dvc.lock")
        if not lock.stages:
            raise ConfigError(f"{root / 'dvc.lock'} holds no stage; run: dvc repro ablation")
        return cls(root, lock)

    @property
    def stages(self) -> Mapping[str, Mapping[str, str]]:
        """Path and md5 of what each stage made."""
        return self.lock.stages

    def source_rows(self, stage: str) -> list[tuple[str, str, str]]:
        """Return (stage, path, md5) of a stage and of all that it was made from, the first first.

        The stage of what no stage made is "(a file of yours)". Digests of code come last, too: only
        those that these stages read.
        """
        order: list[str] = []
        self._collect(stage, order)
        rows = [(name, path, md5) for name in order for path, md5 in self.stages[name].items()]
        produced = {path for _, path, _ in rows}
        read = {p: m for name in order for p, m in self.lock.dependencies.get(name, {}).items()}
        makers = {path: name for name, outs in self.stages.items() for path in outs}
        rows += [
            (makers.get(path, "(a file of yours)"), path, md5)
            for path, md5 in sorted(read.items())
            if not produced & {path, *(str(parent) for parent in Path(path).parents)}
            and not any(place.startswith(f"{path}/") for place in produced)
        ]
        return rows

    def sources(self, stage: str) -> str:
        """Return `source_rows` as a table."""
        rows = self.source_rows(stage)
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"{n:<{widths[0]}}  {p:<{widths[1]}}  {md5}" for n, p, md5 in rows]
        example = next(md5 for name, _, md5 in rows if name == stage)
        return "\n".join(
            [*self._head(), *lines, "", f"Where its files are: seggen lineage {example}"]
        )

    def places(self, target: str) -> str:
        """Return where the files of an md5 or a path are, and how to get them.

        Raises:
            ConfigError: neither dvc.lock nor a commit of it knows `target`.
        """
        match = _MD5.fullmatch(target)
        if match is None:
            digests = self.lock.find(Path(target).as_posix())
            if not digests:
                arms = [name for name in self.stages if name.startswith("evaluate@")]
                example = (arms or list(self.stages))[-1].removeprefix("evaluate@")
                raise ConfigError(
                    f"dvc.lock knows no arm, stage, md5 or path {target!r}; for the md5s of what "
                    f"has run, run: seggen lineage {example}"
                )
            return "\n\n".join(self._place(path, md5) for path, md5 in digests.items())
        digest = match[1]
        here = {p: m for p, m in self.lock.outputs.items() if m.removesuffix(".dir") == digest}
        if here:
            return "\n\n".join(self._place(path, md5) for path, md5 in here.items())
        commits = self._commits(digest)
        if not commits:
            raise ConfigError(
                f"neither dvc.lock nor a git commit of it holds {target}; it may be of a run whose "
                "dvc.lock was never committed"
            )
        return (
            f"{target} is not in the present dvc.lock, but in that of: {', '.join(commits)}\n"
            f"  git checkout {commits[0]} -- dvc.lock && seggen lineage {target}"
        )

    def _collect(self, stage: str, order: list[str]) -> None:
        """Append a stage to `order`, after the stages that made what it read."""
        makers = {path: name for name, outs in self.stages.items() for path in outs}
        for path in self.lock.dependencies.get(stage, {}):
            for place in self.lock.find(path):
                if (maker := makers[place]) not in order and maker not in (stage, "code"):
                    self._collect(maker, order)
        if stage not in order:
            order.append(stage)

    def _head(self) -> list[str]:
        tags = git_tags(self.root)
        if "mlflow.source.git.commit" not in tags:
            return []
        commit = tags["mlflow.source.git.commit"]
        dirty = ", with changes that are not committed" if tags["git.dirty"] != "false" else ""
        lines = [f"git commit {commit}{dirty}"]
        if self._git("status", "--porcelain", "--", "dvc.lock"):
            lines.append("dvc.lock is not committed: git add dvc.lock && git commit")
        return [*lines, ""]

    def _place(self, path: str, md5: str) -> str:
        stage = next(name for name, outs in self.stages.items() if path in outs)
        cache = self.root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
        commits = self._commits(md5)
        lines = [
            f"{md5}",
            f"  path    {path}{'' if (self.root / path).exists() else ' (missing here)'}",
            f"  stage   {stage}",
            f"  cache   {cache if cache.exists() else 'not in .dvc/cache; get it with: dvc pull'}",
            f"  commits {', '.join(commits) or 'none yet: git add dvc.lock && git commit'}",
            f"  get it  dvc checkout {path}",
        ]
        return "\n".join(lines)

    def _commits(self, digest: str) -> list[str]:
        """Return the commits, also those of experiments, that brought a hash into dvc.lock."""
        listed = self._git("log", "--all", "--format=%h", f"-S{digest}", "--", "dvc.lock")
        return listed.split()[:5]

    def _git(self, *arguments: str) -> str:
        try:
            command = ["git", "-C", str(self.root), *arguments]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout if done.returncode == 0 else ""
