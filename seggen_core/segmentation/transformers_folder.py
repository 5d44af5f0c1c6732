"""Networks of transformers: built from a configuration, and loaded from its folders and the Hub."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from seggen_core.config import SegmenterConfig
from seggen_core.errors import ConfigError, FoundationError
from seggen_core.project.weights import check_loading
from seggen_core.segmentation.segmenter import segmenter_cure

Network = TypeVar("Network", bound=PreTrainedModel)

_COMMIT = re.compile(r"[0-9a-f]{40}")

_HEAD = ("class_predictor.", "criterion.")
"""Parts of a pretrained network that other classes replace."""


def network_fields(config: SegmenterConfig, id2label: Mapping[int, str]) -> dict[str, Any]:
    """Return the fields of a network's configuration: the architecture, and the classes."""
    names = {label: i for i, label in id2label.items()}
    return {**config.architecture, "id2label": dict(id2label), "label2id": names}


def build_network(
    kind: type[Network], configuration: type[PreTrainedConfig], fields: Mapping[str, Any]
) -> Network:
    """Build a network from fields of its configuration, with random weights.

    Raises:
        ConfigError: there is no such network.
    """
    try:
        with quiet_transformers():
            return kind(configuration(**fields))
    except (
        StrictDataclassError,
        TypeError,
        ValueError,
        KeyError,
        AttributeError,
        RuntimeError,
    ) as error:
        section = configuration.model_type
        raise ConfigError(
            f"transformers can't build train_seg.{section}.architecture: {error}"
        ) from error


def load_pretrained(
    kind: type[Network], config: SegmenterConfig, *, base: Path, fields: Mapping[str, Any]
) -> Network:
    """Load `config.source`; the class head, and nothing else, gets random weights.

    Raises:
        FoundationError: it isn't there, isn't pinned, or doesn't fit.
    """
    source, revision, section = str(config.source), config.revision, config.model
    name = kind.__name__.removesuffix("ForUniversalSegmentation")
    local = (base / source).is_dir()
    if not local and (revision is None or not _COMMIT.fullmatch(revision)):
        raise FoundationError(
            f"train_seg.{section}.source {source} is neither a folder here nor a hub repository "
            f"pinned by commit (revision: {revision!r}); set train_seg.{section}.revision to the "
            "40-digit commit to load"
        )
    try:
        with quiet_transformers():
            network, loading = kind.from_pretrained(
                str(base / source) if local else source,
                revision=revision or "main",
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **fields,
            )
    # The user's files: transformers raises whatever it meets in them.
    except Exception as error:
        raise FoundationError(
            f"can't load a {name} from {source} (revision {revision}): {error}"
        ) from error
    missing = [*loading["missing_keys"], *(entry[0] for entry in loading["mismatched_keys"])]
    unfit = sorted(name for name in missing if not name.startswith(_HEAD))
    if unfit:
        raise FoundationError(
            f"{source} (revision {revision}) doesn't fill this {name}: {len(unfit)} "
            f"parameters are missing or of another shape, e.g. {unfit[0]}; "
            f"train_seg.{section}.architecture mustn't change the shape of pretrained layers"
        )
    trained: Network = network.train()
    return trained


def save_network(network: PreTrainedModel, folder: Path) -> None:
    """Write a transformers folder."""
    with quiet_transformers():
        network.save_pretrained(folder)


def load_saved(kind: type[Network], folder: Path) -> Network:
    """Inverse of `save_network`, for a segmenter's folder.

    Raises:
        FoundationError: the weights are not those of the configuration.
    """
    with quiet_transformers():
        network, loading = kind.from_pretrained(
            folder,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    check_loading(loading, part=f"the segmenter in {folder}", cure=segmenter_cure(folder))
    loaded: Network = network
    return loaded


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers: bars for files that take milliseconds, warnings of other backbones."""
    bars, verbosity = (
        transformers_logging.is_progress_bar_enabled(),
        transformers_logging.get_verbosity(),
    )
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
