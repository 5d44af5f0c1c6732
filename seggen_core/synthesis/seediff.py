"""SeeDiff's attempts at samples of one class, until there are enough.

An attempt is one prompt and one noise.

Network calls are aligned at multiples of the micro-batch, so that each attempt is always computed
in the same row of the same call: with several threads kernels round differently for different rows.
"""

from collections.abc import Iterable

from tqdm import tqdm

from seggen_core.attention.masks import ACCEPTED
from seggen_core.config import SeeDiffConfig
from seggen_core.project.digests import json_digest
from seggen_core.stage import Stage
from seggen_core.store.cache import RecordCache
from seggen_core.store.format import EncodedSample
from seggen_core.store.records import Record
from seggen_core.synthesis.attention_method import AttentionMethod
from seggen_core.synthesis.attention_previews import NUM_PICTURES, MaskStory
from seggen_core.synthesis.from_attention import generate_from_attention
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
    "class_cross_attention_layers",
}


class SeeDiff(AttentionMethod[SeeDiffConfig]):
    """One class of SeeDiff."""

    noun = "attempts at"
    advice = "seediff.alpha, beta, the lowest scores or cross_attention_resolution"

    def __init__(self, stage: Stage, settings: SeeDiffConfig, *, cache: RecordCache) -> None:
        """See `AttentionMethod`."""
        super().__init__(stage, settings, cache=cache)
        self._relevant = self.settings.model_dump(mode="json", exclude=_OTHER_SETTINGS)
        self._num_stories = 0

    def attempts(self) -> list[Attempt]:
        """Return the attempts until `samples_per_class` are accepted, at most three times as many.

        Attempts that the cache holds aren't made again.
        """
        settings = self.settings
        needed, micro = settings.samples_per_class, settings.sampling.micro_batch_size
        limit = MAX_ATTEMPTS_PER_SAMPLE * needed
        attempts: list[Attempt] = []
        num_accepted = start = 0
        title = f"seediff {self.target.slug}"
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
        return self.attempt_digest(attempt, self._relevant)

    def sample(self, attempt: int) -> EncodedSample:
        """Return the sample of an accepted attempt."""
        sample = Outcome.from_record(self._record(self.digest(attempt), attempt)).sample
        assert sample is not None, attempt
        return sample

    def story_digest(self, attempt: int) -> str:
        """Return a digest of all that the pictures of an attempt depend on."""
        return json_digest([self.digest(attempt), "story"], length=32)

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

        Pictures are kept of the first accepted ones, and of `with_story`.
        """
        micro = self.settings.sampling.micro_batch_size
        calls = sorted({index // micro for index in indices})
        rows = [index for call in calls for index in range(call * micro, (call + 1) * micro)]
        if not rows:
            return
        generated = generate_from_attention(
            self.pipeline,
            prompts=[self.prompts[index] for index in rows],
            generators=lambda k: self.noise(rows[k]),
            config=self.settings,
            image_size=self.image_size,
        )
        for k, index in enumerate(rows):
            status, quality = generated.status[k], generated.quality[k]
            sample = None
            if status == ACCEPTED:
                sample = self.encode(
                    index, image=generated.images[k], labels=generated.labels[k], quality=quality
                )
                self._num_stories += 1
                if self._num_stories <= NUM_PICTURES or index == with_story:
                    maps = {name: m[k] for name, m in generated.maps.items()}
                    story = MaskStory.from_soft_maps(maps, generated.labels[k])
                    self.cache.add(self.story_digest(index), story.to_record())
            self.cache.add(self.digest(index), Outcome(status, quality, sample).to_record())
        self.cache.commit()
