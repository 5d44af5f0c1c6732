"""Parameters of a list of words, for `seggen init --words FILE`."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seggen_core.commands.init_own import Keys, pretrained_segmenter
from seggen_core.commands.init_places import written_path

if TYPE_CHECKING:
    from seggen_core.project.paths import ProjectPaths

_PROFILE = "words"
_SAMPLES = {"seediff": 400, "diffumask": 200}
"""Samples of a class with a model of the user's: fewer than the papers' 2,000 to 3,000."""
_METHODS = ("seediff", "diffumask")
_MAX_FEATURES = 48


def add_words_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of lists of words."""
    parser.add_argument(
        "--words",
        type=Path,
        metavar="FILE",
        help="list of classes without real images (.txt, .csv or .json), as a dataset: in a text "
        'file a class a line, with synonyms behind a colon: "person: man, woman, people"',
    )
    parser.add_argument(
        "--model",
        metavar="DIR_OR_REPO",
        help="with --words: folder of a Stable Diffusion 1.x, 2.x or XL pipeline, or a repository "
        "of the Hub (default: the small one that seggen ships, which draws scenes)",
    )
    parser.add_argument(
        "--revision", help="with --model: commit of the repository (default: the newest)"
    )


def words_text(
    arguments: argparse.Namespace, settings: Mapping[str, Any], *, paths: "ProjectPaths"
) -> tuple[str, str]:
    """Return the parameters of a list of words, and lines about them.

    Args:
        arguments: of the command.
        settings: further keys of the section `dataset`, of --set.
        paths: the project.

    Raises:
        ConfigError: an option doesn't go with --words, or a setting is wrong.
        DatasetError: the list can't be read.
        FoundationError: the model can't be used.
    """
    from seggen_core.commands.init_splits import checked
    from seggen_core.config.params_file import parse_params, read_params_text
    from seggen_core.config.params_text import set_path
    from seggen_core.datasets.words import open_words
    from seggen_core.project.shipped import profile_file

    _refuse_others(arguments)
    source = profile_file(arguments.profile or _PROFILE, root=paths.root)
    text = read_params_text(source)
    file = _written_file(arguments.words, paths=paths)
    changes: dict[Keys, Any] = {
        ("dataset", "classes_file"): file,
        ("dataset", "reads"): file,
        ("dataset", "class_list"): [],
    }
    changes |= {("dataset", key): value for key, value in settings.items() if key != "name"}
    about = []
    if arguments.model is not None:
        more, line = _model_settings(arguments, paths=paths)
        changes |= more
        about.append(line)
    for path, value in changes.items():
        text = set_path(text, path, value)
    config = checked(parse_params(text, name=str(source)), source=source)
    reader = open_words(config.dataset, base=paths.root)
    background = config.dataset.background
    if "background" not in settings and any(
        not c.is_thing and c.name != background for c in reader.taxonomy
    ):
        text, background = set_path(text, ("dataset", "background"), None), None
        for method in _METHODS:
            text = set_path(text, (method, "ignore_background"), True)
        config = checked(parse_params(text, name=str(source)), source=source)
        reader = open_words(config.dataset, base=paths.root)
        about.append("the list has stuff: what a word doesn't cover is ignored, not background")
    slugs = [c.slug for c in reader.taxonomy if c.name != background]
    text = set_path(text, ("classes",), slugs)
    checked(parse_params(text, name=str(source)), source=source)
    words = ", ".join(slugs[:8]) + (", ..." if len(slugs) > 8 else "")
    return text, "\n".join([f"{len(slugs)} words ({words})", *about])


def _refuse_others(arguments: argparse.Namespace) -> None:
    from seggen_core.errors import ConfigError

    others = ("root", "images", "masks", "gpu_memory")
    given = [
        f"--{name.replace('_', '-')}" for name in others if getattr(arguments, name) is not None
    ]
    if arguments.dataset not in (None, "words"):
        given.append(f"--dataset {arguments.dataset}")
    if given:
        raise ConfigError(
            f"--words is a dataset without real images, so {' and '.join(given)} can't be used "
            "with it"
        )
    if arguments.revision is not None and arguments.model is None:
        raise ConfigError("--revision is the commit of a repository; name it as --model")


def _written_file(file: Path, *, paths: "ProjectPaths") -> str:
    """Return the list's place as params.yaml names it: relative to the project if it lies in it.

    Raises:
        DatasetError: there is no such file.
    """
    from seggen_core.errors import DatasetError

    if not file.is_file():
        raise DatasetError(f"there is no file {file}; expected a list of words: --words FILE")
    return written_path(file, paths=paths)


