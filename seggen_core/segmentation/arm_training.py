"""The training of an ablation arm: a segmenter for each subset seed, and their metrics."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from seggen_core.config import SegmenterConfig, VariantConfig
from seggen_core.metrics.semantic import mean_iou, rounded
from seggen_core.metrics.tasks import PRIMARY
from seggen_core.project.artefacts import read_artefact
from seggen_core.project.publish import write_json
from seggen_core.project.rng import seeded_torch
from seggen_core.segmentation.arm_stores import ArmStores
from seggen_core.segmentation.arms import BEST, Arm, ArmConfig, ArmSamples, open_arm
from seggen_core.segmentation.labels import LabelSpace
from seggen_core.segmentation.mixing import TrainingSeed
from seggen_core.segmentation.model_card import ModelFolder
from seggen_core.segmentation.models import build_segmenter, save_segmenter
from seggen_core.segmentation.noise_filter import NoiseFilter, mean_class_losses
from seggen_core.segmentation.predict import TestProtocol, score_store
from seggen_core.segmentation.predict_segments import SegmentTask, score_segments
from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.segmentation.train import balanced_weights, train_segmenter
from seggen_core.segmentation.validation import Validation
from seggen_core.stage import Stage
from seggen_core.tracking import StageRun

_NUM_POINTS = 200
"""Points of a loss curve at most; each is a mean over the steps since the one before."""

LossCurve = list[dict[str, float]]
"""Points with "step", "loss" and "learning_rate"."""


def train_arm(stage: Stage, config: ArmConfig) -> Path:
    """Train a segmenter for each subset seed; return the finished folder (`ArmTraining.train`).

    Raises:
        SampleStoreError: the arm's samples aren't there.
    """
    stores = ArmStores.open(stage.paths, variant=config.variant, classes=stage.config.classes)
    stage.run.log_input(name="real_train", path=stage.paths.real("train"))
    for method in stores.partitions:
        stage.run.log_input(name=method, path=stage.paths.synthetic(method))
    stores.check_instances(config, labels=LabelSpace.of(config.variant, stage.taxonomy))
    training = ArmTraining(
        stage=stage,
        variant=config.variant,
        settings=config.settings,
        stores=stores,
    )
    identity = [config.params, stage.config.seed, stage.taxonomy.to_json(), *stores.identity()]
    return training.train(stage.config.dataset.subset_seeds, scratch=stage.scratch(identity))


@dataclass(frozen=True, kw_only=True, eq=False)
class ArmTraining:
    """The training of an arm.

    Attributes:
        stage: "train_seg" of the arm.
        variant: the arm's section.
        settings: how it is trained (`TrainSegConfig.for_arm`).
        stores: what it is trained on.
    """

    stage: Stage
    variant: VariantConfig
    settings: SegmenterConfig
    stores: ArmStores

    def train(self, subset_seeds: tuple[int, ...], *, scratch: Path) -> Path:
        """Train a segmenter for each subset; return the folder with all of them.

        It has a folder seed<k> for each seed, metrics.json and history.csv. An interrupted run goes
        on from the last finished seed, and within a seed from its last saved state.
        """
        out = scratch / "out"
        folders = {seed: out / f"seed{seed}" for seed in subset_seeds}
        for subset_seed, folder in folders.items():
            if not (folder / "metrics.json").exists():
                self._train_subset(subset_seed, folder=folder, scratch=scratch)
        self._summarize(folders, out=out)
        return out

    def _train_subset(self, subset_seed: int, *, folder: Path, scratch: Path) -> None:
        """Train one segmenter, score it on the validation split and write it to `folder`."""
        seed = TrainingSeed(self.stage.config.seed, subset_seed)
        samples = self.stores.samples(self.variant, labels=self.labels, seed=seed)
        noise_filter = None
        if self.variant.noise_filter is not None:
            noise_filter = self._train_filter(
                samples, seed=seed, state_folder=scratch / f"filter{subset_seed}"
            )
        arm = open_arm(self.variant, config=self.settings, samples=samples, seed=seed)
        state_folder = scratch / f"state{subset_seed}"
        validation = self._open_validation(subset_seed, folder=state_folder / "validation")
        segmenter, curve = self._train_segmenter(
            arm, state_folder=state_folder, noise_filter=noise_filter, validation=validation
        )
        if noise_filter is not None:
            # Not a part of metrics.json: an interrupted training counts from where it goes on.
            share = noise_filter.num_ignored / max(noise_filter.num_pixels, 1)
            self._log({f"seed{subset_seed}/ignored_share": share})
        self._finish(segmenter, curve=curve, arm=arm, folder=folder, validation=validation)

    def _train_filter(
        self, samples: ArmSamples, *, seed: TrainingSeed, state_folder: Path
    ) -> NoiseFilter:
        """Train a segmenter on real samples alone, and make FreeMask's filter of it."""
        assert self.variant.noise_filter is not None
        arm = open_arm(
            self.variant.model_copy(update={"shuffle_masks": False, "num_synthetic": None}),
            config=self.settings,
            samples=replace(samples, partitions={}),
            seed=seed,
        )
        segmenter, _ = self._train_segmenter(arm, state_folder=state_folder, prefix="filter/")
        losses = mean_class_losses(
            segmenter,
            pool=arm.pool,
            keys=samples.real_keys,
            batch_size=self.settings.batch_size,
            protocol=self._protocol,
        )
        tolerance = self.variant.noise_filter.tolerance
        return NoiseFilter(segmenter, class_losses=losses, tolerance=tolerance)

    def _train_segmenter(
        self,
        arm: Arm,
        *,
        state_folder: Path,
        noise_filter: NoiseFilter | None = None,
        validation: Validation | None = None,
        prefix: str = "",
    ) -> tuple[Segmenter, LossCurve]:
        """Train one segmenter; return it, in evaluation mode, and its loss curve.

        `prefix` is put before its metrics' names.
        """
        # The same weights to start from in every arm.
        with seeded_torch(*arm.seed.name("initial weights")):
            segmenter = build_segmenter(
                self.settings, id2label=self.labels.taxonomy.id2label, base=self.stage.paths.root
            ).to(self.stage.device)
        if self._class_weights is not None:
            segmenter.weigh_classes(self._class_weights)
        title = f"{self.stage.item} seed {arm.seed.subset_seed} {prefix.rstrip('/')}".rstrip()
        with _CurveReport(
            self.stage.run,
            title=f"train_seg {title}",
            prefix=f"seed{arm.seed.subset_seed}/{prefix}",
            num_steps=self.settings.num_steps,
        ) as report:
            train_segmenter(
                segmenter,
                self.settings,
                arm=arm,
                state_folder=state_folder,
                on_step=report.on_step,
                noise_filter=noise_filter,
                validation=validation,
            )
        return segmenter, report.curve

    def _open_validation(self, subset_seed: int, *, folder: Path) -> Validation | None:
        """Return what validates a training under way, if anything does."""
        if self.settings.validate_every is None:
            return None
        store = self.stores.validation
        num_chosen = min(self.settings.num_validation or len(store), len(store))
        keys = store.keys()
        chosen = [keys[k * len(keys) // num_chosen] for k in range(num_chosen)]

        def score(segmenter: Segmenter) -> float:
            return self._validate(segmenter, subset_seed=subset_seed, keys=chosen) or 0.0

        def report(step: int, value: float) -> None:
            self._log({f"seed{subset_seed}/{self._score_name}": value}, step=step)

        return Validation(self.settings, folder, score, report)

    def _validate(
        self, segmenter: Segmenter, *, subset_seed: int, keys: Sequence[str] | None = None
    ) -> float | None:
        """Return the task's own score on validation samples (all, or `keys`), in percent.

        It is None where there is no such sample, as of a list of words.
        """
        if not len(self.stores.validation):
            return None
        store, description = (
            self.stores.validation,
            f"{self.stage.item} seed {subset_seed}: validation",
        )
        if self.settings.task == "semantic":
            confusion = score_store(
                segmenter,
                store=store,
                keys=keys,
                batch_size=self.settings.batch_size,
                description=description,
                protocol=self._protocol,
                table=self.labels.truth_table,
            )
            return rounded(mean_iou(confusion))
        task = SegmentTask(
            self.settings.task, self.labels, self.settings.postprocess, self._protocol
        )
        figures = score_segments(
            segmenter, store=store, task=task, description=description, keys=keys
        )
        return figures[PRIMARY[self.settings.task]]

    @property
    def _score_name(self) -> str:
        """What the validation score is called: "val_miou", "val_pq" or "val_ap"."""
        return f"val_{PRIMARY[self.settings.task]}"

    @cached_property
    def labels(self) -> LabelSpace:
        """The segmenters' classes; ConfigError where the dataset has no such class."""
        return LabelSpace.of(self.variant, self.stage.taxonomy)

    @property
    def _protocol(self) -> TestProtocol:
        return TestProtocol(self.settings.test_short_side, self.settings.test_max_side)

    @cached_property
    def _class_weights(self) -> torch.Tensor | None:
        power = self.settings.class_balance
        if not power:
            return None
        counts = np.sum(self.stores.train.index["class_pixel_counts"].tolist(), axis=0)
        return balanced_weights(self.labels.count(counts), power=power)

    def _finish(
        self,
        segmenter: Segmenter,
        *,
        curve: LossCurve,
        arm: Arm,
        folder: Path,
        validation: Validation | None,
    ) -> None:
        """Score a segmenter on the validation split and write it to `folder`, metrics.json last."""
        name, seed = self._score_name, arm.seed.subset_seed
        score = self._validate(segmenter, subset_seed=seed)
        self._log({f"seed{seed}/{name}": score}, step=int(curve[-1]["step"]))
        save_segmenter(segmenter, folder=folder)
        scores = validation.scores if validation is not None else {}
        scores = {int(step): value for step, value in scores.items()}
        scores[int(curve[-1]["step"])] = np.nan if score is None else score
        validated = pd.DataFrame(sorted(scores.items()), columns=["step", name])
        history = pd.DataFrame(curve).merge(validated, on="step", how="outer", sort=True)
        history.to_csv(folder / "history.csv", index=False)
        parameters = sum(p.numel() for p in segmenter.parameters())
        metrics: dict[str, Any] = {
            name: score,
            "train_loss": curve[-1]["loss"],
            "parameters": parameters,
        }
        if validation is not None and validation.best is not None:
            step, best = validation.best
            shutil.copytree(best, folder / BEST, dirs_exist_ok=True)
            metrics |= {
                "steps_done": int(curve[-1]["step"]),
                "best_step": step,
                f"best_{name}": validation.scores[step],
                "validations": {str(s): v for s, v in sorted(validation.scores.items())},
            }
        metrics |= arm.facts
        about = ModelFolder(self.stage, self.variant, self.labels, self._protocol)
        for place in filter(Path.is_dir, (folder, folder / BEST)):
            about.write(place, metrics, subset_seed=arm.seed.subset_seed)
        write_json(folder / "metrics.json", metrics)

    def _summarize(self, folders: Mapping[int, Path], *, out: Path) -> None:
        """Write metrics.json and history.csv over all seeds to `out`."""
        summaries = {
            seed: read_artefact(folder / "metrics.json", dict[str, Any], stage=self.stage.run.name)
            for seed, folder in folders.items()
        }
        name = self._score_name
        scores = [s[name] for s in summaries.values() if s[name] is not None]
        metrics: dict[str, Any] = {
            "model": self.settings.model,
            "num_steps": self.settings.num_steps,
            name: rounded(float(np.mean(scores))) if scores else None,
            "seeds": {str(seed): summary for seed, summary in summaries.items()},
        }
        if self.variant.known_classes:
            metrics["known_classes"] = self.labels.taxonomy.slugs[:-1]
        if self.settings.test_short_side is not None:
            sides = {"short_side": self._protocol.short_side, "max_side": self._protocol.max_side}
            metrics["tested_at"] = sides
        if self.settings.task != "semantic":
            metrics["task"] = self.settings.task
            metrics["postprocess"] = self.settings.postprocess.model_dump(mode="json")
        write_json(out / "metrics.json", metrics)
        curves = [
            pd.read_csv(folder / "history.csv").assign(seed=seed)
            for seed, folder in folders.items()
        ]
        history = pd.concat(curves)[["seed", "step", "loss", "learning_rate", name]]
        history.to_csv(out / "history.csv", index=False)
        self._log({name: metrics[name]}, step=0)

    def _log(self, values: Mapping[str, float | None], *, step: int | None = None) -> None:
        """Log what has a value, at `step`; None is the last step."""
        known = {name: value for name, value in values.items() if value is not None}
        self.stage.run.log_metrics(known, step=self.settings.num_steps if step is None else step)


class _CurveReport:
    """A progress bar, and the points of a loss curve, logged as they come.

    Attributes:
        curve: the points so far.
    """

    def __init__(
        self,
        run: StageRun,
        *,
        title: str,
        prefix: str,
        num_steps: int,
    ) -> None:
        self.curve: LossCurve = []
        self._recent: list[float] = []
        self._last = (0, 0.0)
        self._run, self._prefix, self._num_steps = run, prefix, num_steps
        self._every = max(1, -(-num_steps // _NUM_POINTS))
        self._bar = tqdm(total=num_steps, desc=title, unit="step", disable=None)

    def __enter__(self) -> "_CurveReport":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._recent:  # the training ended early
            self._add_point(self._last)
        self._bar.close()

    def on_step(self, step: int, values: dict[str, float]) -> None:
        """Take in the values of a step."""
        self._recent.append(values["loss"])
        self._last = step, values["learning_rate"]
        self._bar.update()
        if step % self._every == 0 or step == self._num_steps:
            self._add_point(self._last)

    def _add_point(self, last: tuple[int, float]) -> None:
        """Add the mean of the recent losses, up to the last step and its learning rate."""
        step, learning_rate = last
        loss = float(np.mean(self._recent))
        point = {"loss": loss, "learning_rate": learning_rate}
        self._recent.clear()
        self.curve.append({"step": step, **point})
        self._bar.set_postfix(loss=f"{loss:.3f}")
        named = {f"{self._prefix}{name}": value for name, value in point.items()}
        self._run.log_metrics(named, step=step)
