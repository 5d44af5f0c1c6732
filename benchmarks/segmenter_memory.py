"""Memory that a segmenter keeps for the backward pass, and an estimate for larger crops.

    python -m benchmarks.segmenter_memory --profile coco_panoptic --side 192 --target 1024

One training step of the profile's network (random weights) runs on the CPU at a small crop, and the
bytes of all tensors that autograd saves are counted once each. What a step saves grows in
proportion to the pixels, but for the masks at points of the loss, which don't: two crops tell both
parts. The estimate adds weights, gradients and both moments of AdamW, and leaves out what is freed
within the step (a tenth to a fifth, as a rule) and cuDNN's workspace. It is an estimate: nothing
here runs on a GPU.
"""

import argparse
from pathlib import Path

import torch

from seggen_core.config import load_config
from seggen_core.segmentation.models import build_segmenter
from seggen_core.segmentation.optimizer import freeze_batch_norm
from seggen_core.segmentation.segmenter import Segmenter

NUM_CLASSES_SHOWN = 12
"""Classes in a sample: each is a mask in the loss."""


def saved_bytes(segmenter: Segmenter, side: int, *, dtype: torch.dtype) -> int:
    """Return the bytes that autograd keeps for one sample of side x side pixels."""
    storages: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in segmenter.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, side, side, generator=generator)
    coarse = torch.randint(0, NUM_CLASSES_SHOWN, (1, 6, 6), generator=generator)
    maps = coarse.repeat_interleave(side // 6 + 1, 1).repeat_interleave(side // 6 + 1, 2)
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
    ):
        loss = segmenter(images, segmentation_maps=maps[:, :side, :side].contiguous())
    assert torch.isfinite(loss)
    return sum(storages.values())


def main() -> None:
    """Print what was measured, and the estimate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="coco_panoptic")
    parser.add_argument("--arm", default="baseline")
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--target", type=int, default=1024)
    arguments = parser.parse_args()
    config = load_config(Path("profiles") / arguments.profile / "params.yaml")
    settings = config.train_seg.for_arm(config.variants[arguments.arm])
    settings = settings.model_copy(update={"backbone_source": None})
    labels = dict(enumerate(config.classes))
    segmenter = build_segmenter(settings, id2label=labels).train()
    if settings.freeze_batch_norm:
        freeze_batch_norm(segmenter)
    state = 16 * sum(p.numel() for p in segmenter.parameters()) / 1e9
    print(f"weights, gradients and moments: {state:.2f} GB")
    sides = arguments.side, 2 * arguments.side
    for dtype in (torch.float32, torch.bfloat16):
        small, large = (saved_bytes(segmenter, side, dtype=dtype) for side in sides)
        per_pixel = (large - small) / (sides[1] ** 2 - sides[0] ** 2)
        fixed = small - per_pixel * sides[0] ** 2
        sample = (fixed + per_pixel * arguments.target**2) / 1e9
        print(
            f"{str(dtype).removeprefix('torch.'):9} measured {small / 1e9:.3f} GB at {sides[0]} "
            f"and {large / 1e9:.3f} GB at {sides[1]} px; estimated {sample:.2f} GB a sample of "
            f"{arguments.target} px: "
            + ", ".join(
                f"{num_samples} together {state + num_samples * sample:.0f} GB"
                for num_samples in (1, 2, 4, 8, 16)
            )
        )


if __name__ == "__main__":
    main()
