"""Mask2Former's loss without pixels that have no label."""

import pytest
import torch

from seggen_core.config import SegmenterConfig
from seggen_core.segmentation.left_out import Targets, left_out_loss
from seggen_core.segmentation.mask2former import Mask2FormerSegmenter
from seggen_core.segmentation.mask_classifier import binary_masks
from seggen_core.segmentation.models import build_segmenter
from tests.segmentation.tiny import ID2LABEL, TINY_MASK2FORMER


def tiny(ignored: str) -> Mask2FormerSegmenter:
    torch.manual_seed(0)
    tree = {"model": "mask2former", "architecture": TINY_MASK2FORMER, "ignored_pixels": ignored}
    config = SegmenterConfig.model_validate(tree)
    segmenter = build_segmenter(config, id2label=ID2LABEL)
    assert isinstance(segmenter, Mask2FormerSegmenter)
    return segmenter.train()


def draw(segmenter: Mask2FormerSegmenter, maps: torch.Tensor) -> torch.Tensor:
    images = torch.rand(*maps.shape, 3, generator=torch.Generator().manual_seed(1)).movedim(-1, 1)
    torch.manual_seed(3)
    return segmenter.loss(images, segmentation_maps=maps)


def labelled() -> torch.Tensor:
    return torch.randint(0, 3, (2, 32, 32), generator=torch.Generator().manual_seed(2))


def test_without_such_pixels_it_is_the_published_loss() -> None:
    losses = [draw(tiny(ignored), labelled()) for ignored in ("negatives", "left_out")]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)


def criterion_and_layer() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A layer whose query 0 shows the left half, 1 the right half, and the others nothing."""
    criterion = tiny("left_out").network.criterion
    masks = torch.full((1, 4, 8, 8), -9.0)
    masks[0, 0, :, :4] = masks[0, 1, :, 4:] = 9.0
    classes = torch.zeros(1, 4, 4)
    return criterion, {"masks_queries_logits": masks, "class_queries_logits": classes}


def grads(unlabelled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of masks and classes for a left half of class 0."""
    criterion, layer = criterion_and_layer()
    layer = {name: value.requires_grad_() for name, value in layer.items()}
    mask = torch.zeros(1, 32, 32)
    mask[:, :, :16] = 1
    targets = Targets([mask], [torch.tensor([0])], unlabelled)
    torch.manual_seed(0)
    left_out_loss(criterion, [layer], targets=targets).backward()
    gradients = [value.grad for value in layer.values()]
    assert gradients[0] is not None and gradients[1] is not None
    return gradients[0], gradients[1]


def test_a_mask_on_pixels_without_labels_is_no_mistake() -> None:
    right = torch.zeros(1, 32, 32, dtype=torch.bool)
    _, negatives = grads(right)
    right[:, :, 16:] = True
    masks, classes = grads(right)
    # Query 1 shows what has no label: it is taught nothing. As a negative it is "no object".
    assert not classes[0, 1].any() and negatives[0, 1, 3] < 0
    assert negatives[0, 2, 3] < 0 and classes[0, 2, 3] < 0  # one that shows nothing still is
    assert not masks[0, :, :, 5:].any(), "no pixel there pulls at a mask"


def test_the_network_learns_nothing_from_a_picture_without_labels() -> None:
    segmenter = tiny("left_out")
    loss = draw(segmenter, torch.full((2, 32, 32), 255))
    assert loss.isfinite() and loss.requires_grad
    loss.backward()
    grads = [p.grad for p in segmenter.parameters() if p.grad is not None]
    assert all(torch.isfinite(grad).all() and not grad.any() for grad in grads)


@pytest.mark.parametrize("ignored", ["negatives", "left_out"])
def test_every_mixture_of_labels_has_a_finite_loss(ignored: str) -> None:
    maps = labelled()
    maps[0, :, 10:], maps[1] = 255, 255
    segmenter = tiny(ignored)
    loss = draw(segmenter, maps)
    loss.backward()
    assert loss.isfinite()
    grads = [p.grad for p in segmenter.parameters() if p.grad is not None]
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert len(binary_masks(maps, num_classes=3)[1][1]) == 0
