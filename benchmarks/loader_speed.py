"""Speed of the segmenters' loader against loose files read through torchvision.

    python -m benchmarks.loader_speed                     # photographs of 640 x 480
    python -m benchmarks.loader_speed --readers 4 8 --steps 100

Both give batches of Mask2Former's ADE20K recipe: short side 512 times 0.5 to 2.0, a crop of 512,
padding, a flip. 60% of the samples are synthetic squares.
- "seggen": sample stores through `segmentation.arms.Arm` and `training.read_ahead`, threads.
- "loose files": JPEG or PNG images and PNG masks in a folder each, Pillow and
  torchvision.transforms.v2 in a `torch.utils.data.Dataset`, the usual `DataLoader` with worker
  processes.

The colours are changed on the device in seggen, and not measured in either. The runs alternate, and
the best of `--repeats` counts, so that a busy machine harms both alike. "CPU ms" is the processor
time of a sample, of worker processes too: it doesn't depend on what else the machine does.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from seggen_core.config import SegmenterConfig, VariantConfig
from seggen_core.config.storage import ImageStorageConfig
from seggen_core.segmentation.arms import Arm, ArmSamples, open_arm
from seggen_core.segmentation.mixing import TrainingSeed
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter
from seggen_core.taxonomy import IGNORE_INDEX
from seggen_core.training.read_ahead import read_ahead

NUM_SAMPLES = 48
NUM_CLASSES = 150
CROP = 512
REAL = "data/real/train/index.parquet"
FORMATS = (("png", "png", "png"), ("jpeg", "jpeg", "jpeg"), ("jpeg", "jpeg", "png"))
"""Of the real images, and of the synthetic ones in a store and as loose files. Loose images of
diffusion models are PNG, as a rule.
"""


def photograph(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return an image with the spectrum of a photograph, so that files have their usual size."""
    noise = rng.normal(size=(3, height, width))
    noise = noise[:1] + 0.15 * noise  # mostly grey, as photographs are
    spectrum = np.fft.rfft2(noise)
    frequency = np.hypot(
        np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width
    )
    picture = np.fft.irfft2(spectrum / np.maximum(frequency, 1) ** 1.2, s=(height, width))
    picture = (picture - picture.mean()) / picture.std()
    return np.clip(128 + 50 * picture, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def segments(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a mask of some forty regions."""
    coarse = rng.integers(0, NUM_CLASSES, (6, 7), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))


def write_data(folder: Path, *, real: str, stored: str, loose: str) -> None:
    """Write the same samples to stores and to loose files.

    Args:
        folder: gets real, synthetic and loose.
        real: format of the real images, "png" or "jpeg".
        stored, loose: formats of the synthetic images.
    """
    rng = np.random.default_rng(0)
    kinds = {"real": ((480, 640), real, real), "synthetic": ((768, 768), stored, loose)}
    for kind, (size, encoding, loose_encoding) in kinds.items():
        files = folder / "loose" / kind
        files.mkdir(parents=True)
        options = ImageStorageConfig.model_validate({"image_format": encoding}).encoding
        with SampleStoreWriter(folder / kind, num_classes=NUM_CLASSES, **options) as writer:
            for index in range(NUM_SAMPLES):
                image, mask = photograph(rng, *size), segments(rng, *size)
                source = {"source_key": f"real-{index}"} if kind == "synthetic" else {}
                writer.add(Sample(f"{kind}-{index}", image, mask, None, source))
                if loose_encoding == "jpeg":
                    Image.fromarray(image).save(files / f"{index}.jpg", quality=95, subsampling=0)
                else:
                    Image.fromarray(image).save(files / f"{index}.png")
                Image.fromarray(mask).save(files / f"{index}.mask.png")
            writer.finish(manifest={})


class LooseFiles(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Images and masks in folders, as a typical training script reads them."""

    def __init__(self, folder: Path, *, batch_size: int, num_steps: int) -> None:
        """List the files and draw which sample fills which place."""
        files = {
            kind: sorted(p for p in (folder / kind).iterdir() if ".mask" not in p.name)
            for kind in ("real", "synthetic")
        }
        rng = np.random.default_rng(0)
        self._files = [
            files["synthetic" if rng.random() < 0.6 else "real"][int(rng.integers(NUM_SAMPLES))]
            for _ in range(batch_size * num_steps)
        ]
        self._crop = v2.Compose(
            [
                v2.RandomCrop(
                    CROP,
                    pad_if_needed=True,
                    fill={tv_tensors.Image: 128, tv_tensors.Mask: IGNORE_INDEX},
                ),
                v2.RandomHorizontalFlip(),
            ]
        )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        file = self._files[index]
        image = Image.open(file).convert("RGB")
        mask = Image.open(file.with_name(file.stem + ".mask.png"))
        short = int(CROP * 0.1 * int(torch.randint(5, 21, ())))
        image = v2.functional.resize(image, [short], max_size=4 * CROP)
        mask = v2.functional.resize(
            mask, [short], max_size=4 * CROP, interpolation=v2.InterpolationMode.NEAREST
        )
        return self._crop(
            tv_tensors.Image(v2.functional.pil_to_tensor(image)),
            tv_tensors.Mask(v2.functional.pil_to_tensor(mask)[0]),
        )


def open_seggen(folder: Path, *, batch_size: int, num_steps: int) -> Arm:
    """Return an arm of the same samples, which keeps none of them in memory."""
    config = SegmenterConfig(
        batch_size=batch_size,
        num_steps=num_steps,
        resize="short_side",
        short_side=CROP,
        max_side=4 * CROP,
        random_scale=(0.5, 2.0),
        num_scales=16,
        crop_size=CROP,
    )
    real, synthetic = SampleStore(folder / "real"), SampleStore(folder / "synthetic")
    arm = open_arm(
        VariantConfig(reads=("data/synthetic/imgsyn", REAL)),
        config=config,
        samples=ArmSamples(real, real.keys(), {"imgsyn": [synthetic]}),
        seed=TrainingSeed(0, 0),
    )
    arm.pool.cache_bytes = 0
    return arm


def seggen_batches(folder: Path, batch_size: int, num_steps: int, readers: int) -> Iterator[Any]:
    """Yield seggen's batches."""
    arm = open_seggen(folder, batch_size=batch_size, num_steps=num_steps)
    with read_ahead(arm.read, steps=range(num_steps), num_readers=readers) as batches:
        for batch in batches:
            yield batch.images


def loose_batches(folder: Path, batch_size: int, num_steps: int, readers: int) -> Iterator[Any]:
    """Yield batches of loose files."""
    dataset = LooseFiles(folder / "loose", batch_size=batch_size, num_steps=num_steps)
    for images, _ in DataLoader(dataset, batch_size=batch_size, num_workers=readers):
        yield images


@dataclass(frozen=True)
class Speed:
    """How fast a loader is."""

    samples_per_second: float
    cpu_ms: float


def measure(batches: Callable[..., Iterator[Any]], folder: Path, **sizes: int) -> Speed:
    """Read all batches once."""
    start, processor = time.perf_counter(), _processor_seconds()
    num_images = 0
    for images in batches(folder, **sizes):
        assert images.shape[1:] == (3, CROP, CROP)
        num_images += len(images)
    seconds, processor = time.perf_counter() - start, _processor_seconds() - processor
    return Speed(num_images / seconds, 1000 * processor / num_images)


def _processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def best_of(speeds: Iterable[Speed]) -> Speed:
    """Return the best of several runs."""
    runs = list(speeds)
    return Speed(max(s.samples_per_second for s in runs), min(s.cpu_ms for s in runs))


def main() -> None:
    """Print a table of both loaders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--readers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("real and synthetic images     readers  samples/s       CPU ms a sample   ratio of")
    print("                                       seggen  loose   seggen  loose     samples/s, CPU")
    for formats in FORMATS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_data(folder, real=formats[0], stored=formats[1], loose=formats[2])
            for readers in arguments.readers:
                sizes = {
                    "batch_size": arguments.batch_size,
                    "num_steps": arguments.steps,
                    "readers": readers,
                }
                runs = [
                    [measure(load, folder, **sizes) for load in (seggen_batches, loose_batches)]
                    for _ in range(arguments.repeats)
                ]
                ours, theirs = (best_of(speeds) for speeds in zip(*runs, strict=True))
                name = f"{formats[0]}, {formats[1]} against {formats[2]}"
                print(
                    f"{name:30}{readers:7} {ours.samples_per_second:8.1f} "
                    f"{theirs.samples_per_second:6.1f} {ours.cpu_ms:8.1f} {theirs.cpu_ms:6.1f} "
                    f"{ours.samples_per_second / theirs.samples_per_second:9.2f} "
                    f"{theirs.cpu_ms / ours.cpu_ms:6.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
