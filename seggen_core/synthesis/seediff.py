"""SeeDiff's attempts at samples of one class, until there are enough.

An attempt is one prompt and one noise.

Network calls are aligned at multiples of the micro-batch, so that each attempt is always computed
in the same row of the same call: with several threads kernels round differently for different rows.
"""

from collections.abc import Iterable
from functools import partial

import torch
from tqdm import tqdm

from seggen_core.attention.masks import ACCEPTED
from seggen_core.config import SeeDiffConfig
from seggen_core.project.digests import json_digest
from seggen_core.store.format import EncodedSample
from seggen_core.store.records import Record
from seggen_core.synthesis.attention_job import AttentionJob
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


class SeeDiff:
    """One class of SeeDiff; an `AttentionMethod`."""

    noun = "attempts at"
    advice = "seediff.alpha, beta, the lowest scores or cross_attention_resolution"

    def __init__(self, job: AttentionJob, settings: SeeDiffConfig) -> None:
        self._job, self._settings = job, settings
        self._relevant = settings.model_dump(mode="json", exclude=_OTHER_SETTINGS)
        self._num_stories = 0

    def attempts(self) -> list[Attempt]:
        """Return the attempts until `samples_per_class` are accepted, at most three times as many.

        Attempts that the cache holds aren't made again.
        """
        settings, job = self._settings, self._job
        needed, micro = settings.samples_per_class, settings.sampling.micro_batch_size
        limit = MAX_ATTEMPTS_PER_SAMPLE * needed
        attempts: list[Attempt] = []
        num_accepted = start = 0
        title = f"seediff {job.target.slug}"
        with tqdm(total=needed, desc=title, unit="image", disable=None) as progress:
            while num_accepted < needed and start < limit:
                in_flight = min(settings.batch_size, needed - num_accepted, limit - start)
                batch = range(start, start + -(-in_flight // micro) * micro)
                self._make(index for index in batch if self.digest(index) not in job.cache)
                for index in batch:
                    if index >= limit or num_accepted == needed:
                        break
                    attempts.append(self._attempt(index))
                    num_accepted += attempts[-1].is_accepted
                    progress.update(int(attempts[-1].is_accepted))
                start = batch.stop
        return attempts

    def digest(self, index: int) -> str:
        """Return a digest of all that an attempt depends on."""
        return self._job.digest(index, self._relevant)

    def sample(self, index: int) -> EncodedSample:
        """Return the sample of an accepted attempt."""
        sample = Outcome.from_record(self._record(self.digest(index), index)).sample
        assert sample is not None, index
        return sample

    def story_digest(self, index: int) -> str:
        """Return a digest of all that the pictures of an attempt depend on."""
        return json_digest([self.digest(index), "story"], length=32)

    def story(self, index: int) -> MaskStory:
        """Return what the mask of an accepted attempt came from."""
        return MaskStory.from_record(self._record(self.story_digest(index), index))

    def _attempt(self, index: int) -> Attempt:
        info = self._job.cache.info(self.digest(index))
        if info is None:
            info = self._record(self.digest(index), index).info
        prompt = self._job.prompts[index].text
        return Attempt(index, prompt, info["status"], info["quality"])

    def _record(self, digest: str, index: int) -> Record:
        """Return a record of an attempt, made again where there is no whole one."""
        record = self._job.cache.find(digest)
        if record is None:
            self._make([index], with_story=index)
            record = self._job.cache.read_back(digest)
        return record

    def _make(self, indices: Iterable[int], *, with_story: int | None = None) -> None:
        """Make the network calls that some attempts belong to, and commit what comes of them.

        Pictures are kept of the first accepted ones, and of `with_story`.
        """
        micro, job = self._settings.sampling.micro_batch_size, self._job
        calls = sorted({index // micro for index in indices})
        rows = [index for call in calls for index in range(call * micro, (call + 1) * micro)]
        if not rows:
            return
        generated = generate_from_attention(
            job.pipeline,
            prompts=[job.prompts[index] for index in rows],
            generators=partial(_noise, job, rows),
            config=self._settings,
            image_size=job.image_size,
        )
        for k, index in enumerate(rows):
            status, quality = generated.status[k], generated.quality[k]
            sample = None
            if status == ACCEPTED:
                sample = job.sample(
                    index, image=generated.images[k], labels=generated.labels[k], quality=quality
                )
                self._num_stories += 1
                if self._num_stories <= NUM_PICTURES or index == with_story:
                    maps = {name: m[k] for name, m in generated.maps.items()}
                    story = MaskStory.from_soft_maps(maps, generated.labels[k])
                    job.cache.add(self.story_digest(index), story.to_record())
            job.cache.add(self.digest(index), Outcome(status, quality, sample).to_record())
        job.cache.commit()


def _noise(job: AttentionJob, rows: list[int], k: int) -> torch.Generator:
    return job.noise(rows[k])
