"""The tasks of segmentation, and the figures that each is scored by."""

from seggen_core.config import Task

PRIMARY: dict[Task, str] = {"semantic": "miou", "panoptic": "pq", "instance": "ap"}
"""The figure of a task by which arms are compared and the best segmenter is chosen."""

FIGURES: dict[Task, dict[str, str]] = {
    "semantic": {
        "miou": "mIoU",
        "miou_things": "Things",
        "miou_stuff": "Stuff",
        "pixel_accuracy": "Pixel acc.",
        "boundary_miou": "Boundary mIoU",
    },
    "panoptic": {
        "pq": "PQ",
        "pq_things": "PQ things",
        "pq_stuff": "PQ stuff",
        "sq": "SQ",
        "rq": "RQ",
        "ap_pan": "APpan",
        "miou_pan": "mIoUpan",
        "boundary_pq": "Boundary PQ",
    },
    "instance": {
        "ap": "AP",
        "ap50": "AP50",
        "ap75": "AP75",
        "ap_small": "APs",
        "ap_medium": "APm",
        "ap_large": "APl",
        "boundary_ap": "Boundary AP",
    },
}
"""The figures that tables show of a task, and their headings; all in percent."""

PER_CLASS: dict[Task, str] = {
    "semantic": "per_class_iou",
    "panoptic": "per_class_pq",
    "instance": "per_class_ap",
}
"""The key of a task's figures by class slug."""

CLASS_FIGURE: dict[Task, str] = {"semantic": "IoU", "panoptic": "PQ", "instance": "AP"}
"""What the figure of one class is called."""
