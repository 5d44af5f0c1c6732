"""SeeDiff's attempts at samples of one class, until there are enough.

An attempt is one prompt and one noise.

Network calls are aligned at multiples of the micro-batch, so that each attempt is always computed
in the same row of the same call: with several threads kernels round differently for different rows.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from tqdm import tqdm

from seggen_core.attention.masks import ACCEPTED
from seggen_core.config import SeeDiffConfig
from seggen_core.errors import AttentionError
from seggen_core.generators.foundation import vae_scale_factor
from seggen_core.project.digests import json_digest
from seggen_core.stage import Stage
from seggen_core.store.format import EncodedSample
from seggen_core.store.records import Record
from seggen_core.synthesis.attention_method import AttentionMethod, MaskSink
from seggen_core.synthesis.attention_previews import NUM_PICTURES, MaskStory
from seggen_core.synthesis.from_attention import (
    AttentionSamples,
    generate_with_recipes,
    join_samples,
    label_kept,
    seediff_self_resolutions,
)
from seggen_core.synthesis.outcomes import Attempt, Outcome

MAX_ATTEMPTS_PER_SAMPLE = 3

# What an attempt doesn't depend on: how many there are, and where its prompt comes from.
_OTHER_SETTINGS = {
    "samples_per_class",
    "batch_size",
    "prompts",
    "prompt_file",
    "reads",
    "sub_classes",
    "synonyms",
    "class_cross_attention_layers",
}


class SeeDiff(AttentionMethod[SeeDiffConfig]):
    """One class of SeeDiff."""

    noun = "attempts at"
    advice = "seediff.alpha, beta, the lowest scores or cross_attention_resolution"

    def __init__(
        self,
        stage: Stage,
        sink: MaskSink[SeeDiffConfig],
        *,
        others: Sequence[MaskSink[SeeDiffConfig]] = (),
    ) -> None:
        """See `AttentionMethod`."""
        super().__init__(stage, sink, others=others)
        self._relevant = {
            each.store: each.settings.model_dump(mode="json", exclude=_OTHER_SETTINGS)
            | {"store": each.store}
            for each in (sink, *others)
        }
        self._num_stories = Counter[str]()

    @property
    def max_attempts(self) -> int:
        """Three times the samples that are wanted."""
        return MAX_ATTEMPTS_PER_SAMPLE * self.settings.samples_per_class

    def attempts(self) -> list[Attempt]:
        """Return the attempts until `samples_per_class` are accepted, at most three times as many.

        Attempts that the cache holds aren't made again.
        """
        settings = self.settings
        needed, micro = settings.samples_per_class, settings.sampling.micro_batch_size
        limit = self.max_attempts
        attempts: list[Attempt] = []
        num_accepted = start = 0
        title = f"{self.store} {self.target.slug}"
        with tqdm(total=needed, desc=title, unit="image", disable=None) as progress:
            while num_accepted < needed and start < limit:
                in_flight = min(settings.batch_size, needed - num_accepted, limit - start)
                batch = range(start, start + -(-in_flight // micro) * micro)
                self._make(index for index in batch if self.digest(index) not in self.cache)
                for index in batch:
                    if index >= limit or num_accepted == needed:
                        break
                    attempts.append(self._attempt(index))
                    num_accepted += attempts[-1].is_accepted
                    progress.update(int(attempts[-1].is_accepted))
                start = batch.stop
        return attempts

    def digest(self, attempt: int) -> str:
        """Return a digest of all that an attempt depends on."""
        return self._digest(self.sink, attempt)

    def _digest(self, sink: MaskSink[SeeDiffConfig], attempt: int) -> str:
        return self.attempt_digest(attempt, self._relevant[sink.store])

    def sample(self, attempt: int) -> EncodedSample:
        """Return the sample of an accepted attempt."""
        sample = Outcome.from_record(self._record(self.digest(attempt), attempt)).sample
        assert sample is not None, attempt
        return sample

    def story_digest(self, attempt: int) -> str:
        """Return a digest of all that the pictures of an attempt depend on."""
        return self._story_digest(self.sink, attempt)

    def _story_digest(self, sink: MaskSink[SeeDiffConfig], attempt: int) -> str:
        return json_digest([self._digest(sink, attempt), "story"], length=32)

    def story(self, attempt: int) -> MaskStory:
        """Return what the mask of an accepted attempt came from."""
        return MaskStory.from_record(self._record(self.story_digest(attempt), attempt))

    def _attempt(self, index: int) -> Attempt:
        info = self.cache.info(self.digest(index))
        if info is None:
            info = self._record(self.digest(index), index).info
        prompt = self.prompts[index].text
        return Attempt(index, prompt, info["status"], info["quality"])

    def _record(self, digest: str, index: int) -> Record:
        """Return a record of an attempt, made again where there is no whole one."""
        record = self.cache.find(digest)
        if record is None:
            self._make([index], with_story=index)
            record = self.cache.read_back(digest)
        return record

    def _make(self, indices: Iterable[int], *, with_story: int | None = None) -> None:
        """Make the network calls that some attempts belong to, and commit what comes of them.

        Pictures are kept of the first accepted ones, and of `with_story`. The other stores get what
        they lack first, so that a run that was killed in between makes the calls again.
        """
        micro = self.settings.sampling.micro_batch_size
        calls = sorted({index // micro for index in indices})
        rows = [index for call in calls for index in range(call * micro, (call + 1) * micro)]
        if not rows:
            return
        lacking = [
            sink
            for sink in self.others
            if any(self._digest(sink, index) not in sink.cache for index in rows)
        ]
        sinks = [*lacking, self.sink]
        for sink, samples in zip(sinks, self._label(rows, sinks), strict=True):
            self._add(sink, samples, rows=rows, with_story=with_story)

    def _label(
        self, attempts: Sequence[int], sinks: Sequence[MaskSink[SeeDiffConfig]]
    ) -> list[AttentionSamples]:
        """Make images and the masks of each store, only masks where the images are kept."""
        if self.keeper is None:
            self._check(sinks)
            return generate_with_recipes(
                self.pipeline,
                prompts=[self.prompts[index] for index in attempts],
                generators=lambda k: self.noise(attempts[k]),
                configs=[sink.settings for sink in sinks],
                image_size=self.image_size,
            )
        labelled = []
        for index in attempts:
            attention, classes = self.keeper.get(index), self.prompts[index].classes
            labelled.append(
                [
                    label_kept(attention, classes, config=sink.settings, device=self.stage.device)
                    for sink in sinks
                ]
            )
        return [join_samples(parts) for parts in zip(*labelled, strict=True)]

    def _check(self, sinks: Sequence[MaskSink[SeeDiffConfig]]) -> None:
        """Refuse a recipe that the network can't follow, before anything is sampled."""
        latent_size = self.image_size // vae_scale_factor(self.pipeline)
        for sink in sinks:
            try:
                seediff_self_resolutions(
                    self.pipeline.unet, config=sink.settings, latent_size=latent_size
                )
            except AttentionError as error:
                name = "" if sink.store == self.name else f"mask_recipe.{sink.store}: "
                raise AttentionError(f"{name}{error}") from None

    def _add(
        self,
        sink: MaskSink[SeeDiffConfig],
        samples: AttentionSamples,
        *,
        rows: Sequence[int],
        with_story: int | None,
    ) -> None:
        """Add the records of attempts `rows` to a store's cache, and commit them."""
        for k, index in enumerate(rows):
            status, quality = samples.status[k], samples.quality[k]
            sample = None
            if status == ACCEPTED:
                sample = self.encode(
                    index, sink, image=samples.images[k], labels=samples.labels[k], quality=quality
                )
                self._num_stories[sink.store] += 1
                if self._num_stories[sink.store] <= NUM_PICTURES or index == with_story:
                    maps = {name: m[k] for name, m in samples.maps.items()}
                    story = MaskStory.from_soft_maps(maps, samples.labels[k])
                    sink.cache.add(self._story_digest(sink, index), story.to_record())
            sink.cache.add(self._digest(sink, index), Outcome(status, quality, sample).to_record())
        sink.cache.commit()
