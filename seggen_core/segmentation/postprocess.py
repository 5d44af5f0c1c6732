"""From queries to segments and instances; `query_inference` has the rules.

Masks are brought to the size of the image before anything is decided, as Mask2Former's authors do
for both tasks.

Shape legend of one image: classes float32 [Q, C + 1], masks float32 [Q, H, W], both logits; things
bool [C].
"""

import numpy as np
import torch

from seggen_core.colors.panoptic import PanopticMap
from seggen_core.config import PostprocessConfig
from seggen_core.metrics.instance import Instances
from seggen_core.segmentation.query_inference import best_instances, panoptic_maps


def panoptic_segments(
    classes: torch.Tensor, *, masks: torch.Tensor, things: np.ndarray, config: PostprocessConfig
) -> PanopticMap:
    """Return the segments of an image; see `panoptic_maps`."""
    maps = panoptic_maps(
        classes,
        masks=masks,
        things=things,
        object_mask_threshold=config.object_mask_threshold,
        overlap_threshold=config.overlap_threshold,
    )
    return PanopticMap(*maps)


def thing_instances(
    classes: torch.Tensor, *, masks: torch.Tensor, things: np.ndarray, config: PostprocessConfig
) -> Instances:
    """Return the instances of an image; see `best_instances`."""
    instance_masks, labels, scores = best_instances(
        classes, masks=masks, things=things, num_instances=config.num_instances
    )
    return Instances(instance_masks, labels, scores=scores)