def _model_settings(
    arguments: argparse.Namespace, *, paths: "ProjectPaths"
) -> tuple[dict[Keys, Any], str]:
    """Return what follows from a model: its place, its size, and settings that fit any model."""
    from seggen_core.project.weights import read_json_object

    source, revision = _place(arguments, paths=paths)
    configs = _configurations(source, revision=revision, paths=paths)
    cure = "name the folder or repository of a Stable Diffusion pipeline: --model"
    unet = read_json_object(configs / "unet" / "config.json", cure=cure)
    size, side = _sizes(unet, read_json_object(configs / "vae" / "config.json", cure=cure))
    sampling = {
        "scheduler": "DPMSolverMultistepScheduler",
        "num_inference_steps": 25,
        "guidance_scale": 7.5,
        "micro_batch_size": 4,
    }
    features = size
    while features > _MAX_FEATURES:
        features //= 2
    changes: dict[Keys, Any] = {
        ("dataset", "image_size"): size,
        ("foundation", "source"): source,
        ("foundation", "revision"): revision,
        ("foundation", "reads"): source if revision is None else "data/code/none.json",
        ("foundation", "preview"): sampling,
        ("seediff", "cross_attention_resolution"): side,
        ("seediff", "affinity"): "rows",
        ("seediff", "keep_attention"): False,  # 38 MB for an image of 512 pixels
        ("diffumask", "affinity_net"): {"feature_size": features},
        ("train_seg", "hrnet", "stem_stride"): 4,
        ("train_seg", "hrnet", "backbone_kwargs"): {},
        ("train_seg", "common", "num_steps"): 5000,
    }
    for method in _METHODS:
        changes[method, "sampling"] = sampling
        changes[method, "samples_per_class"] = _SAMPLES[method]
        changes[method, "cross_attention_layers"] = None
        changes[method, "pamr_dilations"] = [1, 2, 4, 8]
    line = "segmenters are trained from scratch; --segmenter names a pretrained Mask2Former"
    if arguments.segmenter not in (None, "none"):
        more, line = pretrained_segmenter(arguments.segmenter)
        changes |= more
        for arm in ("seediff", "diffumask", "seediff_diffumask"):
            changes["variants", arm, "model"] = "mask2former"
    return changes, f"images of {size} pixels by {source}\n{line}"


def _place(arguments: argparse.Namespace, *, paths: "ProjectPaths") -> tuple[str, str | None]:
    """Return the model as params.yaml names it, and the commit of a repository.

    Raises:
        ConfigError: the Hub can't be asked for the newest commit.
        FoundationError: there is no such folder.
    """
    from seggen_core.commands.hub import HubError, newest_files
    from seggen_core.errors import ConfigError, FoundationError

    name = arguments.model
    if Path(name).is_dir():
        return written_path(Path(name), paths=paths), None
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise FoundationError(
            f"{name} is neither a folder nor a repository of the Hub (owner/name): --model"
        )
    if arguments.revision:
        return name, arguments.revision
    try:
        return name, newest_files(name)[0]
    except HubError as reason:
        raise ConfigError(
            f"{name} is no folder, and the Hub can't be asked for its commit ({reason}); check the "
            "name and the network, or give the commit as --revision"
        ) from None


def _configurations(source: str, *, revision: str | None, paths: "ProjectPaths") -> Path:
    """Return a folder with the configurations of a pipeline; those of a repository are fetched.

    Raises:
        FoundationError: they can't be had.
    """
    from seggen_core.commands.hub import HubError, fetch_files
    from seggen_core.errors import FoundationError

    if revision is None:
        return paths.root / source
    files = ("model_index.json", "unet/config.json", "vae/config.json")
    try:
        return fetch_files(source, revision=revision, files=files)
    except HubError as reason:
        raise FoundationError(
            f"the configurations of {source} at {revision} can't be fetched ({reason}); check the "
            "name and the network, or give a folder: --model"
        ) from None


def _sizes(unet: Mapping[str, Any], vae: Mapping[str, Any]) -> tuple[int, int]:
    """Return the side of a model's images, and that of the attention that seeds come from.

    The second is 16 if the network attends there, else the next finer one (SDXL: 32), else the
    finest.

    Raises:
        FoundationError: the configurations don't say.
    """
    from seggen_core.errors import FoundationError

    blocks, sample = vae.get("block_out_channels"), unet.get("sample_size")
    kinds = unet.get("down_block_types")
    if not isinstance(sample, int) or not isinstance(blocks, list) or not isinstance(kinds, list):
        raise FoundationError(
            "the configurations of the model don't say how large its images are (sample_size, "
            "block_out_channels, down_block_types): name another one as --model"
        )
    sides = sorted(sample >> i for i, kind in enumerate(kinds) if "CrossAttn" in str(kind))
    if not sides:
        raise FoundationError("the model's UNet has no cross-attention: name another as --model")
    return sample * 2 ** (len(blocks) - 1), next((s for s in sides if s >= 16), sides[-1])
