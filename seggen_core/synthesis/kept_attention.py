"""Attention that is kept with its image, so that other settings make new masks and no images.

It is what every method and every setting of it may ask for: each cross-attention layer's maps of
the classes, and self-attention at each resolution, averaged over steps (equation 5 of SeeDiff). It
is kept in float16, which takes 38 MB for an image of 64x64 latents. Masks are always cut from the
rounded maps, so they are the same whether the attention is fresh or was kept.

Shape legend: B images; P classes; s side of a map; N = s * s.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F

from seggen_core.config import SamplingConfig
from seggen_core.errors import AttentionError
from seggen_core.generators.sampling import use_scheduler
from seggen_core.store.cache import RecordCache
from seggen_core.store.records import Record, pack_array, unpack_array
from seggen_core.synthesis.captured_images import CaptureRequest, run_with_capture
from seggen_core.synthesis.prompts import ClassPrompt

_IMAGE, _CROSS, _SELF = "image", "cross ", "self "


@dataclass(frozen=True, eq=False)
class KeptAttention:
    """One image and its attention.

    Attributes:
        image: uint8 [H, W, 3].
        status: "accepted", or why the image can't be used.
        cross: float16 [P, s, s] in [0, 1] by the name of the layer.
        self_maps: float16 [N, N] in [0, 1] by resolution.
    """

    image: np.ndarray
    status: str
    cross: Mapping[str, np.ndarray]
    self_maps: Mapping[int, np.ndarray]

    def to_record(self) -> Record:
        """Return the record that `from_record` reads."""
        arrays = {_IMAGE: self.image}
        arrays |= {f"{_CROSS}{layer}": maps for layer, maps in self.cross.items()}
        arrays |= {f"{_SELF}{side}": maps for side, maps in self.self_maps.items()}
        members = {name: pack_array(array) for name, array in arrays.items()}
        return Record({"status": self.status}, members)

    @classmethod
    def from_record(cls, record: Record) -> "KeptAttention":
        """Inverse of `to_record`."""
        arrays = {name: unpack_array(data) for name, data in record.members.items()}
        return cls(
            image=arrays[_IMAGE],
            status=record.info["status"],
            cross={n.removeprefix(_CROSS): a for n, a in arrays.items() if n.startswith(_CROSS)},
            self_maps={
                int(n.removeprefix(_SELF)): a for n, a in arrays.items() if n.startswith(_SELF)
            },
        )

    def layers(self, chosen: Sequence[str] | None) -> dict[str, torch.Tensor]:
        """Return the maps of the chosen cross-attention layers: float32 [P, s, s] by name.

        Args:
            chosen: names of layers; None takes all.

        Raises:
            AttentionError: there is no layer of such a name.
        """
        names = list(self.cross) if chosen is None else list(chosen)
        if unknown := [name for name in names if name not in self.cross]:
            raise AttentionError(
                f"no cross-attention layer is called {', '.join(unknown)}; this network has: "
                f"{', '.join(self.cross)}"
            )
        return {name: torch.from_numpy(self.cross[name]).float() for name in names}

    def cross_map(self, index: int, *, layers: Sequence[str] | None, side: int) -> torch.Tensor:
        """Return the mean of one class's maps over the layers of one resolution: float32 [s, s].

        Args:
            index: of the class among those of the prompt.
            layers: names of the layers that count; None takes all.
            side: the resolution.

        Raises:
            AttentionError: none of these layers has it.
        """
        maps = self.layers(layers)
        chosen = [m[index] for m in maps.values() if m.shape[-1] == side]
        if not chosen:
            known = sorted({m.shape[-1] for m in maps.values()})
            raise AttentionError(
                f"cross_attention_resolution is {side}, but the chosen cross-attention layers have "
                f"{', '.join(map(str, known))}; choose one of these"
            )
        return torch.stack(chosen).mean(0)

    def mean_cross_map(
        self, index: int, *, layers: Sequence[str] | None, size: int
    ) -> torch.Tensor:
        """Return the mean of one class's maps over layers of all resolutions: float32 [size, size].

        It is DiffuMask's aggregation, `AttentionRecorder.mean_cross_map`.
        """
        enlarged = [
            F.interpolate(
                m[index][None, None], size=(size, size), mode="bilinear", align_corners=False
            )[0, 0]
            for m in self.layers(layers).values()
        ]
        return torch.stack(enlarged).mean(0)


def capture_kept(
    pipeline: Any,
    *,
    prompts: Sequence[ClassPrompt],
    generators: Sequence[torch.Generator],
    sampling: SamplingConfig,
    image_size: int,
    self_resolutions: Sequence[int] | None = None,
) -> list[KeptAttention]:
    """Make one image per prompt in one call of the networks, and keep all of its attention.

    Arguments and errors are those of `run_with_capture`; `self_resolutions` are the sides of the
    self-attention maps to keep, and None keeps all.
    """
    with use_scheduler(pipeline, sampling):
        captured = run_with_capture(
            pipeline,
            prompts=prompts,
            generators=generators,
            sampling=sampling,
            image_size=image_size,
            request=CaptureRequest(per_layer=True, self_resolutions=self_resolutions),
        )
    recorder, images = captured.recorder, captured.arrays
    cross = {name: _half(maps) for name, maps in recorder.layer_maps().items()}
    self_maps = {side: _half(recorder.self_map(side)) for side in recorder.self_resolutions}
    return [
        KeptAttention(
            images[k],
            captured.status[k],
            {name: maps[k, : len(prompts[k].tokens)] for name, maps in cross.items()},
            {side: maps[k] for side, maps in self_maps.items()},
        )
        for k in range(len(prompts))
    ]


class AttentionKeeper:
    """The attention of the attempts of one class, kept in a folder; a context manager.

    Calls of the networks are aligned at multiples of the micro-batch, so that each attempt is
    always computed in the same row of the same call.
    """

    def __init__(
        self,
        folder: Path,
        *,
        make: Callable[[range], Sequence[KeptAttention]],
        digest: Callable[[int], str],
        micro_batch_size: int,
    ) -> None:
        """Open the folder, which is created where it doesn't exist, when no other process has it.

        Args:
            folder: where attention is kept.
            make: makes the images of the attempts of one call.
            digest: of all that an attempt's image depends on.
            micro_batch_size: attempts of a call.

        Raises:
            StorageError: it can't be written.
        """
        self._cache = RecordCache(folder, wait=True)
        self._make, self._digest, self._micro = make, digest, micro_batch_size

    def get(self, attempt: int) -> KeptAttention:
        """Return the image of an attempt with its attention; it is made where it wasn't kept.

        Raises:
            AttentionError: the network's attention can't be captured.
            StorageError: it can't be kept.
        """
        record = self._cache.find(self._digest(attempt))
        if record is not None:
            return KeptAttention.from_record(record)
        call = self._call_of(attempt)
        images = self._make(call)
        for index, image in zip(call, images, strict=True):
            self._cache.add(self._digest(index), image.to_record())
        self._cache.commit()
        return images[attempt - call.start]

    def prune(self, num_attempts: int) -> None:
        """Delete what is of other images than those of the first attempts, and of their calls.

        Raises:
            StorageError: the disk is full or not writable.
        """
        end = self._call_of(num_attempts - 1).stop if num_attempts else 0
        self._cache.retain(self._digest(index) for index in range(end))

    def _call_of(self, attempt: int) -> range:
        start = attempt // self._micro * self._micro
        return range(start, start + self._micro)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Commit what was added, and let other processes open the folder."""
        self._cache.close()


def _half(maps: torch.Tensor) -> np.ndarray:
    return maps.to("cpu", torch.float16).numpy()
