"""The smallest HRNet, Mask2Former, EoMT and models of detectron2 that are still whole."""

from typing import Any

ID2LABEL = {0: "sky", 1: "grass", 2: "car"}


def _stage(num_branches: int) -> dict:
    channels = (4, 8, 8, 8)[:num_branches]
    return {
        "num_modules": 1,
        "num_branches": num_branches,
        "block_type": "BASIC",
        "num_blocks": (1,) * num_branches,
        "num_channels": channels,
        "fuse_method": "SUM",
    }


TINY_HRNET: dict[str, Any] = {
    "stem_width": 4,
    "stage1": {
        "num_modules": 1,
        "num_branches": 1,
        "block_type": "BOTTLENECK",
        "num_blocks": (1,),
        "num_channels": (2,),
        "fuse_method": "SUM",
    },
    **{f"stage{n}": _stage(n) for n in (2, 3, 4)},
}

TINY_MASK2FORMER: dict[str, Any] = {
    "backbone_config": {
        "model_type": "swin",
        "image_size": 16,
        "patch_size": 1,
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "window_size": 4,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 32,
    "dim_feedforward": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "num_queries": 5,
    "train_num_points": 64,
}

TINY_EOMT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "num_blocks": 2,
    "num_queries": 5,
    "num_upscale_blocks": 1,
    "num_register_tokens": 1,
    "train_num_points": 64,
}

TINY_FPN: dict[str, Any] = {
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.FPN.OUT_CHANNELS": 8,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 8,
    "MODEL.SEM_SEG_HEAD.NORM": "",
}
"""Options of detectron2's semantic FPN."""

RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
FPN = "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"
TINY_RCNN: dict[str, Any] = TINY_FPN | {
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 8,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
}
"""Options of detectron2's Mask R-CNN and Panoptic FPN."""
