"""Folders of images and masks as MMSegmentation's BaseSegDataset reads them, with a config file.

    img_dir/<split>/<key>.png
    ann_dir/<split>/<key>.png    train ids; 255 is ignored
    mmseg_dataset.py             classes, palette and data loaders; a base of your config

Source: https://mmsegmentation.readthedocs.io/en/latest/advanced_guides/datasets.html
"""

from seggen_core.exports.job import Writer, write_file
from seggen_core.exports.sample import ExportSample
from seggen_core.taxonomy import IGNORE_INDEX

_HEAD = '''"""Data of {name} for MMSegmentation 1.x; name this file in `_base_` of a config."""

dataset_type = "BaseSegDataset"
data_root = "{{{{ fileDirname }}}}"  # mmengine puts the folder of this file here
metainfo = dict(
    classes={classes},
    palette={palette},
)
'''

_LOADER = """
{split}_dataset = dict(
    type=dataset_type,
    data_root=data_root,
    data_prefix=dict(img_path="img_dir/{split}", seg_map_path="ann_dir/{split}"),
    img_suffix=".{suffix}",
    seg_map_suffix=".png",
    metainfo=metainfo,
    reduce_zero_label=False,
    ignore_index={ignored},
)
{split}_dataloader = dict(dataset={split}_dataset)
"""


class MmsegFolders(Writer):
    """Writes MMSegmentation's folders."""

    opening = """Put `_base_ = ["<this folder>/mmseg_dataset.py"]` into a config of MMSegmentation,
with a pipeline, a batch size and samplers of your own."""

    def add(self, sample: ExportSample) -> None:
        """Write image and mask; where stored images are of two kinds, all are written as JPEG."""
        suffix = self.job.image_suffix(sample.split) or "jpg"
        self.job.write_image(self.folder / "img_dir" / sample.split, sample, suffix=suffix)
        write_file(self.folder / "ann_dir" / sample.split / f"{sample.key}.png", sample.mask)

    def finish(self) -> list[str]:
        """Write the config."""
        selection = self.job.selection
        text = _HEAD.format(
            name=self.job.name.replace("\\", "").replace('"', ""),
            classes=repr(tuple(c.name for c in selection.taxonomy)),
            palette=repr(selection.colors.tolist()),
        )
        for split in selection.splits:
            suffix = self.job.image_suffix(split) or "jpg"
            text += _LOADER.format(split=split, suffix=suffix, ignored=IGNORE_INDEX)
        write_file(self.folder / "mmseg_dataset.py", text.encode())
        return []
